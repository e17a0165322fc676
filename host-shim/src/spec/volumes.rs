//! Volumes: entries of the bundle's `mounts` that name an image file or a block device on the host.
//!
//! What the guest needs to know travels in mount options: `x-seed.name=`, `x-seed.user=`,
//! `x-seed.group=`, `x-seed.mode=`. Everything else in the options is left to the guest's agent, which
//! always mounts with `nodev,nosuid`.

use std::{
    fs::{self, Metadata, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, fcntl_lock},
    io::Errno,
};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{BlockDevice, bundle::Mount};
use crate::{
    locks,
    names::{NameError, VolumeName},
    text::hex,
};

/// What a virtio-blk serial holds (virtio 1.3, 5.2.6.1: 20 bytes).
pub const SERIAL_BYTES: usize = 20;

/// More would not fit on a PCI bus of the machine.
pub(super) const MAX_VOLUMES: usize = 16;

const FILESYSTEMS: [&str; 3] = ["ext4", "xfs", "btrfs"];

/// Why a mount is no volume that we can give.
#[derive(Debug, Error)]
pub enum VolumeError {
    /// The name.
    #[error("volume for {}: {source}", destination.display())]
    Name {
        /// Where it should be mounted.
        destination: PathBuf,
        /// What is wrong with the name.
        source: NameError,
    },
    /// The image or device.
    #[error("volume {name}: {} cannot be used", path.display())]
    Source {
        /// Which volume.
        name: VolumeName,
        /// The image or device.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a folder or the like.
    #[error("volume {name}: {} is neither an image file nor a block device", path.display())]
    Kind {
        /// Which volume.
        name: VolumeName,
        /// What was given.
        path: PathBuf,
    },
    /// Somebody writes to it.
    #[error("volume {name}: {} is in use by another VM: two would destroy its file system", path.display())]
    InUse {
        /// Which volume.
        name: VolumeName,
        /// The image.
        path: PathBuf,
    },
    /// One image for two volumes.
    #[error("volume {name}: {} is the image of another volume already", path.display())]
    SameImage {
        /// Which volume.
        name: VolumeName,
        /// The image.
        path: PathBuf,
    },
    /// An option that cannot be meant.
    #[error("volume {name}: option {option:?} {problem}")]
    Option {
        /// Which volume.
        name: VolumeName,
        /// Which option.
        option: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The mount point.
    #[error("volume {name}: mount point {} is no absolute path below /", path.display())]
    MountPoint {
        /// Which volume.
        name: VolumeName,
        /// The mount point.
        path: PathBuf,
    },
    /// Two of the same name or at the same place.
    #[error("volume {name} is given twice, or its mount point is")]
    Twice {
        /// Which volume.
        name: VolumeName,
    },
    /// Too many.
    #[error("{0} volumes are more than the {MAX_VOLUMES} that one instance can have")]
    TooMany(usize),
}

/// A file by file system and inode, a device by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    File(u64, u64),
    Device(u64),
}

impl Identity {
    fn of(metadata: &Metadata) -> Option<Self> {
        let kind = metadata.file_type();
        if kind.is_file() {
            Some(Self::File(metadata.dev(), metadata.ino()))
        } else {
            kind.is_block_device()
                .then(|| Self::Device(metadata.rdev()))
        }
    }
}

/// One volume.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VolumeSpec {
    /// Its name.
    pub name: VolumeName,
    /// The image file or block device on the host.
    pub source: PathBuf,
    /// The source is a block device.
    pub is_device: bool,
    /// Which file or device it is, under whatever name.
    identity: Identity,
    /// The file system to make and mount.
    pub filesystem: String,
    /// Where in the guest.
    pub mount_point: PathBuf,
    /// The host lets the guest only read it.
    pub read_only: bool,
    /// The host's word on the mount point's owner, if it has one.
    pub user: Option<String>,
    /// See `user`.
    pub group: Option<String>,
    /// See `user`; octal.
    pub mode: Option<String>,
}

impl VolumeSpec {
    /// The disk's serial: the name, or where that is too long, the start of its hash.
    pub fn serial(&self) -> String {
        let name = self.name.as_str();
        if name.len() <= SERIAL_BYTES {
            return name.to_owned();
        }
        short_serial(name)
    }

