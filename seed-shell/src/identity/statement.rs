//! What an owner signs to plant: the invite and everything that is planted with it, so that a signature cannot be
//! used for another source, other keys or other instances.
//!
//! ```text
//! seed plant 1
//! code <invite code>
//! uri <source>
//! keys <SHA-256 of .authorized_keys in hexadecimal, or - for none>
//! instance <name>                     one line each, in the order of the command line
//! ```
//!
//! Each line ends with a newline. It is signed as `ssh-keygen -Y sign -n plant@seed` signs a file. None of the values
//! holds a newline, and a code alone (the short form, which covers nothing else) is never such a text.

use std::fmt::Write;

use seed_shim::names::ContainerId;
use sha2::{Digest, Sha256};

/// What is planted.
#[derive(Debug, Clone, Copy)]
pub struct Statement<'s> {
    /// The invite.
    pub code: &'s str,
    /// The source.
    pub uri: &'s str,
    /// `.authorized_keys` as it is sent, where it is.
    pub keys: Option<&'s [u8]>,
    /// The instances that are named.
    pub instances: &'s [ContainerId],
}

impl Statement<'_> {
    /// The text that is signed.
    pub fn text(&self) -> String {
        let mut keys = String::new();
        match self.keys {
            None => keys.push('-'),
            Some(bytes) => {
                for byte in Sha256::digest(bytes) {
                    // Writing to a string does not fail.
                    let _ = write!(keys, "{byte:02x}");
                }
            }
        }
        let mut text = format!(
            "seed plant 1\ncode {}\nuri {}\nkeys {keys}\n",
            self.code, self.uri
        );
        for name in self.instances {
            text += &format!("instance {name}\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The SHA-256 is FIPS 180-2's of "abc".
    #[test]
    fn the_text_is_as_documented() {
        let statement = Statement {
            code: "abcd",
            uri: "silo:my-app",
            keys: Some(b"abc"),
            instances: &["web".parse().unwrap(), "db".parse().unwrap()],
        };
        assert_eq!(
            statement.text(),
            "seed plant 1\ncode abcd\nuri silo:my-app\n\
             keys ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n\
             instance web\ninstance db\n"
        );
        let bare = Statement {
            keys: None,
            instances: &[],
            ..statement
        };
        assert_eq!(
            bare.text(),
            "seed plant 1\ncode abcd\nuri silo:my-app\nkeys -\n"
        );
    }
}
