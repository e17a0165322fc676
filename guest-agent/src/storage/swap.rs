//! Swap space that the host attaches, already made: it is switched on by `swapon(8)`.

use std::{
    io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::sys::{command, pci::PciPath};

const POLL: Duration = Duration::from_millis(20);

/// How long `swapon` may take.
const SWAPON_LIMIT: Duration = Duration::from_secs(30);

/// Switches on the disk at this place on the PCI bus, as soon as it is there.
pub fn add_by_path(
    path: &PciPath,
    sys_devices: &Path,
    dev: &Path,
    limit: Duration,
) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(name) = path.find_class(sys_devices, "block")? {
            return add(&dev.join(name), limit);
        }
        if Instant::now() >= deadline {
            let text = format!("there is no disk at PCI path {path}");
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        thread::sleep(POLL);
    }
}

/// Switches on the disk `node`, as soon as it is there.
pub fn add(node: &Path, limit: Duration) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    while !node.exists() && Instant::now() < deadline {
        thread::sleep(POLL);
    }
    if !node.exists() {
        let text = format!("there is no disk {}", node.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    let ended = command::run("swapon", &[node], SWAPON_LIMIT).map_err(io::Error::other)?;
    if ended.status.success() {
        return Ok(());
    }
    Err(io::Error::other(ended.words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_does_not_come_is_named() {
        let sys = tempfile::tempdir().unwrap();
        let path = PciPath::parse("02").unwrap();
        let limit = Duration::from_millis(30);
        let error = add_by_path(&path, sys.path(), Path::new("/dev"), limit).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(error.to_string(), "there is no disk at PCI path 02.0");
    }
}
