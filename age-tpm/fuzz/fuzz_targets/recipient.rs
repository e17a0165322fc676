//! Recipient payloads and texts: no panic, and both spellings come back as the same recipient.
#![no_main]

use age_tpm::Recipient;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(recipient) = Recipient::from_bytes(bytes) {
        assert_eq!(recipient.compressed(), bytes);
        assert_eq!(recipient.to_tpm_text().parse(), Ok(recipient.clone()));
        assert_eq!(recipient.to_tag_text().parse(), Ok(recipient));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = text.parse::<Recipient>();
    }
});
