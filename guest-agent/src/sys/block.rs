//! Block devices as the kernel lists them in `/sys/block` (`Documentation/ABI/stable/sysfs-block`).

use std::{fs, io, path::Path};

/// The unit of `/sys/block/*/size`, whatever the device's own block size is.
const SECTOR_BYTES: u64 = 512;

/// The kernel's name (`vdb`) of the disk with this serial; `None` while there is none.
pub fn find_by_serial(sys_block: &Path, serial: &str) -> io::Result<Option<String>> {
    for entry in fs::read_dir(sys_block)? {
        let entry = entry?;
        // Only virtio-blk has the file here; a disk may also vanish while we look.
        let Ok(found) = fs::read_to_string(entry.path().join("serial")) else {
            continue;
        };
        if found.trim_end_matches(['\n', '\0']) == serial {
            return Ok(entry.file_name().into_string().ok());
        }
    }
    Ok(None)
}

/// The device's size in bytes.
pub fn size(sys_block: &Path, name: &str) -> io::Result<u64> {
    let text = fs::read_to_string(sys_block.join(name).join("size"))?;
    let sectors: u64 = text
        .trim()
        .parse()
        .map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(sectors * SECTOR_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_found_by_its_serial_and_only_by_all_of_it() {
        let sys = tempfile::tempdir().unwrap();
        for (disk, serial) in [
            ("vda", Some("data-2")),
            ("vdb", Some("data")),
            ("loop0", None),
        ] {
            fs::create_dir(sys.path().join(disk)).unwrap();
            fs::write(sys.path().join(disk).join("size"), "131072\n").unwrap();
            if let Some(serial) = serial {
                fs::write(sys.path().join(disk).join("serial"), serial).unwrap();
            }
        }
        assert_eq!(
            find_by_serial(sys.path(), "data").unwrap().as_deref(),
            Some("vdb")
        );
        assert_eq!(find_by_serial(sys.path(), "dat").unwrap(), None);
        assert_eq!(size(sys.path(), "vdb").unwrap(), 64 * 1024 * 1024);
    }
}
