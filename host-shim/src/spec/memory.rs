//! Memory that a container engine wants in the guest: entries of the bundle's `mounts` of type `tmpfs`, whose words are
//! those of tmpfs(5), and what is bound to `/dev/shm`. The guest's agent mounts it, of the guest's own memory; places
//! where a guest has memory already are for the agent to know.
//!
//! Memory of the host that is bound to `/dev/shm` (kubelet's, for an `emptyDir` with `medium: Memory`) is not shared: nobody but
//! the one guest would be at it, and memory that programs share by `mmap` and futexes is the guest's business. What
//! reaches the guest is its size.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{StatFs, statfs};
use thiserror::Error;

use super::{bundle::Mount, shares};

/// Where programs share memory. The guest has its own.
const SHARED_MEMORY: &str = "/dev/shm";

/// `TMPFS_MAGIC` of `linux/magic.h`.
const TMPFS: u64 = 0x0102_1994;

/// Words without a value: flags of mount(8), who sees the mount, and tmpfs's own.
const WORDS: &str = "async atime auto defaults dev diratime dirsync exec inode32 inode64 lazytime noatime noauto nodev \
                     nodiratime noexec nofail nosuid noswap private relatime ro rprivate rshared rslave rw shared slave \
                     strictatime suid sync";

/// Why there is no such memory.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// A word that cannot be meant.
    #[error(
        "memory at {}: option {option:?} is not one of tmpfs's: flags such as ro and noexec, size=, nr_inodes=, mode=, uid= and gid= are",
        destination.display()
    )]
    Option {
        /// Where the memory should be.
        destination: PathBuf,
        /// The word.
        option: String,
    },
    /// What is bound to the place cannot be looked at.
    #[error("{} for {SHARED_MEMORY} in the guest cannot be looked at", path.display())]
    Source {
        /// On the host.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Files of a disk.
    #[error(
        "{} is no memory, and the guest's {SHARED_MEMORY} is nothing else: bind it to another place",
        path.display()
    )]
    NotMemory {
        /// On the host.
        path: PathBuf,
    },
}

/// Memory at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryMount {
    /// Where the guest shall have it.
    pub destination: PathBuf,
    /// Mount options, each of them one that can be meant.
    pub options: Vec<String>,
}

/// All of it, in its order.
pub(super) fn from_mounts(mounts: &[Mount]) -> Result<Vec<MemoryMount>, MemoryError> {
    let parsed = mounts.iter().map(from_mount);
    parsed.filter_map(Result::transpose).collect()
}

/// Whether an entry is memory.
pub(super) fn is_memory(mount: &Mount) -> bool {
    mount.kind == "tmpfs"
}

/// Whether it is for the place where a guest has memory that programs share: nothing of the host's goes there.
pub(super) fn is_shared_memory(mount: &Mount) -> bool {
    mount.destination == Path::new(SHARED_MEMORY)
}

fn from_mount(mount: &Mount) -> Result<Option<MemoryMount>, MemoryError> {
    let options = if is_memory(mount) {
        check(mount)?;
        mount.options.clone()
    } else if shares::is_bind(mount) && is_shared_memory(mount) && !is_engines(&mount.source) {
        vec![size_of(&mount.source)?]
    } else {
        return Ok(None);
    };
    Ok(Some(MemoryMount {
        destination: mount.destination.clone(),
        options,
    }))
}

fn check(mount: &Mount) -> Result<(), MemoryError> {
    let known = |word: &str| match word.split_once('=') {
        Some((key, value)) => is_value(key, value),
        None => word.is_empty() || WORDS.split(' ').any(|one| one == word),
    };
    let mut words = mount.options.iter().flat_map(|word| word.split(','));
    match words.find(|word| !known(word) && !word.starts_with("x-")) {
        None => Ok(()),
        Some(word) => Err(MemoryError::Option {
            destination: mount.destination.clone(),
            option: word.to_owned(),
        }),
    }
}

/// Whether a word with a value is one of tmpfs's, and can be meant.
fn is_value(key: &str, text: &str) -> bool {
    match key {
        "size" => is_number(text.strip_suffix('%').unwrap_or(text)),
        "nr_blocks" | "nr_inodes" => is_number(text),
        "mode" => u32::from_str_radix(text, 8).is_ok(),
        "uid" | "gid" => text.parse::<u32>().is_ok(),
        "huge" => matches!(text, "never" | "always" | "within_size" | "advise"),
        "mpol" => !text.is_empty(),
        _ => false,
    }
}

/// Digits, and what they are multiplied with.
fn is_number(text: &str) -> bool {
    let digits = text.strip_suffix(|c: char| "kKmMgGtTpPeE".contains(c));
    digits.unwrap_or(text).parse::<u64>().is_ok()
}

