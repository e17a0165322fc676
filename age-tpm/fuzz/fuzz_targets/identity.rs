//! Identity payloads, texts and files: what is accepted is written back unchanged.
#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    bodies::run("identity", input);
});
