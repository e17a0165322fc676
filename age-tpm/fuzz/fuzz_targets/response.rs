//! A TPM that answers anything: no panic, whatever is asked of it.
#![no_main]

use std::io;
use std::path::Path;

use age_tpm::provision::stored;
use age_tpm::tpm::{KeyOptions, Public, Tpm, Transport, create_key};
use libfuzzer_sys::fuzz_target;

/// Plays back what the fuzzer wrote.
struct Playback(Vec<Vec<u8>>);

impl Transport for Playback {
    fn transact(&mut self, _: &[u8]) -> io::Result<Vec<u8>> {
        // The real transports deliver at least a whole header.
        match self.0.pop() {
            Some(mut answer) => {
                answer.resize(answer.len().max(10), 0);
                Ok(answer)
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fuzz_target!(|answers: Vec<Vec<u8>>| {
    for answer in &answers {
        let _ = Public::parse(answer);
    }
    let tpm = || Tpm::with_transport(Box::new(Playback(answers.clone())), "playback".to_owned());
    let _ = stored(&mut tpm());
    let _ = create_key(&mut tpm(), KeyOptions::default());
    let _ = age_tpm::provision::ensure(&mut tpm(), Path::new("/dev/null/none"));
});
