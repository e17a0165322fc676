//! A whole `identity-v1` run with hostile identities and stanzas and no TPM: no panic.
#![no_main]

use age_core::format::Stanza;
use age_core::plugin::{Error, Result};
use age_core::secrecy::SecretString;
use age_plugin::identity::{self, IdentityPluginV1};
use age_plugin::{Callbacks, PluginHandler};
use age_tpm::plugin::Handler;
use libfuzzer_sys::fuzz_target;

/// A client that answers nothing.
struct Mute;

impl Callbacks<identity::Error> for Mute {
    fn message(&mut self, _: &str) -> Result<()> {
        Ok(Err(Error::Unsupported))
    }

    fn confirm(&mut self, _: &str, _: &str, _: Option<&str>) -> Result<bool> {
        Ok(Err(Error::Unsupported))
    }

    fn request_public(&mut self, _: &str) -> Result<String> {
        Ok(Err(Error::Unsupported))
    }

    fn request_secret(&mut self, _: &str) -> Result<SecretString> {
        Ok(Err(Error::Fail))
    }

    fn error(&mut self, _: identity::Error) -> Result<()> {
        Ok(Ok(()))
    }
}

type Input = (Vec<Vec<u8>>, Vec<Vec<(bool, Vec<String>, Vec<u8>)>>);

fuzz_target!(|input: Input| {
    let (identities, files) = input;
    let tcti = "/dev/null".parse();
    let mut plugin = Handler::new(tcti, None)
        .identity_v1()
        .expect("it opens nothing");
    for (index, bytes) in identities.iter().enumerate() {
        let _ = plugin.add_identity(index, "tpm", bytes);
    }
    let stanza = |(new, args, body)| {
        let tag: &str = if new { "p256tag" } else { "tpm-ecc" };
        Stanza {
            tag: tag.to_owned(),
            args,
            body,
        }
    };
    let files = files
        .into_iter()
        .map(|file| file.into_iter().map(stanza).collect())
        .collect();
    let _ = plugin.unwrap_file_keys(files, Mute);
});
