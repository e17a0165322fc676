//! Disks that the host wants to be found as they are, at a path of the container's: a raw block volume. No file
//! system is made or mounted; a symbolic link leads from the path to the disk's node. Whose the node is says the host, or
//! else udev; since udev sets it again at each event of the disk, the host's word is a rule of udev's, too.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use thiserror::Error;
use tracing::info;

use super::{
    DeviceRef, MountPoint, SpecError,
    block::{self, BlockError, Settings},
    owner::{Mode, Owner},
};
use crate::sys::{file, pci::PciPath};

/// Kata's name for a disk.
const DISK: &str = "blk";

/// How often it is looked whether udev has seen a disk.
const UDEV_POLL: Duration = Duration::from_millis(20);

/// An entry of the host, as it came.
#[derive(Debug, Clone, Default)]
pub struct RawDevice {
    /// The place on the PCI bus, when there is no serial.
    pub id: String,
    /// Kata's name for the kind of device; `blk` is ours.
    pub kind: String,
    /// Where it is wanted.
    pub path: String,
    /// `serial=`.
    pub options: Vec<String>,
    /// Whose it shall be, and who may do what.
    pub owner: Option<(Owner, Option<Mode>)>,
}

/// A disk at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    device: DeviceRef,
    path: PathBuf,
    owner: Option<(Owner, Option<Mode>)>,
}

