//! New sizes for memory that is mounted: UpdateEphemeralMounts.
#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    bodies::run("memory", input);
});
