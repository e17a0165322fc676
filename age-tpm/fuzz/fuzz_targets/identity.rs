//! Identity payloads, texts and files: no panic, and what is accepted is written back unchanged.
#![no_main]

use age_tpm::Identity;
use age_tpm::identity::read_identities;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(identity) = Identity::from_bytes(bytes) {
        assert_eq!(identity.to_bytes(), bytes);
        assert_eq!(identity.to_string().parse(), Ok(identity));
    }
    let _ = read_identities(bytes);
});
