//! What each fuzz target does with its input: the way of the library itself, and then what must hold of what came out.
//! A target is true when the input was taken, false when it was refused; a panic is a finding. The fuzzer runs these,
//! and so do the crate's tests over the corpus.

use std::{io, path::Path};

use age_core::{
    format::Stanza as AgeStanza,
    plugin::{Error, Result},
    secrecy::SecretString,
};
use age_plugin::{
    Callbacks, PluginHandler,
    identity::{self, IdentityPluginV1},
};
use age_tpm::{
    Identity, Recipient,
    identity::read_identities,
    plugin::Handler,
    provision,
    stanza::{P256TAG, Stanza, TPM_ECC},
    tpm::{KeyOptions, Public, Tpm, Transport, create_key},
};

/// What a target does.
pub(crate) type Body = fn(&[u8]) -> bool;

/// All of them. A corpus has the name of its target.
pub(crate) const TARGETS: [(&str, Body); 5] = [
    ("identity", identity),
    ("recipient", recipient),
    ("stanza", stanza),
    ("response", response),
    ("dialogue", dialogue),
];

/// Runs the target of this name.
pub(crate) fn run(name: &str, input: &[u8]) -> bool {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.expect("a target that is in the table").1(input)
}

/// A payload that is taken is written back as it was; a file may hold several.
fn identity(bytes: &[u8]) -> bool {
    let payload = Identity::from_bytes(bytes);
    if let Ok(identity) = &payload {
        assert_eq!(identity.to_bytes(), bytes);
        assert_eq!(identity.to_string().parse().as_ref(), Ok(identity));
    }
    payload.is_ok() | read_identities(bytes).is_ok_and(|found| !found.is_empty())
}

/// Both spellings come back as the same recipient.
fn recipient(bytes: &[u8]) -> bool {
    let payload = Recipient::from_bytes(bytes);
    if let Ok(recipient) = &payload {
        assert_eq!(recipient.compressed(), bytes);
    }
    let text = std::str::from_utf8(bytes).ok();
    let text = text.and_then(|text| text.parse::<Recipient>().ok());
    let found: Vec<Recipient> = payload.into_iter().chain(text).collect();
    for recipient in &found {
        assert_eq!(recipient.to_tpm_text().parse().as_ref(), Ok(recipient));
        assert_eq!(recipient.to_tag_text().parse().as_ref(), Ok(recipient));
    }
    !found.is_empty()
}

/// The first byte says which kind; arguments, with a space between, end at a newline; the body follows.
fn age_stanza(kind: u8, input: &[u8]) -> AgeStanza {
    let end = input.iter().position(|byte| *byte == b'\n');
    let (line, body) = input.split_at(end.unwrap_or(input.len()));
    let line = String::from_utf8_lossy(line);
    let tag = if kind & 1 == 0 { P256TAG } else { TPM_ECC };
    AgeStanza {
        tag: tag.to_owned(),
        args: line.split(' ').map(str::to_owned).collect(),
        body: body.get(1..).unwrap_or_default().to_vec(),
    }
}

fn stanza(input: &[u8]) -> bool {
    let Some((kind, rest)) = input.split_first() else {
        return false;
    };
    let parsed = Stanza::parse(&age_stanza(*kind, rest));
    parsed
        .expect("a stanza with one of our tags is ours")
        .is_ok()
}

/// Pieces of an input, each after its length in two bytes, big-endian. The last may be short.
fn pieces(mut input: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let Some((length, rest)) = input.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let piece;
        (piece, input) = rest.split_at(length);
        pieces.push(piece);
    }
    pieces
}

/// A TPM that plays back what it was given.
struct Playback(std::vec::IntoIter<Vec<u8>>);

impl Transport for Playback {
    fn transact(&mut self, _: &[u8]) -> io::Result<Vec<u8>> {
        let mut answer = self.0.next().ok_or(io::ErrorKind::UnexpectedEof)?;
        // The real transports deliver at least a whole header.
        answer.resize(answer.len().max(10), 0);
        Ok(answer)
    }
}

/// Whatever is asked of a TPM that answers anything. Taken is a public area among the answers.
fn response(input: &[u8]) -> bool {
    let answers: Vec<Vec<u8>> = pieces(input).into_iter().map(<[u8]>::to_vec).collect();
    let tpm = || {
        let transport = Playback(answers.clone().into_iter());
        Tpm::with_transport(Box::new(transport), "playback".to_owned())
    };
    let _ = provision::stored(&mut tpm());
    let _ = create_key(&mut tpm(), KeyOptions::default());
    let _ = provision::ensure(&mut tpm(), Path::new("/dev/null/none"));
    answers.iter().any(|answer| Public::parse(answer).is_ok())
}

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

/// A whole `identity-v1` run without a TPM. A piece's first byte says what it is: an identity, the beginning of a file, or
/// one of the two stanzas in it. Taken are identities that are all whole.
fn dialogue(input: &[u8]) -> bool {
    let tcti = "/dev/null".parse();
    let mut plugin = Handler::new(tcti, None)
        .identity_v1()
        .expect("it opens nothing");
    let mut files: Vec<Vec<AgeStanza>> = Vec::new();
    let mut identities = Vec::new();
    for piece in pieces(input) {
        match (piece.split_first(), files.last_mut()) {
            (Some((kind, rest)), _) if kind % 4 == 0 => {
                let index = identities.len();
                identities.push(plugin.add_identity(index, "tpm", rest).is_ok());
            }
            (Some((kind, _)), _) if kind % 4 == 1 => files.push(Vec::new()),
            (Some((kind, rest)), Some(file)) => file.push(age_stanza(*kind, rest)),
            _ => {}
        }
    }
    let count = files.len();
    let answered = plugin
        .unwrap_file_keys(files, Mute)
        .expect("nobody is asked");
    assert!(
        answered.len() <= count && answered.values().all(|file| file.is_err()),
        "a key from nowhere"
    );
    !identities.is_empty() && identities.into_iter().all(|whole| whole)
}
