//! Mounts: `mount(2)`, `umount2(2)` and `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).

use std::{
    ffi::{CString, OsString},
    fs, io,
    os::{
        fd::AsRawFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    mount::{MountFlags, UnmountFlags, mount_bind, mount_bind_recursive, mount_remount},
};

/// A mount as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where it is.
    pub mount_point: PathBuf,
    /// What is mounted: for a block device its node.
    pub source: PathBuf,
    /// The file system's name.
    pub filesystem: String,
}

/// The most bytes of options: the kernel copies one page of 4 KiB (`copy_mount_options` of `fs/namespace.c`)
/// and says nothing of what is behind it.
const MAX_DATA_BYTES: usize = 4095;

/// Mounts `source` at `target`. Options that the kernel would cut are refused.
pub fn mount(
    source: &Path,
    target: &Path,
    filesystem: &str,
    flags: MountFlags,
    data: &str,
) -> io::Result<()> {
    if data.len() > MAX_DATA_BYTES {
        let text = format!("mount options of {} bytes are too long", data.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let data = CString::new(data)?;
    Ok(rustix::mount::mount(
        source,
        target,
        filesystem,
        flags,
        Some(data.as_c_str()),
    )?)
}

/// Puts what is at `source` at `target` as well, with `flags`; with `recursive`, what is mounted below it
/// too. A symbolic link at `target` is covered as it is, wherever it leads.
pub fn bind(source: &Path, target: &Path, flags: MountFlags, recursive: bool) -> io::Result<()> {
    let open = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = rustix::fs::open(target, open, Mode::empty())?;
    let place = format!("/proc/self/fd/{}", open.as_raw_fd());
    if recursive {
        mount_bind_recursive(source, place.as_str())?;
    } else {
        mount_bind(source, place.as_str())?;
    }
    // A bind mount takes its flags only when it is there.
    if let Err(error) = mount_remount(target, flags | MountFlags::BIND, c"") {
        // Better none than one that may be written.
        let _ = unmount(target);
        return Err(error.into());
    }
    Ok(())
}

/// Takes away the topmost mount at `target`.
pub fn unmount(target: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(target, UnmountFlags::NOFOLLOW)?)
}

/// Takes it away also while it is in use: it goes when the last user does.
pub fn detach(target: &Path) -> io::Result<()> {
    let flags = UnmountFlags::NOFOLLOW | UnmountFlags::DETACH;
    Ok(rustix::mount::unmount(target, flags)?)
}

/// All mounts, in the order in which they were made.
pub fn all() -> io::Result<Vec<Mounted>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let lines = table.split(|byte| *byte == b'\n');
    Ok(lines.filter_map(parse_line).collect())
}

/// The topmost mount at exactly `target`.
pub fn mounted_at(target: &Path) -> io::Result<Option<Mounted>> {
    // A later one is on top of an earlier one.
    let mut all = all()?.into_iter().rev();
    Ok(all.find(|mounted| mounted.mount_point == target))
}

/// `36 35 98:0 /root /mount/point options optional... - type source super-options`
fn parse_line(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mount_point = fields.nth(4)?;
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let filesystem = String::from_utf8_lossy(rest.next()?).into_owned();
    let source = unescape(rest.next()?);
    Some(Mounted {
        mount_point: unescape(mount_point),
        source,
        filesystem,
    })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = after
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let code = code.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) if *first == b'\\' => {
                bytes.push(code);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

/// The room of the file system at `path`, in bytes.
pub fn size(path: &Path) -> io::Result<u64> {
    let room = rustix::fs::statvfs(path.as_os_str().as_bytes())?;
    Ok(room.f_blocks * room.f_frsize)
}

/// Some units of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// All that there are.
    pub total: u64,
    /// Those in use.
    pub used: u64,
    /// Those that are left to everybody.
    pub available: u64,
}

/// What a file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes.
    pub bytes: Room,
    /// Inodes.
    pub inodes: Room,
}

/// What the file system at `path` has (`statvfs(3)`).
pub fn usage(path: &Path) -> io::Result<Usage> {
    let room = rustix::fs::statvfs(path.as_os_str().as_bytes())?;
    let bytes = |blocks: u64| blocks.saturating_mul(room.f_frsize);
    Ok(Usage {
        bytes: Room {
            total: bytes(room.f_blocks),
            used: bytes(room.f_blocks.saturating_sub(room.f_bfree)),
            available: bytes(room.f_bavail),
        },
        inodes: Room {
            total: room.f_files,
            used: room.f_files.saturating_sub(room.f_ffree),
            available: room.f_favail,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_mounted_and_a_file_is_not() {
        assert!(mounted_at(Path::new("/")).unwrap().is_some());
        assert_eq!(mounted_at(Path::new("/etc/passwd-no")).unwrap(), None);
        assert!(size(Path::new("/")).unwrap() > 0);
    }

    #[test]
    fn options_that_the_kernel_would_cut_or_misread_are_refused() {
        let there = Path::new("/nonexistent");
        for data in ["x".repeat(MAX_DATA_BYTES + 1), "a\0b".to_owned()] {
            let refused = mount(there, there, "tmpfs", MountFlags::empty(), &data);
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_line_with_optional_fields_and_escapes_is_understood() {
        let line =
            br"36 35 253:16 / /seed/my\040data rw,nodev shared:1 master:2 - ext4 /dev/vdb rw";
        let mounted = parse_line(line).unwrap();
        assert_eq!(mounted.mount_point, Path::new("/seed/my data"));
        assert_eq!(mounted.source, Path::new("/dev/vdb"));
        assert_eq!(mounted.filesystem, "ext4");
        assert_eq!(parse_line(b""), None);
    }
}
