//! Which journal namespaces there are: the folders beside the system's journal. Looks at names alone.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt, path::PathBuf};

use seed_protocol::{JournalNamespace, MAX_NAMESPACES};

/// A folder's changes show in this: device, inode, and when something in it was made or removed.
type Stamp = (u64, u64, i64, i64);

/// The namespaces, as of the last look.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    stamps: Vec<Option<Stamp>>,
    names: Vec<JournalNamespace>,
}

impl Namespaces {
    /// The namespaces of this machine, the first [`MAX_NAMESPACES`] by name. Costs a `stat` for each of the directories
    /// unless one of them changed.
    pub(super) fn look(
        &mut self,
        directories: &[PathBuf],
        machine_id: [u8; 16],
    ) -> &[JournalNamespace] {
        let stamps: Vec<_> = directories.iter().map(stamp).collect();
        if stamps != self.stamps {
            let prefix = format!("{:032x}.", u128::from_be_bytes(machine_id));
            let entries = directories
                .iter()
                .filter_map(|path| fs::read_dir(path).ok());
            let names: BTreeSet<_> = entries
                .flatten()
                .filter_map(|entry| {
                    let name = entry.ok()?.file_name();
                    JournalNamespace::try_from(name.to_str()?.strip_prefix(&prefix)?).ok()
                })
                .collect();
            (self.stamps, self.names) = (stamps, names.into_iter().take(MAX_NAMESPACES).collect());
        }
        &self.names
    }
}

fn stamp(path: &PathBuf) -> Option<Stamp> {
    let data = fs::metadata(path).ok()?;
    Some((data.dev(), data.ino(), data.mtime(), data.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folders_of_this_machine_with_a_name_are_namespaces() {
        let dir = tempfile::tempdir().unwrap();
        let directories = ["var", "run"].map(|name| dir.path().join(name)).to_vec();
        let id = [0xab; 16];
        let own = "ab".repeat(16);
        let mut namespaces = Namespaces::default();
        assert!(namespaces.look(&directories, id).is_empty());
        for made in [
            "var/ID",
            "var/ID.b",
            "run/ID.b",
            "run/ID.a",
            "run/ID.",
            "run/0123.c",
            "run/ID.x y",
        ] {
            fs::create_dir_all(dir.path().join(made.replace("ID", &own))).unwrap();
        }
        let names = |found: &[JournalNamespace]| -> Vec<String> {
            found.iter().map(ToString::to_string).collect()
        };
        assert_eq!(names(namespaces.look(&directories, id)), ["a", "b"]);
        fs::create_dir(dir.path().join(format!("var/{own}.late"))).unwrap();
        assert_eq!(names(namespaces.look(&directories, id)), ["a", "b", "late"]);
    }
}
