//! `linux.devices` of the OCI runtime configuration. A block device of the host becomes a disk of the machine, which the
//! guest finds at the path that the entry names: a raw block volume of Kubernetes. Devices that every kernel makes by
//! itself are the guest's own. All else is refused: a machine has its own kernel, and cannot see a device of the host's.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::fs::makedev;
use serde::Deserialize;
use thiserror::Error;

use super::volumes::short_serial;

/// Character devices that each kernel has (Documentation/admin-guide/devices.txt): null, zero, full, random, urandom;
/// tty, console, ptmx.
const GUESTS_OWN: [(u32, u32); 8] = [
    (1, 3),
    (1, 5),
    (1, 7),
    (1, 8),
    (1, 9),
    (5, 0),
    (5, 1),
    (5, 2),
];

/// Where the kernel tells the names of block devices by their numbers.
const BY_NUMBER: &str = "/sys/dev/block";

/// Why a device cannot be given.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// It is none that a machine can have.
    #[error(
        "device {} is no block device: a machine has a kernel of its own and sees no other device of the host; for a \
         privileged container set privileged_without_host_devices in the engine's configuration",
        path.display()
    )]
    Kind {
        /// Where it should be in the guest.
        path: PathBuf,
    },
    /// The host has no such block device.
    #[error("block device {major}:{minor} for {} cannot be found on the host", path.display())]
    Missing {
        /// Where it should be in the guest.
        path: PathBuf,
        /// Its number.
        major: u32,
        /// Its number.
        minor: u32,
        /// Why.
        source: io::Error,
    },
    /// It has two uses.
    #[error("block device {} for {} is given twice, or its path is", source_path.display(), path.display())]
    Twice {
        /// Where it should be in the guest.
        path: PathBuf,
        /// On the host.
        source_path: PathBuf,
    },
}

/// One entry of `linux.devices`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Device {
    path: PathBuf,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    major: u32,
    #[serde(default)]
    minor: u32,
    #[serde(default)]
    uid: Option<u32>,
    #[serde(default)]
    gid: Option<u32>,
    #[serde(default, rename = "fileMode")]
    mode: Option<u32>,
}

/// Whose a device shall be in the guest, by the engine's word: numbers and permissions, root's where it gives none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceOwner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Permissions, if any are given.
    pub mode: Option<u32>,
}

impl Device {
    /// Without a word it is as the guest has it.
    fn owner(&self) -> Option<DeviceOwner> {
        let said = self.uid.or(self.gid).or(self.mode);
        said.map(|_| DeviceOwner {
            uid: self.uid.unwrap_or(0),
            gid: self.gid.unwrap_or(0),
            mode: self.mode.map(|mode| mode & 0o7777),
        })
    }
}

/// One entry of `linux.resources.devices`: who may do what with a device.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Rule {
    #[serde(default)]
    allow: bool,
    #[serde(default)]
    major: Option<i64>,
    #[serde(default)]
    minor: Option<i64>,
    #[serde(default)]
    access: String,
}

/// A disk without a file system of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockDevice {
    /// The block device on the host.
    pub source: PathBuf,
    /// Where the guest finds it.
    pub path: PathBuf,
    /// The guest may only read it.
    pub read_only: bool,
    /// Whose it is there; the guest's business without.
    pub owner: Option<DeviceOwner>,
}

impl BlockDevice {
    /// The disk's serial: the start of its path's hash, which no volume's name is.
    pub fn serial(&self) -> String {
        short_serial(&format!("device {}", self.path.display()))
    }
}

/// The disks among all devices.
pub(super) fn disks(devices: &[Device], rules: &[Rule]) -> Result<Vec<BlockDevice>, DeviceError> {
    let mut disks: Vec<BlockDevice> = Vec::new();
    for device in devices {
        let Device {
            path,
            kind,
            major,
            minor,
            ..
        } = device;
        if kind != "b" {
            if GUESTS_OWN.contains(&(*major, *minor)) {
                continue;
            }
            return Err(DeviceError::Kind { path: path.clone() });
        }
        let source = node(*major, *minor).map_err(|source| DeviceError::Missing {
            path: path.clone(),
            major: *major,
            minor: *minor,
            source,
        })?;
        if disks
            .iter()
            .any(|disk| disk.source == source || disk.path == *path)
        {
            return Err(DeviceError::Twice {
                path: path.clone(),
                source_path: source,
            });
        }
        disks.push(BlockDevice {
            source,
            path: path.clone(),
            read_only: !may_write(*major, *minor, rules),
            owner: device.owner(),
        });
    }
    Ok(disks)
}

/// The last rule that is about exactly this device; without one it is as in a container without rules.
fn may_write(major: u32, minor: u32, rules: &[Rule]) -> bool {
    let numbers = (Some(i64::from(major)), Some(i64::from(minor)));
    let about = |rule: &&Rule| rule.allow && (rule.major, rule.minor) == numbers;
    let last = rules.iter().rev().find(about);
    last.is_none_or(|rule| rule.access.contains('w'))
}

/// The node of a block device, by its number.
fn node(major: u32, minor: u32) -> io::Result<PathBuf> {
    let told = fs::read_to_string(format!("{BY_NUMBER}/{major}:{minor}/uevent"))?;
    let name = told.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    let node = Path::new("/dev").join(name.ok_or(io::ErrorKind::NotFound)?);
    let metadata = fs::metadata(&node)?;
    let is_it = metadata.file_type().is_block_device() && metadata.rdev() == makedev(major, minor);
    if is_it {
        Ok(node)
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<Device> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_each_kernel_has_is_left_to_the_guest_and_the_rest_is_refused_by_name() {
        let own = parsed(
            r#"[{"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 438},
                {"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2}]"#,
        );
        assert_eq!(disks(&own, &[]).unwrap(), []);
        let tun = parsed(r#"[{"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200}]"#);
        let error = disks(&tun, &[]).unwrap_err().to_string();
        assert!(
            error.contains("/dev/net/tun") && error.contains("privileged"),
            "{error}"
        );
        let none = parsed(r#"[{"path": "/dev/x", "type": "b", "major": 4000, "minor": 1}]"#);
        let error = disks(&none, &[]).unwrap_err().to_string();
        assert!(error.contains("4000:1 for /dev/x"), "{error}");
    }

    #[test]
    fn a_device_is_whose_the_engine_says() {
        let said = parsed(
            r#"[{"path": "/dev/a", "type": "b", "uid": 1000, "gid": 2000, "fileMode": 25008},
                {"path": "/dev/b", "type": "b", "gid": 6},
                {"path": "/dev/c", "type": "b"}]"#,
        );
        let owners: Vec<_> = said.iter().map(Device::owner).collect();
        let owner = |uid, gid, mode| Some(DeviceOwner { uid, gid, mode });
        let wanted = [owner(1000, 2000, Some(0o660)), owner(0, 6, None), None];
        assert_eq!(owners, wanted);
    }

    #[test]
    fn a_rule_without_w_makes_it_read_only() {
        let rules: Vec<Rule> = serde_json::from_str(
            r#"[{"allow": false, "access": "rwm"},
                {"allow": true, "type": "b", "major": 7, "minor": 0, "access": "r"},
                {"allow": true, "type": "b", "major": 7, "minor": 1, "access": "rwm"}]"#,
        )
        .unwrap();
        assert!(!may_write(7, 0, &rules));
        assert!(may_write(7, 1, &rules) && may_write(7, 2, &rules));
    }
}
