//! Restrictions of mounts that are there (mount_setattr(2), Linux 5.12): what is given is added, everything else
//! stays as it is, also for the mounts below where that is wanted.

use std::{ffi::CString, io, os::unix::ffi::OsStrExt, path::Path};

use rustix::mount::MountFlags;

/// `MOUNT_ATTR_*` of `linux/mount.h`.
const READ_ONLY: u64 = 0x01;
const NO_SUID: u64 = 0x02;
const NO_DEV: u64 = 0x04;
const NO_EXEC: u64 = 0x08;
const NO_ATIME: u64 = 0x10;
const STRICT_ATIME: u64 = 0x20;
const NO_DIR_ATIME: u64 = 0x80;
/// Which of the three ways to keep access times; without a bit it is `relatime`.
const ATIMES: u64 = 0x70;

/// The bits of `struct mount_attr` for these flags: to set, and to clear before.
fn bits(flags: MountFlags) -> (u64, u64) {
    let table = [
        (MountFlags::RDONLY, READ_ONLY),
        (MountFlags::NOSUID, NO_SUID),
        (MountFlags::NODEV, NO_DEV),
        (MountFlags::NOEXEC, NO_EXEC),
        (MountFlags::NOATIME, NO_ATIME),
        (MountFlags::STRICTATIME, STRICT_ATIME),
        (MountFlags::NODIRATIME, NO_DIR_ATIME),
    ];
    let wanted = table.iter().filter(|(flag, _)| flags.contains(*flag));
    let set = wanted.fold(0, |set, (_, bit)| set | bit);
    let times = MountFlags::NOATIME | MountFlags::STRICTATIME | MountFlags::RELATIME;
    let clear = if flags.intersects(times) { ATIMES } else { 0 };
    (set, clear)
}

/// Restricts the mount on top of `at`, and with `deep` each mount below it.
#[allow(unsafe_code, reason = "a system call that no library has a word for")]
pub fn restrict(at: &Path, flags: MountFlags, deep: bool) -> io::Result<()> {
    let (set, clear) = bits(flags);
    if set == 0 && clear == 0 {
        return Ok(());
    }
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: clear,
        propagation: 0,
        userns_fd: 0,
    };
    let path = CString::new(at.as_os_str().as_bytes())?;
    let how = if deep { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a string that ends with a zero, the attributes are one `struct mount_attr` of the size
    // that is given, and both outlive the call, which writes to neither.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            how,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_to_keep_access_times_takes_the_place_of_another() {
        assert_eq!(bits(MountFlags::RDONLY | MountFlags::NODEV), (0x05, 0));
        assert_eq!(bits(MountFlags::NOATIME), (0x10, 0x70));
        assert_eq!(bits(MountFlags::RELATIME), (0, 0x70));
        assert_eq!(bits(MountFlags::empty()), (0, 0));
    }
}
