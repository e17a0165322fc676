//! The VM cases. `one_boot` serves most of them from one instance; `failure` needs none or its own.
//!
//! Run through `cargo xtask test`, which builds programs and guest; a part of a name as argument runs
//! only what matches.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use seed_tests::{Lab, Runner};

mod env;
mod exec;
mod failure;
mod identity;
mod journal;
mod kata;
mod lifecycle;
mod machine;
mod one_boot;
mod plug;
mod refusal;
mod secrets;
mod shell;
mod smoke;
mod storage;
mod trust;

fn main() -> ExitCode {
    let mut runner = Runner::from_args();
    match Lab::find() {
        Ok(lab) => {
            refusal::run(&mut runner, &lab);
            one_boot::run(&mut runner, &lab);
            failure::run(&mut runner, &lab);
            machine::run(&mut runner, &lab);
            shell::run(&mut runner, &lab);
            kata::run(&mut runner, &lab);
        }
        Err(reason) => {
            for name in refusal::NAMES
                .iter()
                .chain(&one_boot::NAMES)
                .chain(&failure::NAMES)
                .chain(&machine::NAMES)
                .chain(&shell::NAMES)
                .chain(&kata::NAMES)
            {
                runner.skip(name, &reason);
            }
        }
    }
    runner.finish()
}
