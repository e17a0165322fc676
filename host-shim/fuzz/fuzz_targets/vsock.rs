//! The vsock device's connections, between a hostile guest and callers on the host.
#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    bodies::run("vsock", input);
});
