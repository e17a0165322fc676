//! Volumes and swap space while the guest runs: no path that is taken leads up.
#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    bodies::run("volumes", input);
});
