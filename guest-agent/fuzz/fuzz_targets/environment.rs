//! What is written to `/run/seed/env` reads as what came.
#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    bodies::run("environment", input);
});
