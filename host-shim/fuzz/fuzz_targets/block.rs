//! A block of journal entries, decoded, encoded again, and printed in every form.
#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    bodies::run("block", input);
});
