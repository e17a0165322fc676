//! Mount points, volume names, modes, mount options, PCI paths.
#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    bodies::run("places", input);
});
