//! Volumes while they are in use: how full they are, and growth to a device that the host made larger.
//! A file system never shrinks here.

use std::{
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use thiserror::Error;

use super::Filesystem;
use crate::sys::{
    block,
    command::{self, CommandError},
    mount::{self, Usage},
};

/// How long the guest's kernel may take to hear of the device's new size.
const DEVICE_LIMIT: Duration = Duration::from_secs(5);

const POLL: Duration = Duration::from_millis(20);

/// How long a growth may take.
const GROW_LIMIT: Duration = Duration::from_secs(1800);

/// Why a volume cannot be looked at or grown.
#[derive(Debug, Error)]
pub enum OnlineError {
    /// Not an absolute path.
    #[error("{0:?} is no path of a volume")]
    Path(String),
    /// Nothing is mounted there.
    #[error("no volume is mounted at {}", .0.display())]
    NotMounted(PathBuf),
    /// It cannot be looked at.
    #[error("{} cannot be looked at", path.display())]
    Look {
        /// The volume.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The device is smaller than what is asked for.
    #[error("the device of {} has {device} bytes, not the {wanted} that are asked for: it grows first", path.display())]
    DeviceTooSmall {
        /// The volume.
        path: PathBuf,
        /// What the device has.
        device: u64,
        /// What was asked for.
        wanted: u64,
    },
    /// The volume is on no block device, or its file system does not grow.
    #[error("the file system {filesystem} at {} does not grow", path.display())]
    Kind {
        /// The volume.
        path: PathBuf,
        /// What it is.
        filesystem: String,
    },
    /// A program could not be run.
    #[error("{} cannot grow", path.display())]
    Command {
        /// The volume.
        path: PathBuf,
        /// Why.
        source: CommandError,
    },
    /// A program failed.
    #[error("{} cannot grow: {words}", path.display())]
    Failed {
        /// The volume.
        path: PathBuf,
        /// What the program said.
        words: String,
    },
}

/// `PATH_MAX` of `linux/limits.h`, with the NUL at its end.
const MAX_PATH_BYTES: usize = 4096;

/// As much of a request's word as a refusal says again.
pub fn start(text: &str) -> String {
    text.chars().take(256).collect()
}

/// The path of a volume as a request names it.
pub fn volume_path(text: &str) -> Result<PathBuf, OnlineError> {
    let path = Path::new(text);
    let dots = text.split('/').any(|part| part == "." || part == "..");
    let too_long = text.len() >= MAX_PATH_BYTES;
    if !path.is_absolute() || dots || too_long || text.contains('\0') {
        return Err(OnlineError::Path(start(text)));
    }
    Ok(path.components().collect())
}

/// How full the volume at `path` is.
pub fn usage(path: &Path) -> Result<Usage, OnlineError> {
    mounted(path)?;
    mount::usage(path).map_err(|source| look(path, source))
}

/// Grows the volume at `path` to its device, which must have `wanted` bytes by now, or very soon. Blocks.
pub fn grow(path: &Path, wanted: u64, sys_block: &Path) -> Result<(), OnlineError> {
    let mounted = mounted(path)?;
    let filesystem = Filesystem::ALL
        .into_iter()
        .find(|filesystem| filesystem.name() == mounted.filesystem && filesystem.grows());
    let kind = || OnlineError::Kind {
        path: path.to_owned(),
        filesystem: mounted.filesystem.clone(),
    };
    let filesystem = filesystem.ok_or_else(kind)?;
    let name = mounted.source.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(kind)?;
    let deadline = Instant::now() + DEVICE_LIMIT;
    loop {
        let device = block::size(sys_block, name).map_err(|source| look(path, source))?;
        if device >= wanted {
            break;
        }
        if Instant::now() >= deadline {
            let path = path.to_owned();
            return Err(OnlineError::DeviceTooSmall {
                path,
                device,
                wanted,
            });
        }
        thread::sleep(POLL);
    }
    let (node, place) = (mounted.source.as_os_str(), path.as_os_str());
    let (program, arguments) = match filesystem {
        Filesystem::Xfs => ("xfs_growfs", vec![place]),
        Filesystem::Btrfs => (
            "btrfs",
            vec![
                "filesystem".as_ref(),
                "resize".as_ref(),
                "max".as_ref(),
                place,
            ],
        ),
        Filesystem::Ext4 | Filesystem::Erofs => ("resize2fs", vec![node]),
    };
    let ended = command::run(program, &arguments, GROW_LIMIT);
    let ended = ended.map_err(|source| OnlineError::Command {
        path: path.to_owned(),
        source,
    })?;
    if !ended.status.success() {
        return Err(OnlineError::Failed {
            path: path.to_owned(),
            words: ended.words,
        });
    }
    Ok(())
}

fn mounted(path: &Path) -> Result<mount::Mounted, OnlineError> {
    let mounted = mount::mounted_at(path).map_err(|source| look(path, source))?;
    mounted.ok_or_else(|| OnlineError::NotMounted(path.to_owned()))
}

fn look(path: &Path, source: io::Error) -> OnlineError {
    OnlineError::Look {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_path_with_a_mount_is_a_volume() {
        for text in ["", "data", "/a/../etc", "/a\0b"] {
            assert!(
                matches!(volume_path(text), Err(OnlineError::Path(_))),
                "{text:?}"
            );
        }
        let path = volume_path("//a//b/").unwrap();
        assert_eq!(path, Path::new("/a/b"));
        assert!(matches!(usage(&path), Err(OnlineError::NotMounted(_))));
        assert!(usage(Path::new("/")).unwrap().bytes.total > 0);
    }
}
