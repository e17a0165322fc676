//! Processors and memory that the host attached while the guest runs, brought online through sysfs
//! (`Documentation/ABI/testing/sysfs-devices-system-cpu`, `-memory`).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

const ONLINE: &str = "online";
const OFFLINE: &str = "offline";

/// Brings every offline processor online; how many are online then.
pub fn online_cpus(sys: &Path) -> io::Result<u32> {
    let mut online = 0;
    for folder in numbered(&sys.join("devices/system/cpu"), "cpu")? {
        let file = folder.join(ONLINE);
        match fs::read_to_string(&file) {
            // The first processor has no such file where it cannot go.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(state) if state.trim() == "1" => {}
            Ok(_) => fs::write(&file, "1")?,
            Err(error) => return Err(error),
        }
        online += 1;
    }
    Ok(online)
}

/// Brings every offline block of memory online; how many were.
pub fn online_memory(sys: &Path) -> io::Result<u32> {
    let mut changed = 0;
    for folder in numbered(&sys.join("devices/system/memory"), "memory")? {
        let file = folder.join("state");
        if fs::read_to_string(&file)?.trim() == OFFLINE {
            let written = fs::write(&file, ONLINE);
            or_by_another(written, &file)?;
            changed += 1;
        }
    }
    Ok(changed)
}

/// A block that a rule of udev or the kernel itself brought online between our look and our write refuses the
/// write with EINVAL (`state_store` in `drivers/base/memory.c`), and has what was wanted.
fn or_by_another(written: io::Result<()>, state: &Path) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            match fs::read_to_string(state)?.trim() {
                ONLINE => Ok(()),
                _ => Err(error),
            }
        }
        other => other,
    }
}

/// How much memory one block has; 0 where memory cannot be added.
pub fn memory_block_bytes(sys: &Path) -> io::Result<u64> {
    let file = sys.join("devices/system/memory/block_size_bytes");
    match fs::read_to_string(file) {
        Ok(text) => {
            u64::from_str_radix(text.trim(), 16).map_err(|_| io::ErrorKind::InvalidData.into())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// The file by which the kernel is told of memory, where it does not find it by itself.
pub fn probe_file(sys: &Path) -> Option<PathBuf> {
    let file = sys.join("devices/system/memory/probe");
    file.exists().then_some(file)
}

/// Tells the kernel of memory at these addresses.
pub fn probe_memory(file: &Path, addresses: &[u64]) -> io::Result<()> {
    for address in addresses {
        fs::write(file, format!("{address:#x}"))?;
    }
    Ok(())
}

/// Folders named `prefix` and a number.
fn numbered(folder: &Path, prefix: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(prefix));
        if number.is_some_and(|number| number.parse::<u32>().is_ok()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offline_comes_online_and_the_rest_is_counted() {
        let sys = tempfile::tempdir().unwrap();
        let at = |name: &str| sys.path().join("devices/system").join(name);
        for (name, text) in [
            ("cpu/cpu1/online", "1\n"),
            ("cpu/cpu2/online", "0\n"),
            ("cpu/cpufreq/online", "0\n"),
            ("memory/memory0/state", "online\n"),
            ("memory/memory32/state", "offline\n"),
            ("memory/block_size_bytes", "8000000\n"),
        ] {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), text).unwrap();
        }
        fs::create_dir(at("cpu/cpu0")).unwrap();
        assert_eq!(online_cpus(sys.path()).unwrap(), 3);
        assert_eq!(fs::read_to_string(at("cpu/cpu2/online")).unwrap(), "1");
        assert_eq!(online_memory(sys.path()).unwrap(), 1);
        assert_eq!(online_memory(sys.path()).unwrap(), 0);
        assert_eq!(memory_block_bytes(sys.path()).unwrap(), 128 << 20);
        assert_eq!(probe_file(sys.path()), None);
        fs::write(at("memory/probe"), "").unwrap();
        let file = probe_file(sys.path()).unwrap();
        probe_memory(&file, &[0x1000_0000]).unwrap();
        assert_eq!(fs::read_to_string(file).unwrap(), "0x10000000");
    }

    #[test]
    fn a_block_that_somebody_else_brought_online_is_as_good() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let refused = || Err(io::ErrorKind::InvalidInput.into());
        fs::write(&state, "online\n").unwrap();
        or_by_another(refused(), &state).unwrap();
        fs::write(&state, "offline\n").unwrap();
        let error = or_by_another(refused(), &state).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
