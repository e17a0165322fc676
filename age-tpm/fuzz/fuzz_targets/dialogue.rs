//! A whole `identity-v1` run with hostile identities and stanzas and no TPM.
#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    bodies::run("dialogue", input);
});