/// What an engine binds there when nobody asked for anything, for the containers of one pod: containerd's
/// (`<state>/sandboxes/<id>/shm`), CRI-O's (`<id>/userdata/shm`), Docker's (`<id>/mounts/shm`), or the host's own.
fn is_engines(source: &Path) -> bool {
    let part = |above: usize| {
        source
            .iter()
            .rev()
            .nth(above)
            .and_then(|name| name.to_str())
    };
    let of_pod = matches!(part(1), Some("userdata" | "mounts")) || part(2) == Some("sandboxes");
    source == Path::new(SHARED_MEMORY) || (part(0) == Some("shm") && of_pod)
}

/// The word for as much memory as there is at `path`. Blocks as long as its file system does.
fn size_of(path: &Path) -> Result<String, MemoryError> {
    let StatFs {
        f_type,
        f_blocks,
        f_bsize,
        ..
    } = statfs(path).map_err(|error| MemoryError::Source {
        path: path.to_owned(),
        source: error.into(),
    })?;
    if u64::try_from(f_type) != Ok(TMPFS) {
        return Err(MemoryError::NotMemory {
            path: path.to_owned(),
        });
    }
    let block = u64::try_from(f_bsize).unwrap_or_default();
    Ok(format!("size={}", f_blocks.saturating_mul(block)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, destination: &str, options: &[&str]) -> Mount {
        Mount {
            destination: destination.into(),
            kind: kind.into(),
            source: source.into(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
        }
    }

    fn one(mount: Mount) -> Result<Vec<MemoryMount>, MemoryError> {
        from_mounts(&[mount])
    }

    #[test]
    fn memory_keeps_the_words_that_it_was_asked_for_with() {
        for options in [
            &["nosuid", "strictatime", "mode=755", "size=65536k"][..],
            &["size=1m", "nr_inodes=100", "ro,noexec", "uid=1000,gid=1000"],
            &[
                "size=50%",
                "huge=within_size",
                "rprivate",
                "x-systemd.automount",
            ],
            &[],
        ] {
            let found = one(mount("tmpfs", "tmpfs", "/scratch", options)).unwrap();
            assert_eq!(found[0].options, options);
            assert_eq!(found[0].destination, Path::new("/scratch"));
        }
        for other in [
            mount("bind", "/etc/hosts", "/etc/hosts", &["rbind"]),
            mount("proc", "proc", "/proc", &[]),
        ] {
            assert_eq!(one(other).unwrap(), []);
        }
    }

    #[test]
    fn a_word_that_is_none_of_memorys_is_named() {
        for word in [
            "size=lots",
            "size=",
            "size=1q",
            "size",
            "mode=rwx",
            "uid=app",
            "huge=yes",
            "tmpcopyup",
            "colour=red",
            "rro",
            "nr_inodes=-1",
        ] {
            let error = one(mount("tmpfs", "tmpfs", "/scratch", &["ro", word])).unwrap_err();
            let text = error.to_string();
            assert!(
                text.starts_with(&format!("memory at /scratch: option {word:?}")),
                "{text}"
            );
        }
    }

    #[test]
    fn an_engines_memory_of_a_pod_is_left_to_the_guest() {
        for source in [
            "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/0123/shm",
            "/run/containers/storage/overlay-containers/0123/userdata/shm",
            "/var/lib/docker/containers/0123/mounts/shm",
            "/dev/shm",
        ] {
            let bound = mount("bind", source, "/dev/shm", &["rbind"]);
            assert_eq!(one(bound).unwrap(), [], "{source}");
        }
    }

    #[test]
    fn memory_that_a_pod_asked_for_is_the_guests_by_its_size() {
        // Of this machine, whatever its size.
        let Ok(there) = statfs("/dev/shm") else {
            panic!("a machine has /dev/shm")
        };
        let wanted = there.f_blocks * u64::try_from(there.f_bsize).unwrap();
        let volume = tempfile::tempdir_in("/dev/shm").unwrap();
        for name in ["cache", "shm"] {
            let folder = volume.path().join("kubernetes.io~empty-dir").join(name);
            std::fs::create_dir_all(&folder).unwrap();
            let bound = mount("bind", folder.to_str().unwrap(), "/dev/shm", &["rbind"]);
            let found = one(bound).unwrap();
            assert_eq!(found[0].destination, Path::new("/dev/shm"));
            assert_eq!(found[0].options, [format!("size={wanted}")]);
        }
        for (source, said) in [
            ("/proc", "/proc is no memory"),
            ("/nonexistent", "/nonexistent for /dev/shm"),
        ] {
            let error = one(mount("bind", source, "/dev/shm", &["rbind"])).unwrap_err();
            assert!(error.to_string().starts_with(said), "{error}");
        }
    }
}
