//! Recipient payloads and texts: both spellings come back as the same recipient.
#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    bodies::run("recipient", input);
});
