//! Volumes: block devices that the host attaches, with a file system that the guest makes, checks,
//! mounts and hands to its owner. What holds data is never formatted, and no volume's trouble keeps the
//! system from booting: it becomes a line in the status.
//!
//! [`spec`] turns the host's and the closure's words into a [`VolumeSpec`]; [`block`] does the work;
//! [`probe`] decides what a device holds; `making` makes a file system where there is none; [`owner`] sets owner and mode of the mount point, [`group`] the
//! group of all files. [`device`] is a disk
//! without a file system, [`share`] is storage that is no disk, [`oci`] what a container engine wants to have in
//! its place, [`watch`] copies that follow their originals; [`online`] and [`swap`] are for later.

pub mod block;
pub mod device;
pub mod group;
mod making;
pub mod oci;
pub mod online;
pub mod options;
pub mod owner;
pub mod probe;
pub mod share;
mod source;
pub mod spec;
pub mod swap;
pub mod watch;

use std::{
    fmt, fs, io,
    path::{Component, Path, PathBuf},
};

use thiserror::Error;

use crate::sys::pci::PciPath;

pub use block::{Settings, Volume, provision};
pub use device::Device;
pub use share::Share;
pub use spec::{VolumeSpec, join, split, without_host};

/// Kata's names for the kinds of storage that are taken here.
pub const DRIVERS: [&str; 8] = [
    "blk",
    "virtio-fs",
    "ephemeral",
    "local",
    "bind",
    "overlayfs",
    "watchable-bind",
    ROOT_IMAGE,
];

/// A container's root as the name of an image, from a shim whose VM is elsewhere. The guest is that root already, so
/// nothing is fetched or mounted for it.
pub const ROOT_IMAGE: &str = "image_guest_pull";

/// The longest mount point, `PATH_MAX` of `linux/limits.h` less the terminating zero.
const MAX_PATH_BYTES: usize = 4095;

/// The most entries of storage, and of mounts, in one request.
const MAX_ENTRIES: usize = 1024;

/// The longest name of a volume.
const MAX_NAME_BYTES: usize = 64;

/// Trees that belong to the system: nothing is mounted on or below them.
const SYSTEM_TREES: [&str; 13] = [
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/boot",
    "/nix",
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/etc",
    "/seed/tpm",
];

/// What a Kata shim shares has its own tree, below one that is the system's.
const SHARED_TREE: &str = "/run/kata-containers";

/// Directories that hold other parts: nothing is mounted on them, but below them it may be.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/", "/seed", "/var"];

/// Why a volume cannot be meant as it is described.
#[derive(Debug, Error)]
pub enum SpecError {
    /// Not a volume's name.
    #[error("{0:?} is no name for a volume: letters, digits, \".\", \"_\" and \"-\", at most 64")]
    Name(String),
    /// Not a place where a volume may go.
    #[error("a volume cannot be mounted at {path:?}: {reason}")]
    MountPoint {
        /// The place.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Not an octal mode.
    #[error("{0:?} is no mode: three or four octal digits are wanted")]
    Mode(String),
    /// A file system that we do not make or mount.
    #[error("file system {0:?} is not supported: ext4, xfs, btrfs and erofs are")]
    Filesystem(String),
    /// A kind of storage that we do not mount.
    #[error("storage driver {0:?} is not supported")]
    Driver(String),
    /// A driver option that has no meaning.
    #[error("storage option {0:?} is not key=value, or not known")]
    Option(String),
    /// A volume without a device.
    #[error(
        "the volume at {0:?} names no device: a serial, a PCI path, a path in /dev or a tag is wanted"
    )]
    NoDevice(String),
    /// Not a place for a mount of the host's.
    #[error("nothing of the host's can be mounted at {path:?}: {reason}")]
    Destination {
        /// The place.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A kind of mount that is not made here.
    #[error("a mount of type {kind:?} at {path:?} is not supported: bind and tmpfs are")]
    MountKind {
        /// Its type.
        kind: String,
        /// Its place.
        path: String,
    },
    /// More than anybody means.
    #[error("{0} entries of storage or mounts are more than the {MAX_ENTRIES} that are taken")]
    TooMany(usize),
    /// Two volumes want the same.
    #[error("two volumes have {0}")]
    Twice(String),
}

/// A request with so many entries can be meant.
fn bounded(entries: usize) -> Result<(), SpecError> {
    if entries > MAX_ENTRIES {
        return Err(SpecError::TooMany(entries));
    }
    Ok(())
}

/// A volume's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VolumeName(String);

impl VolumeName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<&str> for VolumeName {
    type Error = SpecError;

    fn try_from(name: &str) -> Result<Self, SpecError> {
        let starts = name
            .chars()
            .next()
            .is_some_and(|c| c.is_ascii_alphanumeric());
        let plain = name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if starts && plain && name.len() <= MAX_NAME_BYTES {
            return Ok(Self(name.to_owned()));
        }
        Err(SpecError::Name(name.chars().take(MAX_NAME_BYTES).collect()))
    }
}

