//! The answer to `ReadJournal`, as a hostile guest could send it.
#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    bodies::run("batch", input);
});
