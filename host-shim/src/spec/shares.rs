//! Files and folders of the host that a container engine wants in the guest: entries of the bundle's `mounts` of
//! type `bind`. The shim shows them to the guest below one shared folder, under names of its own; the guest's
//! agent puts them where they are wanted.

use std::path::{Path, PathBuf};

use super::{bundle::Mount, memory};

/// How much of a source's name is kept in the share, so that a person sees what is what.
const MAX_NAME_CHARS: usize = 64;

/// One file or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedMount {
    /// Its name in the shared folder.
    pub name: String,
    /// Where it is on the host.
    pub source: PathBuf,
    /// Where the guest shall have it.
    pub destination: PathBuf,
    /// Mount options, as the engine gave them.
    pub options: Vec<String>,
}

impl SharedMount {
    #[cfg(test)]
    pub(crate) fn sample() -> Self {
        Self {
            name: "0-hosts".into(),
            source: "/etc/hosts".into(),
            destination: "/etc/hosts".into(),
            options: Vec::new(),
        }
    }

    /// The guest may only read it.
    pub fn read_only(&self) -> bool {
        self.options
            .iter()
            .any(|option| option == "ro" || option == "rro")
    }
}

/// Whether an entry is a bind.
pub(super) fn is_bind(mount: &Mount) -> bool {
    let bind = |option: &String| option == "bind" || option == "rbind";
    mount.kind == "bind" || (mount.options.iter().any(bind) && !memory::is_memory(mount))
}

/// All of them, in their order.
pub(super) fn from_mounts(mounts: &[Mount]) -> Vec<SharedMount> {
    let wanted = |mount: &&Mount| is_bind(mount) && !memory::is_shared_memory(mount);
    mounts
        .iter()
        .filter(wanted)
        .enumerate()
        .map(|(number, mount)| SharedMount {
            name: name(number, &mount.source),
            source: mount.source.clone(),
            destination: mount.destination.clone(),
            options: mount.options.clone(),
        })
        .collect()
}

/// `<number>-<last part of the source>`, without what a path or a table of mounts takes amiss.
fn name(number: usize, source: &Path) -> String {
    let last = source.file_name().unwrap_or_default().to_string_lossy();
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') {
            c
        } else {
            '_'
        }
    };
    let kept: String = last.chars().take(MAX_NAME_CHARS).map(plain).collect();
    format!("{number}-{kept}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
        Mount {
            destination: destination.into(),
            kind: kind.into(),
            source: source.into(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
        }
    }

    #[test]
    fn binds_are_shared_under_names_that_differ() {
        let shared = from_mounts(&[
            mount("/proc", "proc", "proc", &[]),
            mount(
                "/etc/hosts",
                "bind",
                "/var/lib/kubelet/pods/1/etc-hosts",
                &["rbind", "rw"],
            ),
            mount("/dev/shm", "bind", "/run/shm", &["rbind"]),
            mount("/etc/a b", "", "/v/..data/a b", &["bind", "ro"]),
            mount("/x", "bind", "/", &[]),
        ]);
        let names: Vec<_> = shared.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["0-etc-hosts", "1-a_b", "2-"]);
        let read_only: Vec<_> = shared.iter().map(SharedMount::read_only).collect();
        assert_eq!(read_only, [false, true, false]);
    }
}
