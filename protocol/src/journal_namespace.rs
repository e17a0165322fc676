//! The name of a journal namespace (`LogNamespace=` of systemd.exec(5)), which host and guest check alike: it becomes
//! part of a path on both sides. Follows `log_namespace_name_valid` of systemd.

use std::fmt;

use thiserror::Error;

/// The most namespaces of one guest that are looked at.
pub const MAX_NAMESPACES: usize = 64;

/// What a file name may have beside the machine's id and a dot: `NAME_MAX` less 33.
const MAX_BYTES: usize = 222;

/// A name that can be a namespace's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JournalNamespace(String);

/// Not such a name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no name of a journal namespace: use letters, digits and \":-_.@\", at most {MAX_BYTES} of them"
)]
pub struct JournalNamespaceError(String);

impl TryFrom<&str> for JournalNamespace {
    type Error = JournalNamespaceError;

    fn try_from(name: &str) -> Result<Self, Self::Error> {
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.@".contains(&byte);
        let is_good = (1..=MAX_BYTES).contains(&name.len()) && name.bytes().all(is_known);
        if is_good && name != "." && name != ".." {
            Ok(Self(name.to_owned()))
        } else {
            let start = name.chars().take(MAX_BYTES).collect();
            Err(JournalNamespaceError(start))
        }
    }
}

impl JournalNamespace {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JournalNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_part_of_a_file_name_and_never_a_path() {
        for good in ["app", "a-b_c.d:e@f", "7", &"n".repeat(222)] {
            assert_eq!(JournalNamespace::try_from(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "../x",
            "a b",
            "a\\b",
            "\u{e9}",
            "a\n",
            &"n".repeat(223),
        ] {
            let error = JournalNamespace::try_from(bad).unwrap_err();
            assert!(error.to_string().contains("no name of a journal namespace"));
        }
    }
}
