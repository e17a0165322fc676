//! A writer and a reader of the sops file format (JSON form), for there is no sops to be had here.
//!
//! Owns values, their authentication, and the file's MAC; the data key's age files are made and
//! opened by the real age. Follows sops 3.x: AES-256-GCM with a 32-byte IV, the key's path as
//! additional data, an upper-case SHA-512 over all plaintexts as MAC.
#![allow(
    dead_code,
    reason = "each test binary uses another part of this module"
)]
#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is a failure with a place"
)]

use std::fmt::Write;

use aes_gcm::aead::consts::U32;
use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::aes::Aes256;
use aes_gcm::{AesGcm, Key, Nonce};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};

type Cipher = AesGcm<Aes256, U32>;

const TAG_BYTES: usize = 16;
/// The file's only date; the MAC is bound to it.
pub(crate) const LAST_MODIFIED: &str = "2026-11-22T00:00:00Z";

/// `ENC[AES256_GCM,..]` for one value. `iv` is any number that no other value of the file has.
fn encrypt(data_key: &[u8], aad: &str, value: &str, iv: u8) -> String {
    let iv = [iv; 32];
    let cipher = Cipher::new(Key::<Cipher>::from_slice(data_key));
    let payload = Payload {
        msg: value.as_bytes(),
        aad: aad.as_bytes(),
    };
    let sealed = cipher.encrypt(Nonce::from_slice(&iv), payload).unwrap();
    let (data, tag) = sealed.split_at(sealed.len() - TAG_BYTES);
    let [data, iv, tag] = [data, &iv, tag].map(|part| STANDARD.encode(part));
    format!("ENC[AES256_GCM,data:{data},iv:{iv},tag:{tag},type:str]")
}

fn decrypt(data_key: &[u8], aad: &str, text: &str) -> Option<String> {
    let inner = text
        .strip_prefix("ENC[AES256_GCM,")?
        .strip_suffix(",type:str]")?;
    let mut parts = inner.split(',').map(|part| part.split_once(':'));
    let mut next = || STANDARD.decode(parts.next()??.1).ok();
    let (data, iv, tag) = (next()?, next()?, next()?);
    let cipher = Cipher::new(Key::<Cipher>::from_slice(data_key));
    let payload = Payload {
        msg: &[data, tag].concat(),
        aad: aad.as_bytes(),
    };
    let plain = cipher.decrypt(Nonce::from_slice(&iv), payload).ok()?;
    Some(String::from_utf8(plain).unwrap())
}

fn mac_of<'a>(values: impl Iterator<Item = &'a str>) -> String {
    let mut hash = Sha512::new();
    values.for_each(|value| hash.update(value));
    hash.finalize()
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02X}").unwrap();
            text
        })
}

/// A whole file. `keys` are pairs of a recipient and the data key as an armoured age file to it.
pub(crate) fn write(
    data_key: &[u8],
    secrets: &[(String, String)],
    keys: &[(String, String)],
) -> String {
    let mut file = Map::new();
    for (iv, (name, value)) in (1..).zip(secrets) {
        file.insert(
            name.clone(),
            encrypt(data_key, &format!("{name}:"), value, iv).into(),
        );
    }
    let mac = mac_of(secrets.iter().map(|(_, value)| value.as_str()));
    let age: Vec<_> = keys
        .iter()
        .map(|(recipient, enc)| json!({"recipient": recipient, "enc": enc}))
        .collect();
    file.insert(
        "sops".to_owned(),
        json!({
            "age": age,
            "lastmodified": LAST_MODIFIED,
            "mac": encrypt(data_key, LAST_MODIFIED, &mac, 0),
            "version": "3.9.0",
        }),
    );
    serde_json::to_string_pretty(&Value::Object(file)).unwrap()
}

/// The armoured age files of the data key, in their order.
pub(crate) fn encrypted_keys(file: &str) -> Vec<String> {
    let file: Value = serde_json::from_str(file).unwrap();
    let entries = file["sops"]["age"].as_array().unwrap();
    entries
        .iter()
        .map(|entry| entry["enc"].as_str().unwrap().to_owned())
        .collect()
}

/// All values with their names, once each of them and the MAC has proved authentic.
pub(crate) fn read(file: &str, data_key: &[u8]) -> Option<Vec<(String, String)>> {
    let file: Map<String, Value> = serde_json::from_str(file).unwrap();
    let mut secrets = Vec::new();
    for (name, value) in file.iter().filter(|(name, _)| *name != "sops") {
        let plain = decrypt(data_key, &format!("{name}:"), value.as_str()?)?;
        secrets.push((name.clone(), plain));
    }
    let sops = &file["sops"];
    let mac = decrypt(
        data_key,
        sops["lastmodified"].as_str()?,
        sops["mac"].as_str()?,
    )?;
    (mac == mac_of(secrets.iter().map(|(_, value)| value.as_str()))).then_some(secrets)
}