/// A place for a volume: absolute, without `.` and `..`, and not over the system itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MountPoint(PathBuf);

impl MountPoint {
    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl MountPoint {
    /// The path without doubled and trailing slashes, or what is wrong with it.
    fn plain(text: &str) -> Result<PathBuf, &'static str> {
        let path = Path::new(text);
        if !path.is_absolute() {
            return Err("the path is not absolute");
        }
        if text.len() > MAX_PATH_BYTES || text.chars().any(char::is_control) {
            return Err("the path is too long or has control characters");
        }
        let dots = text.split('/').any(|part| part == "." || part == "..");
        if dots || path.components().any(|c| matches!(c, Component::ParentDir)) {
            return Err("the path has \".\" or \"..\" in it");
        }
        Ok(path.components().collect())
    }

    /// Where a symbolic link on the way leads to, when that is no place for a volume. The place must exist.
    pub fn leads_away(&self) -> io::Result<Option<PathBuf>> {
        let real = fs::canonicalize(&self.0)?;
        let fine = real
            .to_str()
            .is_some_and(|text| Self::try_from(text).is_ok());
        Ok((!fine).then_some(real))
    }
}

impl fmt::Display for MountPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

impl TryFrom<&str> for MountPoint {
    type Error = SpecError;

    fn try_from(text: &str) -> Result<Self, SpecError> {
        let refuse = |reason| SpecError::MountPoint {
            path: text.to_owned(),
            reason,
        };
        let path = Self::plain(text).map_err(refuse)?;
        let system = SYSTEM_TREES.iter().any(|tree| path.starts_with(tree))
            || SYSTEM_DIRECTORIES
                .iter()
                .any(|directory| path == Path::new(directory));
        let shared = path.starts_with(SHARED_TREE) && path != Path::new(SHARED_TREE);
        if system && !shared {
            return Err(refuse("the place belongs to the system"));
        }
        Ok(Self(path))
    }
}

/// A file system that we make and mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filesystem {
    /// The default.
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
    /// EROFS, which is made outside and only read here.
    Erofs,
}

impl Filesystem {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ext4, Self::Xfs, Self::Btrfs, Self::Erofs];

    /// True for those that can be made and written here.
    pub const fn grows(self) -> bool {
        !matches!(self, Self::Erofs)
    }

    /// The kernel's name, which is also the suffix of the `mkfs` program.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Erofs => "erofs",
        }
    }
}

impl TryFrom<&str> for Filesystem {
    type Error = SpecError;

    fn try_from(name: &str) -> Result<Self, SpecError> {
        match name {
            "" | "ext4" => Ok(Self::Ext4),
            "xfs" => Ok(Self::Xfs),
            "btrfs" => Ok(Self::Btrfs),
            "erofs" => Ok(Self::Erofs),
            other => Err(SpecError::Filesystem(other.to_owned())),
        }
    }
}

/// What of `path` exists, without links; what does not is added as it is.
pub(crate) fn real(path: &Path) -> io::Result<PathBuf> {
    let mut missing = Vec::new();
    let mut existing = path;
    loop {
        match existing.canonicalize() {
            Ok(mut real) => {
                real.extend(missing.iter().rev());
                return Ok(real);
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(error) => {
                let (Some(parent), Some(name)) = (existing.parent(), existing.file_name()) else {
                    return Err(error);
                };
                missing.push(name);
                existing = parent;
            }
        }
    }
}

/// How a device is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceRef {
    /// The serial that the VMM gives to a virtio-blk disk (`/sys/block/*/serial`).
    Serial(String),
    /// A node in `/dev`.
    Path(PathBuf),
    /// A place on the PCI bus.
    Pci(PciPath),
}

impl fmt::Display for DeviceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial(serial) => write!(f, "the disk with serial {serial:?}"),
            Self::Path(path) => path.display().fmt(f),
            Self::Pci(path) => write!(f, "the disk at PCI path {path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_over_the_system_is_refused() {
        for path in [
            "/",
            "//",
            "/proc",
            "/proc/1",
            "/sys/fs",
            "/etc/x",
            "/seed",
            "/seed/tpm",
            "/usr",
        ] {
            assert!(MountPoint::try_from(path).is_err(), "{path}");
        }
        for path in ["relative", "", "/a/../proc", "/a/./b", "/a\n", "/.."] {
            assert!(MountPoint::try_from(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn a_mount_point_is_kept_in_its_plain_form() {
        for path in ["/seed/storage/data", "/seed//storage/data/"] {
            let mount_point = MountPoint::try_from(path).unwrap();
            assert_eq!(mount_point.as_path(), Path::new("/seed/storage/data"));
        }
        assert!(MountPoint::try_from("/procession").is_ok());
        assert!(MountPoint::try_from("/var/lib/app").is_ok());
    }

    #[test]
    fn names_have_no_slashes_and_no_odd_beginnings() {
        assert!(VolumeName::try_from("data-1.x_y").is_ok());
        for name in ["", "a/b", "-a", "..", "a b", &"a".repeat(65)] {
            assert!(VolumeName::try_from(name).is_err(), "{name}");
        }
    }
}
