//! A sops file with twenty secrets, opened one by one as sops-nix does at boot: the data key anew for each.
//!
//! In two ways. sops has age's library in its own process and starts nothing but the plugin: so does
//! [`Secrets::open_in_process`], with the `age` crate. [`Secrets::open_with_age`] starts the program `age` each time.

use std::cell::RefCell;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use age::{DecryptError, Decryptor};
use age_core::format::{FileKey, Stanza};
use age_tpm::Identity;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::client::{ask_to_unwrap, like_age, talk};
use crate::common::{command, run_ok};
use crate::sops;

const COUNT: usize = 20;

/// The file, and what is in it.
pub(crate) struct Secrets {
    file: String,
    plain: Vec<(String, String)>,
}

impl Secrets {
    /// For `identity` alone: whose entry comes first is another question, and the same one for every plugin.
    pub(crate) fn seal(age: &Path, identity: &Identity) -> Self {
        let plain: Vec<_> = (1..=COUNT)
            .map(|i| (format!("secret-{i:02}"), format!("the value of secret {i}")))
            .collect();
        let data_key: Vec<u8> = (0..32).collect();
        let to = identity.recipient().to_tag_text();
        let sealed = run_ok(command(age, None).args(["-a", "-r", &to]), &data_key);
        let keys = [(to, String::from_utf8(sealed).unwrap())];
        let file = sops::write(&data_key, &plain, &keys);
        Self { file, plain }
    }

    pub(crate) fn open_in_process(&self, identity: &str, plugin: &dyn Fn() -> Command) {
        self.open(|armored| {
            let base64: String = armored.lines().filter(|l| !l.starts_with('-')).collect();
            let file = STANDARD.decode(base64).unwrap();
            let identity = ThroughPlugin {
                identity,
                plugin,
                errors: RefCell::default(),
            };
            let decryptor = Decryptor::new(file.as_slice()).unwrap();
            let identities = std::iter::once(&identity as &dyn age::Identity);
            let mut reader = decryptor
                .decrypt(identities)
                .unwrap_or_else(|e| panic!("{e}: {}", identity.errors.borrow()));
            let mut data_key = Vec::new();
            reader.read_to_end(&mut data_key).unwrap();
            data_key
        });
    }

    pub(crate) fn open_with_age(&self, identity: &Path, age: &dyn Fn() -> Command) {
        self.open(|armored| run_ok(age().arg("-d").arg("-i").arg(identity), armored.as_bytes()));
    }

    fn open(&self, data_key: impl Fn(&str) -> Vec<u8>) {
        for secret in &self.plain {
            let key = &sops::encrypted_keys(&self.file)[0];
            let read = sops::read(&self.file, &data_key(key)).unwrap();
            assert!(read.contains(secret));
        }
    }
}

/// What an age library does with an identity that begins with `AGE-PLUGIN-`.
struct ThroughPlugin<'a> {
    identity: &'a str,
    plugin: &'a dyn Fn() -> Command,
    errors: RefCell<String>,
}

impl age::Identity for ThroughPlugin<'_> {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        self.unwrap_stanzas(std::slice::from_ref(stanza))
    }

    fn unwrap_stanzas(&self, stanzas: &[Stanza]) -> Option<Result<FileKey, DecryptError>> {
        let first = ask_to_unwrap(&[self.identity], stanzas);
        let mut plugin = (self.plugin)();
        let dialogue = talk(&mut plugin, "identity-v1", &first, like_age);
        self.errors.replace(dialogue.errors());
        let key = dialogue.of("file-key").next()?;
        let key = key.body.as_slice().try_into().unwrap();
        Some(Ok(FileKey::new(Box::new(key))))
    }
}