    /// `mount` as a volume; `None` where it is none.
    pub(super) fn from_mount(mount: &Mount) -> Result<Option<Self>, VolumeError> {
        if !FILESYSTEMS.contains(&mount.kind.as_str()) {
            return Ok(None);
        }
        let option = |key: &str| {
            mount
                .options
                .iter()
                .find_map(|o| o.strip_prefix("x-seed.")?.strip_prefix(key))
        };
        let last = mount
            .destination
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        let name = VolumeName::try_from(option("name=").unwrap_or(last)).map_err(|source| {
            VolumeError::Name {
                destination: mount.destination.clone(),
                source,
            }
        })?;
        check_mount_point(&name, &mount.destination)?;
        let read_only = mount.options.iter().any(|o| o == "ro");
        let identity = check_source(&name, &mount.source, read_only)?;
        let mode = option("mode=").map(str::to_owned);
        if let Some(mode) = mode.as_deref().filter(|m| !is_octal_mode(m)) {
            let (option, problem) = (format!("x-seed.mode={mode}"), "is no octal mode");
            return Err(VolumeError::Option {
                name,
                option,
                problem,
            });
        }
        Ok(Some(Self {
            source: mount.source.clone(),
            is_device: matches!(identity, Identity::Device(_)),
            identity,
            filesystem: mount.kind.clone(),
            mount_point: mount.destination.clone(),
            read_only,
            user: option("user=").map(str::to_owned),
            group: option("group=").map(str::to_owned),
            mode,
            name,
        }))
    }

    #[cfg(test)]
    pub(super) fn sample(name: &str, source: &str) -> Self {
        Self {
            name: VolumeName::try_from(name).unwrap(),
            source: source.into(),
            is_device: false,
            identity: Identity::File(0, 0),
            filesystem: "ext4".into(),
            mount_point: Path::new("/seed/storage").join(name),
            read_only: false,
            user: Some("app".into()),
            group: None,
            mode: Some("0750".into()),
        }
    }
}

/// The start of a name's hash, as long as a serial may be.
pub(super) fn short_serial(name: &str) -> String {
    hex(&Sha256::digest(name)[..SERIAL_BYTES / 2])
}

/// All volumes among `mounts`.
pub(super) fn from_mounts(mounts: &[Mount]) -> Result<Vec<VolumeSpec>, VolumeError> {
    let mut volumes: Vec<VolumeSpec> = Vec::new();
    for mount in mounts {
        let Some(volume) = VolumeSpec::from_mount(mount)? else {
            continue;
        };
        let clash = |other: &VolumeSpec| {
            other.serial() == volume.serial() || other.mount_point == volume.mount_point
        };
        if volumes.iter().any(clash) {
            return Err(VolumeError::Twice { name: volume.name });
        }
        if volumes.iter().any(|o| o.identity == volume.identity) {
            let (name, path) = (volume.name, volume.source);
            return Err(VolumeError::SameImage { name, path });
        }
        volumes.push(volume);
    }
    if volumes.len() > MAX_VOLUMES {
        return Err(VolumeError::TooMany(volumes.len()));
    }
    Ok(volumes)
}

/// Devices are disks, too: no more than there may be, and none that a volume is on.
pub(super) fn check_with(
    volumes: &[VolumeSpec],
    devices: &[BlockDevice],
) -> Result<(), VolumeError> {
    let count = volumes.len() + devices.len();
    if count > MAX_VOLUMES {
        return Err(VolumeError::TooMany(count));
    }
    for device in devices {
        let identity = fs::metadata(&device.source)
            .ok()
            .and_then(|metadata| Identity::of(&metadata));
        let same = |volume: &&VolumeSpec| Some(volume.identity) == identity;
        if let Some(volume) = volumes.iter().find(same) {
            let (name, path) = (volume.name.clone(), device.source.clone());
            return Err(VolumeError::SameImage { name, path });
        }
    }
    Ok(())
}

