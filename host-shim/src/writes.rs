//! Writes to a guest's root that are kept in memory: an overlay over the root, whose upper layer is a memory file system of a
//! given size (Linux: `Documentation/filesystems/overlayfs.rst`, `tmpfs.rst`). What is below is only read.
//!
//! It is in the shim's own mount namespace and so gone with the shim, however that ends. The memory is the host's,
//! beside the guest's own, and counts for the control group of whoever writes: virtiofsd, which is in its pod's.
//! No process maps it, so it is in no process's figure. Mounts that are below `root` already are not seen through it.

use std::{
    ffi::CString,
    fmt,
    fs::{self, DirBuilder, Permissions},
    io,
    num::NonZeroU32,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, open},
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

/// A file system's smallest file takes a page; so many files, and the kernel's own memory for each, are allowed.
const INODES_PER_MIB: u64 = 256;

/// How much is kept in memory, in MiB: at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WritesMib(NonZeroU32);

impl WritesMib {
    /// A TiB. More is a typing error.
    pub const MAX: u32 = 1 << 20;

    /// In MiB.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// Of a number in the configuration or an annotation, where 0 is "not in memory".
    pub fn parse(mib: u32) -> Result<Option<Self>, String> {
        if mib > Self::MAX {
            return Err(format!("{mib} MiB are not from 0 to {}", Self::MAX));
        }
        Ok(NonZeroU32::new(mib).map(Self))
    }
}

impl fmt::Display for WritesMib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// That writes are kept in memory.
#[derive(Debug, Clone, Copy)]
pub struct InMemory<'a> {
    /// A folder to make it in, which is gone again when all is in place.
    pub at: &'a Path,
    /// The most that it holds.
    pub mib: WritesMib,
}

/// The memory file system's own mount. The overlay goes on without it.
struct Layer(PathBuf);

impl Drop for Layer {
    fn drop(&mut self) {
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        if let Err(error) = unmount(&self.0, flags) {
            tracing::warn!(path = %self.0.display(), %error, "memory for writes was not unmounted");
        }
        // Never with its content: were it still mounted, that would be the guest's.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Mounts it over what is at `root`, in the shim's own mount namespace.
pub(crate) fn keep_in_memory(root: &Path, InMemory { at, mib }: InMemory<'_>) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(at)?;
    let inodes = u64::from(mib.0.get()) * INODES_PER_MIB;
    let data = CString::new(format!("mode=0700,size={mib}m,nr_inodes={inodes}"))?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    mount("seed-writes", at, "tmpfs", flags, data.as_c_str())?;
    let layer = Layer(at.to_owned());
    let (upper, work) = (layer.0.join("upper"), layer.0.join("work"));
    for dir in [&upper, &work] {
        fs::create_dir(dir)?;
    }
    // The upper layer's own folder is the root that the guest sees.
    let like = fs::metadata(root)?;
    chown(&upper, Some(like.uid()), Some(like.gid()))?;
    fs::set_permissions(&upper, Permissions::from_mode(like.mode() & 0o7777))?;
    // By descriptors: names could have what overlayfs's options cannot.
    let held = [root, &upper, &work].map(opened);
    let [lower, upper, work] = held;
    let (lower, upper, work) = (lower?, upper?, work?);
    let name = |held: &OwnedFd| format!("/proc/self/fd/{}", held.as_raw_fd());
    let data = format!(
        "lowerdir={},upperdir={},workdir={}",
        name(&lower),
        name(&upper),
        name(&work)
    );
    let data = CString::new(data)?;
    mount(
        "overlay",
        root,
        "overlay",
        MountFlags::empty(),
        data.as_c_str(),
    )?;
    Ok(())
}

fn opened(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(open(dir, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_and_too_much_are_told_from_a_size() {
        assert_eq!(WritesMib::parse(0), Ok(None));
        assert_eq!(WritesMib::parse(7).unwrap().unwrap().to_string(), "7");
        let error = WritesMib::parse(WritesMib::MAX + 1).unwrap_err();
        assert!(error.contains("1048577 MiB"), "{error}");
    }
}
