//! `ExecProcess`: arguments, environment, directory, user.
#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    bodies::run("exec", input);
});