fn check_mount_point(name: &VolumeName, path: &Path) -> Result<(), VolumeError> {
    use std::path::Component;
    let plain = path
        .components()
        .skip(1)
        .all(|c| matches!(c, Component::Normal(_)));
    if path.is_absolute() && path.parent().is_some() && plain {
        return Ok(());
    }
    Err(VolumeError::MountPoint {
        name: name.clone(),
        path: path.to_owned(),
    })
}

fn check_source(name: &VolumeName, path: &Path, read_only: bool) -> Result<Identity, VolumeError> {
    let wrap = |source| VolumeError::Source {
        name: name.clone(),
        path: path.to_owned(),
        source,
    };
    let metadata = fs::metadata(path).map_err(wrap)?;
    let Some(identity) = Identity::of(&metadata).filter(|_| path.is_absolute()) else {
        return Err(VolumeError::Kind {
            name: name.clone(),
            path: path.to_owned(),
        });
    };
    if !read_only && matches!(identity, Identity::File(..)) {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(wrap)?;
        // QEMU locks what it writes to (locks of the open file description on single bytes), and is the one
        // who keeps a second VM out. Asking here, by a lock that goes with `file`, gives a better answer.
        // On a file system without locks it fails in another way, and QEMU has none either.
        let locked = locks::take(|| fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive));
        if let Err(Errno::AGAIN | Errno::ACCESS) = locked {
            return Err(VolumeError::InUse {
                name: name.clone(),
                path: path.to_owned(),
            });
        }
    }
    Ok(identity)
}

fn is_octal_mode(text: &str) -> bool {
    (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(source: &Path, destination: &str, options: &[&str]) -> Mount {
        Mount {
            destination: destination.into(),
            kind: "ext4".into(),
            source: source.to_owned(),
            options: options.iter().map(|o| (*o).to_owned()).collect(),
        }
    }

    #[test]
    fn options_become_what_the_guest_is_told() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let options = [
            "rw",
            "x-seed.name=db",
            "x-seed.user=app",
            "x-seed.mode=0750",
        ];
        let volumes = from_mounts(&[mount(image.path(), "/var/lib/db", &options)]).unwrap();
        assert_eq!(volumes[0].name.as_str(), "db");
        assert_eq!(volumes[0].user.as_deref(), Some("app"));
        assert_eq!(volumes[0].group, None);
        assert!(!volumes[0].read_only && !volumes[0].is_device);
    }

    #[test]
    fn a_name_that_is_too_long_for_a_serial_is_hashed() {
        let long = VolumeSpec::sample("a-name-of-more-than-20-bytes", "/x");
        assert_eq!(long.serial().len(), SERIAL_BYTES);
        assert_ne!(
            long.serial(),
            VolumeSpec::sample("a-name-of-more-than-20-bytez", "/x").serial()
        );
        assert_eq!(
            VolumeSpec::sample("exactly-twenty-bytes", "/x").serial(),
            "exactly-twenty-bytes"
        );
    }

    #[test]
    fn what_cannot_be_given_is_named() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = image.path();
        for (mounts, said) in [
            (
                vec![mount(Path::new("/nonexistent.img"), "/a", &[])],
                "/nonexistent.img",
            ),
            (vec![mount(dir.path(), "/a", &[])], "neither"),
            (vec![mount(file, "/", &["x-seed.name=a"])], "mount point"),
            (
                vec![mount(file, "/a/../etc", &["x-seed.name=a"])],
                "mount point",
            ),
            (vec![mount(file, "a", &[])], "mount point"),
            (vec![mount(file, "/a", &["x-seed.mode=rwx"])], "octal"),
            (
                vec![mount(file, "/a", &["x-seed.name=../b"])],
                "volume name",
            ),
            (
                vec![mount(file, "/a", &[]), mount(file, "/b", &[])],
                "another volume",
            ),
            (
                vec![mount(file, "/a", &[]), mount(file, "/b/a", &[])],
                "twice",
            ),
            (
                vec![
                    mount(file, "/a", &[]),
                    mount(file, "/a", &["x-seed.name=b"]),
                ],
                "twice",
            ),
        ] {
            let error = from_mounts(&mounts).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
