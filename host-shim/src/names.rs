//! Names that come from outside and end up in paths and command lines: parsed once, trusted after.
//!
//! The grammar of [`Namespace`] and [`ContainerId`] is containerd's (`pkg/identifiers`): alphanumeric
//! words joined by single `.`, `_` or `-`; ours is a little wider, as it lets separators repeat and end
//! a name.

use std::fmt;

use thiserror::Error;

/// The longest name, as in containerd.
pub const MAX_NAME_BYTES: usize = 76;

/// Why a name was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// Nothing at all.
    #[error("{what} is empty")]
    Empty {
        /// Which kind of name.
        what: &'static str,
    },
    /// More than [`MAX_NAME_BYTES`].
    #[error("{what} has {length} bytes, at most {MAX_NAME_BYTES} are allowed")]
    TooLong {
        /// Which kind of name.
        what: &'static str,
        /// Its length.
        length: usize,
    },
    /// A character that is not allowed there.
    #[error(
        "{what} {name:?} must begin with a letter or digit and have only letters, digits, '.', '_' and '-'"
    )]
    Grammar {
        /// Which kind of name.
        what: &'static str,
        /// The refused name.
        name: String,
    },
}

fn check(what: &'static str, name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong {
            what,
            length: name.len(),
        });
    }
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(inner) {
        return Err(NameError::Grammar {
            what,
            name: name.to_owned(),
        });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $type {
            type Error = NameError;
            fn try_from(name: &str) -> Result<Self, NameError> {
                check($what, name)?;
                Ok(Self(name.to_owned()))
            }
        }

        impl std::str::FromStr for $type {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::try_from(name)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<std::path::Path> for $type {
            fn as_ref(&self) -> &std::path::Path {
                self.0.as_ref()
            }
        }
    };
}

name! {
    /// The id of a container, which is the name of an instance.
    ContainerId, "container id"
}

name! {
    /// A containerd namespace.
    Namespace, "namespace"
}

name! {
    /// The name of a volume: `data` in `seed.storage.data`.
    VolumeName, "volume name"
}

name! {
    /// The id of a process in a container, made by whoever asks for an exec.
    ExecId, "exec id"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_containerd_makes_are_taken() {
        let pod = "f".repeat(64);
        for name in ["demo", "a", "k8s.io", "web-1_2.3", pod.as_str()] {
            assert_eq!(ContainerId::try_from(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn names_that_would_leave_their_directory_are_refused() {
        for name in ["..", ".", "/etc", "a/b", "-rf", "a b", "a\n", "ä", "a\0"] {
            assert!(ContainerId::try_from(name).is_err(), "{name:?} was taken");
        }
        assert_eq!(
            Namespace::try_from(""),
            Err(NameError::Empty { what: "namespace" })
        );
        assert!(matches!(
            ContainerId::try_from("x".repeat(77).as_str()),
            Err(NameError::TooLong { length: 77, .. })
        ));
    }
}