/// Why it is not there.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// There is no such disk.
    #[error("{}: {source}", path.display())]
    Missing {
        /// Where it is wanted.
        path: PathBuf,
        /// Why.
        source: BlockError,
    },
    /// It cannot be given to whom it shall belong.
    #[error("{} cannot be given to its owner", node.display())]
    Owner {
        /// The disk.
        node: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else is at its path.
    #[error("{} cannot be a link to {}", path.display(), node.display())]
    Link {
        /// Where it is wanted.
        path: PathBuf,
        /// The disk.
        node: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl TryFrom<RawDevice> for Device {
    type Error = SpecError;

    fn try_from(raw: RawDevice) -> Result<Self, SpecError> {
        let RawDevice {
            id,
            kind,
            path,
            options,
            owner,
        } = raw;
        if kind != DISK {
            return Err(SpecError::Driver(kind));
        }
        let serial = options.iter().find_map(|o| o.strip_prefix("serial="));
        let device = match (serial, PciPath::parse(&id)) {
            (Some(serial), _) if !serial.is_empty() => DeviceRef::Serial(serial.to_owned()),
            (_, Some(place)) => DeviceRef::Pci(place),
            _ => return Err(SpecError::NoDevice(path)),
        };
        let refuse = |reason| SpecError::Destination {
            path: path.clone(),
            reason,
        };
        let plain = MountPoint::plain(&path).map_err(refuse)?;
        if plain.file_name().is_none() {
            return Err(refuse("a device has a name"));
        }
        Ok(Self {
            device,
            path: plain,
            owner,
        })
    }
}

impl Device {
    /// Waits for the disk and makes the link. Blocks. Twice is harmless.
    pub fn bring_up(&self, settings: &Settings) -> Result<(), DeviceError> {
        let missing = |source| DeviceError::Missing {
            path: self.path.clone(),
            source,
        };
        let node = block::wait_for(&self.device, settings).map_err(missing)?;
        if let Some((owner, mode)) = self.owner {
            let owned = give(&node, owner, mode, settings);
            owned.map_err(|source| DeviceError::Owner {
                node: node.clone(),
                source,
            })?;
        }
        if node == self.path || fs::read_link(&self.path).is_ok_and(|to| to == node) {
            return Ok(());
        }
        let made = match self.path.parent() {
            Some(parent) => file::make_directories(parent),
            None => Ok(()),
        };
        let linked = made.and_then(|()| symlink(&node, &self.path));
        linked.map_err(|source| DeviceError::Link {
            path: self.path.clone(),
            node: node.clone(),
            source,
        })?;
        info!(path = %self.path.display(), node = %node.display(), "block device is there");
        Ok(())
    }
}

/// Now, and by a rule for whenever udev looks at the disk again (udev(7)).
fn give(node: &Path, owner: Owner, mode: Option<Mode>, settings: &Settings) -> io::Result<()> {
    let Some(name) = node.file_name().and_then(|name| name.to_str()) else {
        return Err(io::ErrorKind::InvalidFilename.into());
    };
    let Owner { uid, gid } = owner;
    let mut rule =
        format!("SUBSYSTEM==\"block\", KERNEL==\"{name}\", OWNER:=\"{uid}\", GROUP:=\"{gid}\"");
    if let Some(mode) = mode {
        rule.push_str(&format!(", MODE:=\"{:04o}\"", mode.bits()));
    }
    rule.push('\n');
    let file = settings.udev_rules.join(format!("99-seed-{name}.rules"));
    file::write_atomic(&file, rule.as_bytes(), 0o644)?;
    wait_for_udev(name, settings);
    chown(node, Some(uid), Some(gid))?;
    match mode {
        Some(mode) => fs::set_permissions(node, Permissions::from_mode(mode.bits())),
        None => Ok(()),
    }
}

/// Waits until udev has seen a disk that came just now: it sets an owner of its own then, perhaps by the rules that it read before
/// there was ours. First it does that, then it notes the time (systemd's `udev-event.c` and `device-private.c`). Where it is not, or
/// takes too long, it is not waited for.
fn wait_for_udev(name: &str, settings: &Settings) {
    let udev = settings.udev_rules.parent();
    let Some(udev) = udev.filter(|udev| udev.join("control").exists()) else {
        return;
    };
    let Ok(number) = fs::read_to_string(settings.sys_block.join(name).join("dev")) else {
        return;
    };
    let data = udev.join("data").join(format!("b{}", number.trim()));
    let is_seen = || {
        let text = fs::read_to_string(&data);
        text.is_ok_and(|text| text.lines().any(|line| line.starts_with("I:")))
    };
    let deadline = Instant::now() + settings.device_limit;
    while !is_seen() && Instant::now() < deadline {
        thread::sleep(UDEV_POLL);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn raw(path: &str, options: &[&str]) -> RawDevice {
        RawDevice {
            kind: "blk".into(),
            path: path.into(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            ..RawDevice::default()
        }
    }

    fn settings(root: &Path) -> Settings {
        Settings {
            sys_block: root.join("block"),
            sys_devices: root.join("devices"),
            dev: root.join("dev"),
            etc: root.to_owned(),
            udev_rules: root.join("udev/rules.d"),
            device_limit: Duration::ZERO,
        }
    }

    #[test]
    fn a_disk_that_udev_has_not_seen_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let (sys, udev) = (root.path().join("block/vdc"), root.path().join("udev"));
        let data = udev.join("data/b254:32");
        fs::create_dir_all(&sys).unwrap();
        fs::create_dir_all(udev.join("data")).unwrap();
        fs::write(sys.join("dev"), "254:32\n").unwrap();
        let settings = Settings {
            device_limit: Duration::from_secs(60),
            ..settings(root.path())
        };
        // There is no udev.
        wait_for_udev("vdc", &settings);
        fs::write(udev.join("control"), "").unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                fs::write(&data, "E:ID_PROCESSING=1\n").unwrap();
                thread::sleep(2 * UDEV_POLL);
                fs::write(&data, "I:12345\nE:ID_SERIAL=abc\n").unwrap();
            });
            wait_for_udev("vdc", &settings);
            assert!(fs::read_to_string(&data).unwrap().starts_with("I:"));
        });
        // Nor is one that never sees it waited for longer than the limit.
        fs::remove_file(&data).unwrap();
        let settings = Settings {
            device_limit: Duration::ZERO,
            ..settings
        };
        wait_for_udev("vdc", &settings);
    }

    #[test]
    fn a_disk_is_linked_to_where_it_is_wanted_and_nothing_is_written_over() {
        let root = tempfile::tempdir().unwrap();
        let (sys, dev) = (root.path().join("block"), root.path().join("dev"));
        fs::create_dir_all(sys.join("vdc")).unwrap();
        fs::write(sys.join("vdc/serial"), "abc").unwrap();
        fs::create_dir(&dev).unwrap();
        fs::write(dev.join("vdc"), "").unwrap();
        let settings = settings(root.path());
        let place = root.path().join("below/raw");
        let text = place.to_str().unwrap();
        let device = Device::try_from(raw(text, &["serial=abc"])).unwrap();
        for _ in 0..2 {
            device.bring_up(&settings).unwrap();
            assert_eq!(fs::read_link(&place).unwrap(), dev.join("vdc"));
        }
        assert!(!settings.udev_rules.exists());
        // Whoever is no root gives it to himself.
        let me = fs::metadata(&dev).unwrap();
        let uid = if me.uid() == 0 { 1000 } else { me.uid() };
        let gid = if me.uid() == 0 { 2000 } else { me.gid() };
        let mut owned = raw(text, &["serial=abc"]);
        owned.owner = Some((Owner { uid, gid }, Some(Mode::from(0o640))));
        let device = Device::try_from(owned).unwrap();
        for _ in 0..2 {
            device.bring_up(&settings).unwrap();
            let node = fs::metadata(&place).unwrap();
            assert_eq!((node.uid(), node.gid()), (uid, gid));
            assert_eq!(node.mode() & 0o7777, 0o640);
        }
        let rule = fs::read_to_string(settings.udev_rules.join("99-seed-vdc.rules")).unwrap();
        let wanted = format!(
            "SUBSYSTEM==\"block\", KERNEL==\"vdc\", OWNER:=\"{uid}\", GROUP:=\"{gid}\", MODE:=\"0640\"\n"
        );
        assert_eq!(rule, wanted);
        let other = root.path().join("taken");
        fs::write(&other, "content").unwrap();
        let device = Device::try_from(raw(other.to_str().unwrap(), &["serial=abc"])).unwrap();
        assert!(matches!(
            device.bring_up(&settings),
            Err(DeviceError::Link { .. })
        ));
        assert_eq!(fs::read_to_string(&other).unwrap(), "content");
        let device = Device::try_from(raw(text, &["serial=none"])).unwrap();
        let error = device.bring_up(&settings).unwrap_err().to_string();
        assert!(error.contains("below/raw"), "{error}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (path, options) in [
            ("relative", &["serial=a"][..]),
            ("/", &["serial=a"]),
            ("/a/../b", &["serial=a"]),
            ("/dev/x", &[]),
            ("/dev/x", &["serial="]),
        ] {
            assert!(Device::try_from(raw(path, options)).is_err(), "{path}");
        }
        let mut other = raw("/dev/x", &["serial=a"]);
        other.kind = "vfio".into();
        assert!(matches!(Device::try_from(other), Err(SpecError::Driver(_))));
        let mut kata = raw("/dev/x", &[]);
        kata.id = "02/03".into();
        assert!(Device::try_from(kata).is_ok());
    }
}
