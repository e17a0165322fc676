//! The folder that the host shares with a guest beside its root: a little memory file system in the shim's own
//! mount namespace, on which each shared file or folder is bound under its name. It is gone with the shim however
//! that ends, and nothing in here ever deletes what is below a mount.

use std::{
    ffi::CStr,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, open},
    mount::{MountFlags, UnmountFlags, mount, unmount},
};
use thiserror::Error;

use crate::{
    rootfs::{self, RootMount},
    spec::SharedMount,
    sys::mounts::restrict,
};

/// The folder itself and what the kernel keeps for itself.
const OWN_INODES: usize = 2;

/// What the guest makes in it shall mean nothing on the host.
const HARMLESS: [&str; 2] = ["nodev", "nosuid"];

/// Why nothing is shared.
#[derive(Debug, Error)]
pub enum ShareError {
    /// The folder itself.
    #[error("shared folder {} cannot be made", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A source.
    #[error("{} for {} in the guest cannot be shared", from.display(), to.display())]
    Source {
        /// On the host.
        from: PathBuf,
        /// In the guest.
        to: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A shared folder, until this is dropped.
#[derive(Debug)]
pub struct Share {
    path: PathBuf,
}

impl Share {
    /// Makes the folder at `path` and binds all into it. To be called in the shim's own mount namespace.
    pub fn make(path: &Path, mounts: &[SharedMount]) -> Result<Self, ShareError> {
        let wrap = |source| ShareError::Folder {
            path: path.to_owned(),
            source,
        };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(wrap)?;
        let flags = MountFlags::NODEV | MountFlags::NOSUID;
        // Mount points are all that it holds: empty files and folders.
        let inodes = mounts.len() + OWN_INODES;
        let data = format!("mode=0755,size=64k,nr_inodes={inodes}\0");
        let data = CStr::from_bytes_with_nul(data.as_bytes()).map_err(io::Error::other);
        let mounted = data.and_then(|data| Ok(mount("seed-share", path, "tmpfs", flags, data)?));
        mounted.map_err(wrap)?;
        let share = Self {
            path: path.to_owned(),
        };
        for one in mounts {
            share.bind(one).map_err(|source| ShareError::Source {
                from: one.source.clone(),
                to: one.destination.clone(),
                source,
            })?;
        }
        // The guest makes nothing beside what it was given.
        restrict(path, MountFlags::RDONLY, false).map_err(wrap)?;
        Ok(share)
    }

    fn bind(&self, one: &SharedMount) -> io::Result<()> {
        let target = self.path.join(&one.name);
        if fs::metadata(&one.source)?.is_dir() {
            fs::create_dir(&target)?;
        } else {
            File::create_new(&target)?;
        }
        let target = open(&target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let read_only = one.read_only().then_some("rro");
        let bind = RootMount {
            kind: "bind".into(),
            source: one.source.to_string_lossy().into_owned(),
            target: String::new(),
            options: ["rbind"]
                .into_iter()
                .chain(HARMLESS)
                .chain(read_only)
                .map(str::to_owned)
                .collect(),
        };
        rootfs::apply(&bind, &target)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // Lazily, with all that is mounted in it: whatever still holds a file open keeps nobody waiting.
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        if let Err(error) = unmount(&self.path, flags) {
            tracing::warn!(path = %self.path.display(), %error, "shared folder was not unmounted");
        }
        // Never with its content: were it still mounted, that would be somebody's files.
        let _ = fs::remove_dir(&self.path);
    }
}
