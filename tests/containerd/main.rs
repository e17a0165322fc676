//! The shim under real containerds of three releases. Most cases run over a stub VM and take a second; what
//! they cannot show, a guest that boots under the newest one does.
//!
//! Run through `cargo xtask test`; a part of a name as argument runs only what matches.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use seed_tests::{
    Runner,
    containerd::{Options, Programs},
};

use host::Host;

mod bench;
mod ctr;
mod deaths;
mod flood;
mod group;
mod guest;
mod host;
mod inline;
mod kept;
mod kubelet;
mod lives;
mod network;
mod pod;
mod restarts;
mod roots;
mod security;
mod slice;
mod still;

fn main() -> ExitCode {
    let mut runner = Runner::from_args();
    match Programs::find() {
        Ok(programs) if host::is_here() => {
            for version in programs.versions() {
                host::inside(&mut runner, &programs, version);
            }
        }
        Ok(programs) => {
            runner.case("containerd of every series is there", || programs.check());
            for version in programs.versions() {
                ctr::run(&mut runner, &programs, version);
                let options = Options {
                    network: true,
                    ..Options::default()
                };
                pod::run(
                    &mut runner,
                    &programs,
                    version,
                    "pods",
                    &options,
                    &pod::CASES,
                );
                inline::run(&mut runner, &programs, version);
            }
            if let Some(newest) = programs.versions().last() {
                let options = Options {
                    network: true,
                    sandboxer: true,
                    ..Options::default()
                };
                pod::run(
                    &mut runner,
                    &programs,
                    *newest,
                    "sandboxes",
                    &options,
                    &pod::CASES,
                );
                lives::run(&mut runner, &programs, *newest);
                still::run(&mut runner, &programs, *newest);
                deaths::run(&mut runner, &programs, *newest);
                roots::run(&mut runner, &programs, *newest);
                // At once: a boot without KVM is mostly the work of one processor.
                let host = Host::begin(&runner, &programs, *newest);
                guest::run(&mut runner, &programs, *newest);
                host.end(&mut runner);
            }
        }
        Err(reason) => runner.skip("containerd", &reason),
    }
    runner.finish()
}
