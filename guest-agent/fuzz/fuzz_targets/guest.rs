//! The calls of seed.v1: places in a journal, patterns and names of units.
#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    bodies::run("guest", input);
});
