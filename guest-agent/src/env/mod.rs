//! The environment that the host gives to the instance: checked names and values, rendered once and
//! written to `/run/seed/env`. Services opt in through `EnvironmentFile=`; the manager's own environment
//! is left alone.
//!
//! Values may be secrets: nothing here logs or prints one.

mod render;
mod writer;

use std::{collections::BTreeMap, fmt, io, path::PathBuf};

use seed_protocol::env::{MAX_ASSIGNMENT_BYTES, MAX_TOTAL_BYTES};
use thiserror::Error;

pub use render::render;
pub use writer::write;

use crate::systemd;

/// Names that describe an image's process and not the instance.
const DROPPED: [&str; 6] = ["PATH", "HOME", "TERM", "HOSTNAME", "PWD", "SHLVL"];

/// How much of a bad name an error shows.
const SHOWN_NAME_CHARS: usize = 64;

/// Why an environment is refused or cannot be written.
#[derive(Debug, Error)]
pub enum EnvError {
    /// An entry without a `=`. Its text may be a secret, so only its place is told.
    #[error("environment entry {index} has no \"=\"")]
    NoAssignment {
        /// Counted from 1.
        index: usize,
    },
    /// A name that neither a shell nor systemd would take.
    #[error(
        "environment name {name:?} is not an identifier: letters, digits and \"_\", not starting with a digit"
    )]
    Name {
        /// The name, cut when long.
        name: String,
    },
    /// A value with a zero byte in it.
    #[error("the value of environment variable {name} has a zero byte")]
    Nul {
        /// The variable.
        name: String,
    },
    /// One variable that no program could be started with.
    #[error("environment variable {name} is longer than {MAX_ASSIGNMENT_BYTES} bytes")]
    TooLong {
        /// The variable.
        name: String,
    },
    /// All of it is too much.
    #[error("the environment has {bytes} bytes, more than {MAX_TOTAL_BYTES}")]
    TooMuch {
        /// What it has.
        bytes: usize,
    },
    /// The file cannot be written.
    #[error("{} cannot be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The name of an environment variable: `[A-Za-z_][A-Za-z0-9_]*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EnvKey(String);

impl EnvKey {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for EnvKey {
    type Error = EnvError;

    fn try_from(name: &str) -> Result<Self, EnvError> {
        let letter = |c: char| c == '_' || c.is_ascii_alphabetic();
        let mut chars = name.chars();
        if chars.next().is_some_and(letter) && chars.all(|c| letter(c) || c.is_ascii_digit()) {
            return Ok(Self(name.to_owned()));
        }
        Err(EnvError::Name {
            name: name.chars().take(SHOWN_NAME_CHARS).collect(),
        })
    }
}

/// A checked environment. A name appears once; the last assignment won.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment {
    variables: BTreeMap<EnvKey, Vec<u8>>,
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.variables.keys().map(EnvKey::as_str))
            .finish()
    }
}

impl Environment {
    /// Checks `NAME=value` entries. What belongs to an image (`PATH`, `HOME`...) is dropped.
    pub fn parse<E: AsRef<[u8]>>(entries: &[E]) -> Result<Self, EnvError> {
        let bytes = entries.iter().map(|entry| entry.as_ref().len()).sum();
        if bytes > MAX_TOTAL_BYTES {
            return Err(EnvError::TooMuch { bytes });
        }
        let mut variables = BTreeMap::new();
        for (index, entry) in entries.iter().enumerate() {
            if let Some((key, value)) = assignment(index + 1, entry.as_ref())? {
                variables.insert(key, value);
            }
        }
        Ok(Self { variables })
    }

    /// Adds a variable that nobody has given. A value that would have been refused is left out.
    pub fn add_default(&mut self, name: &str, value: &str) {
        let Ok(key) = EnvKey::try_from(name) else {
            return;
        };
        if !value.is_empty() && !value.contains('\0') {
            let value = || value.as_bytes().to_vec();
            self.variables.entry(key).or_insert_with(value);
        }
    }

    /// Names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&EnvKey, &[u8])> {
        self.variables
            .iter()
            .map(|(key, value)| (key, value.as_slice()))
    }

    /// How many variables there are.
    pub fn len(&self) -> usize {
        self.variables.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.variables.is_empty()
    }

    /// The names that are left out of the file: a value in it that systemd does not take for text ([`is_text`]), and it
    /// refuses the whole file, and no service that names it would start.
    pub fn left_out(&self) -> Vec<&str> {
        self.iter()
            .filter(|(_, value)| !is_text(value))
            .map(|(key, _)| key.as_str())
            .collect()
    }
}

/// True for what systemd passes on, whichever way it is given an environment.
fn is_text(value: &[u8]) -> bool {
    std::str::from_utf8(value).is_ok_and(systemd::is_text)
}

fn assignment(index: usize, entry: &[u8]) -> Result<Option<(EnvKey, Vec<u8>)>, EnvError> {
    let split = entry.iter().position(|byte| *byte == b'=');
    let (name, value) = entry.split_at(split.ok_or(EnvError::NoAssignment { index })?);
    let key = EnvKey::try_from(String::from_utf8_lossy(name).as_ref())?;
    if DROPPED.contains(&key.as_str()) {
        return Ok(None);
    }
    let name = || key.as_str().to_owned();
    if entry.len() > MAX_ASSIGNMENT_BYTES {
        return Err(EnvError::TooLong { name: name() });
    }
    // `value` still begins with the sign that was found.
    let value = &value[1..];
    if value.contains(&0) {
        return Err(EnvError::Nul { name: name() });
    }
    Ok(Some((key, value.to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_an_image_is_dropped_and_the_last_word_wins() {
        let environment = Environment::parse(&["PATH=/bin", "A=1", "HOME=/", "A=2=3"]).unwrap();
        let all: Vec<_> = environment.iter().map(|(k, v)| (k.as_str(), v)).collect();
        assert_eq!(all, [("A", &b"2=3"[..])]);
    }

    #[test]
    fn a_name_that_is_no_identifier_is_refused_by_name() {
        for name in ["1A", "", "A-B", "A B", "\u{e4}", "A\n"] {
            let error = Environment::parse(&[format!("{name}=x")]).unwrap_err();
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
    }

    #[test]
    fn no_error_ever_shows_a_value() {
        let long = format!("A={}", "s3cret".repeat(MAX_ASSIGNMENT_BYTES / 6 + 1));
        for entry in ["s3cret-without-sign", "A=s3cret\0", long.as_str()] {
            let error = Environment::parse(&[entry]).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("s3cret"));
        }
        let environment = Environment::parse(&["A=s3cret"]).unwrap();
        assert_eq!(format!("{environment:?}"), "{\"A\"}");
    }

    #[test]
    fn too_much_altogether_is_refused() {
        let entries = vec![format!("A={}", "x".repeat(100 * 1024)); 11];
        assert!(matches!(
            Environment::parse(&entries),
            Err(EnvError::TooMuch { .. })
        ));
    }

    #[test]
    fn values_that_would_spoil_the_whole_file_are_known() {
        let environment = Environment::parse(&[&b"A=\r"[..], b"B=\xff", b"C=\t\n ok"]).unwrap();
        assert_eq!(environment.left_out(), ["B"]);
        let environment = Environment::parse(&["A=a\u{ffff}", "B=\u{fffd}"]).unwrap();
        assert_eq!(environment.left_out(), ["A"]);
    }
}
