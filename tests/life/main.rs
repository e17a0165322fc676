//! Lives and deaths of instances over a stub VM, by the real programs: many starts and stops, every process killed at
//! every phase, shims that hang, commands that are cut short, full disks, what programs read, an ordinary user. After each, nothing may be left.
//!
//! Run through `cargo xtask test`; a part of a name as argument runs only what matches.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use seed_tests::Runner;

mod bench;
mod cycles;
mod deaths;
mod disk;
mod json;
mod ordinary;

fn main() -> ExitCode {
    let mut runner = Runner::from_args();
    if !bench::is_root() {
        runner.skip("life", "needs root: it mounts the instances' roots");
        return runner.finish();
    }
    match bench::Bench::make() {
        Ok(bench) => {
            cycles::run(&mut runner, &bench);
            deaths::run(&mut runner, &bench);
            disk::run(&mut runner, &bench);
            json::run(&mut runner, &bench);
            ordinary::run(&mut runner);
        }
        Err(reason) => runner.skip("life", &reason),
    }
    runner.finish()
}
