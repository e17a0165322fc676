//! A signing key for TLS that the TPM holds, as a file that OpenSSL opens by its provider for TPMs.
//!
//! Owns the key's making and the file's form, PEM of `TSS2 PRIVATE KEY`. It never signs: whoever opens the file does. Follows
//! the "ASN.1 Specification for TPM 2.0 Key Files" (draft-bottomley-tpm2-keys), section 3, and TPM 2.0 Library Part 3,
//! TPM2_Create.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::key::{KeyOptions, NewKey, create_under};
use super::parent::Parent;
use super::public::{SrkUnique, signing_key_template};
use super::{RH_OWNER, Tpm, TpmError};

const LABEL: &str = "TSS2 PRIVATE KEY";
/// Characters of a line of PEM (RFC 7468, section 2).
const LINE: usize = 64;

/// Tags of DER (X.690, section 8).
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
/// OBJECT IDENTIFIER 2.23.133.10.1.3: a key that TPM2_Load takes.
const LOADABLE: [u8; 8] = [0x06, 0x06, 0x67, 0x81, 0x05, 0x0a, 0x01, 0x03];
/// `emptyAuth [0] EXPLICIT BOOLEAN`, true: nobody is to be asked for a PIN.
const EMPTY_AUTH: [u8; 5] = [0xa0, 0x03, 0x01, 0x01, 0xff];

/// Makes a P-256 key that signs, under the owner hierarchy's storage root key, and gives its file's text.
///
/// As an age key without a PIN it is made with `noDA`: the provider's own keys are not, and three power cuts would lock
/// them for a while. The private half is wrapped by this TPM: the text is no secret elsewhere. Blocks.
///
/// # Errors
///
/// The TPM refused; see [`TpmError::remedy`].
pub fn create_signing_key(tpm: &mut Tpm) -> Result<String, TpmError> {
    let mut parent = Parent::transient(tpm, SrkUnique::Empty)?;
    let made = create_under(tpm, &parent, KeyOptions::default(), signing_key_template());
    parent.release(&mut *tpm);
    Ok(file(&made?))
}

fn file(key: &NewKey) -> String {
    let fields = [
        &LOADABLE[..],
        &EMPTY_AUTH,
        &element(INTEGER, &RH_OWNER.to_be_bytes()),
        &element(OCTET_STRING, &with_size(key.public.public().as_bytes())),
        &element(OCTET_STRING, &with_size(&key.private)),
    ];
    let text = STANDARD.encode(element(SEQUENCE, &fields.concat()));
    let mut pem = format!("-----BEGIN {LABEL}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(LINE));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem + &format!("-----END {LABEL}-----\n")
}

/// A structure of the TPM with its size in front, as it stands in commands.
fn with_size(bytes: &[u8]) -> Vec<u8> {
    let size = u16::try_from(bytes.len()).expect("the TPM gave it with a size of two bytes");
    [&size.to_be_bytes(), bytes].concat()
}

/// Tag, length and content.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let significant = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let mut element = vec![tag];
    match significant {
        [] => element.push(0),
        [short @ 0..=0x7f] => element.push(*short),
        long => {
            let count = u8::try_from(long.len()).expect("a length has at most eight bytes");
            element.push(0x80 | count);
            element.extend_from_slice(long);
        }
    }
    element.extend_from_slice(content);
    element
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_as_many_bytes_as_they_need() {
        let head = |length: usize| element(OCTET_STRING, &vec![7; length])[..].to_vec();
        assert_eq!(head(0), [4, 0]);
        assert_eq!(head(127)[..3], [4, 0x7f, 7]);
        assert_eq!(head(128)[..4], [4, 0x81, 0x80, 7]);
        assert_eq!(head(256)[..5], [4, 0x82, 1, 0, 7]);
        assert_eq!(head(256).len(), 4 + 256);
    }
}
