//! Stanzas of both kinds with any arguments and body: no panic.
#![no_main]

use age_core::format::Stanza as AgeStanza;
use age_tpm::stanza::{P256TAG, Stanza, TPM_ECC};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, Vec<String>, Vec<u8>)| {
    let (new, args, body) = input;
    let tag = if new { P256TAG } else { TPM_ECC };
    assert!(
        Stanza::parse(&AgeStanza {
            tag: tag.to_owned(),
            args,
            body
        })
        .is_some()
    );
});
