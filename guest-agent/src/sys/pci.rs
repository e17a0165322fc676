//! Devices by their place on the PCI bus, as Kata names them: `02/03` is function 0 of slot 3 on the bus
//! behind the bridge in slot 2 of the root bus (`Documentation/ABI/testing/sysfs-bus-pci`).

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// More bridges than this stand behind no device of a VM.
const MAX_DEPTH: usize = 8;

/// Slots of a bus.
const SLOTS: u8 = 32;

/// Functions of a device.
const FUNCTIONS: u8 = 8;

/// The root bus below `/sys/devices`.
const ROOT_BUS: (&str, &str) = ("pci0000:00", "0000:00");

/// Where a device sits: slot and function at each bridge, the device's own last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciPath(Vec<(u8, u8)>);

impl PciPath {
    /// Understands `02`, `02/03` and `02.0/03.1`; all numbers are hexadecimal.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Option<Vec<_>> = text.split('/').map(place).collect();
        parts.filter(|parts| parts.len() <= MAX_DEPTH).map(PciPath)
    }

    /// The kernel's folder of the device; `None` while there is no such device.
    pub fn find(&self, sys_devices: &Path) -> io::Result<Option<PathBuf>> {
        let mut folder = sys_devices.join(ROOT_BUS.0);
        let mut bus = ROOT_BUS.1.to_owned();
        let last = self.0.len().saturating_sub(1);
        for (at, (slot, function)) in self.0.iter().enumerate() {
            folder.push(format!("{bus}:{slot:02x}.{function:x}"));
            if !folder.is_dir() {
                return Ok(None);
            }
            if at < last {
                // A bridge has exactly one bus behind it.
                let Some(behind) = only_entry(&folder.join("pci_bus"))? else {
                    return Ok(None);
                };
                bus = behind;
            }
        }
        Ok(Some(folder))
    }

    /// The name of what the device is to the kernel, such as `vda` (`block`) or `eth0` (`net`).
    pub fn find_class(&self, sys_devices: &Path, class: &str) -> io::Result<Option<String>> {
        let Some(folder) = self.find(sys_devices)? else {
            return Ok(None);
        };
        if let Some(name) = only_entry(&folder.join(class))? {
            return Ok(Some(name));
        }
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("virtio")
                && let Some(name) = only_entry(&entry.path().join(class))?
            {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }
}

impl fmt::Display for PciPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (slot, function)) in self.0.iter().enumerate() {
            let slash = if at == 0 { "" } else { "/" };
            write!(f, "{slash}{slot:02x}.{function:x}")?;
        }
        Ok(())
    }
}

fn place(part: &str) -> Option<(u8, u8)> {
    let (slot, function) = part.split_once('.').unwrap_or((part, "0"));
    let number = |text: &str, below: u8| {
        let plain = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u8::from_str_radix(text, 16).ok()?;
        (plain && number < below).then_some(number)
    };
    Some((number(slot, SLOTS)?, number(function, FUNCTIONS)?))
}

/// The first name in a folder; `None` when it is empty or not there.
fn only_entry(folder: &Path) -> io::Result<Option<String>> {
    let mut entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let first = entries.next().transpose()?;
    Ok(first.and_then(|entry| entry.file_name().into_string().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_behind_a_bridge_is_found_by_its_place() {
        let sys = tempfile::tempdir().unwrap();
        let bridge = sys.path().join("pci0000:00/0000:00:02.0");
        fs::create_dir_all(bridge.join("pci_bus/0000:01")).unwrap();
        fs::create_dir_all(bridge.join("0000:01:03.0/virtio4/block/vdc")).unwrap();
        let path = PciPath::parse("02/03").unwrap();
        assert_eq!(path.to_string(), "02.0/03.0");
        let found = path.find_class(sys.path(), "block").unwrap();
        assert_eq!(found.as_deref(), Some("vdc"));
        assert_eq!(path.find_class(sys.path(), "net").unwrap(), None);
        let other = PciPath::parse("02/04").unwrap();
        assert_eq!(other.find(sys.path()).unwrap(), None);
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in [
            "",
            "/",
            "20",
            "02/",
            "../02",
            "2/3/",
            "02.8",
            "+2",
            "002",
            "1/1/1/1/1/1/1/1/1",
        ] {
            assert_eq!(PciPath::parse(text), None, "{text:?}");
        }
        assert_eq!(PciPath::parse("1f.7"), Some(PciPath(vec![(31, 7)])));
    }
}
