//! The root file system: every mount of `CreateTaskRequest.rootfs`, in the shim's own mount namespace.
//!
//! A mount with a target goes to that path inside the root, which may be made by the image: it is resolved
//! by the kernel with the root as `/`. Nothing is left when an attempt fails half-way.
//!
//! Options are those of mount(8) that snapshotters use; what is no flag goes to the file system as data. Flags of a
//! recursive bind hold for every mount that came with it: what is read-only for a guest is so to its last folder.

use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, chmodat, mkdirat, open},
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive,
        mount_change, unmount,
    },
};
use thiserror::Error;

use crate::{
    sys::{mounts, open_inside},
    writes::{InMemory, WritesMib, keep_in_memory},
};

/// Why the root file system is not there.
#[derive(Debug, Error)]
pub enum RootfsError {
    /// The folder itself.
    #[error("root file system {} cannot be used", path.display())]
    Root {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A target in it.
    #[error("mount target {} inside {} cannot be made", target.display(), root.display())]
    Target {
        /// The root.
        root: PathBuf,
        /// The target as the guest sees it.
        target: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The mount.
    #[error("{kind} mount of {source_path:?} at {} failed", target.display())]
    Mount {
        /// Its type.
        kind: String,
        /// What was mounted.
        source_path: String,
        /// Where.
        target: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The layer over it.
    #[error("writes to root {} cannot be kept in {mib} MiB of memory", path.display())]
    Writes {
        /// The root.
        path: PathBuf,
        /// How much.
        mib: WritesMib,
        /// Why.
        source: io::Error,
    },
}

/// One mount, as containerd gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootMount {
    /// `overlay`, `bind`...
    pub kind: String,
    /// What to mount.
    pub source: String,
    /// Where inside the root; empty means the root itself.
    pub target: String,
    /// As for mount(8).
    pub options: Vec<String>,
}

impl RootMount {
    fn is_root(&self) -> bool {
        self.target.trim_matches('/').is_empty()
    }
}

/// A root file system that is mounted until this is dropped.
#[derive(Debug)]
pub struct Rootfs {
    path: PathBuf,
    mounted: usize,
}

impl Rootfs {
    /// Mounts all at `path`, in their order. With none, `path` is used as it is. What is then written to the root, though not
    /// to other mounts in it, is kept in memory where that is wanted.
    pub fn mount(
        path: &Path,
        mounts: &[RootMount],
        writes: Option<InMemory<'_>>,
    ) -> Result<Self, RootfsError> {
        let wrap = |source| RootfsError::Root {
            path: path.to_owned(),
            source,
        };
        if !mounts.is_empty() {
            fs::create_dir_all(path).map_err(wrap)?;
        }
        let path = path.canonicalize().map_err(wrap)?;
        let mut rootfs = Self { path, mounted: 0 };
        let roots = mounts.iter().rposition(RootMount::is_root);
        let (roots, inside) = mounts.split_at(roots.map_or(0, |last| last + 1));
        rootfs.apply(roots)?;
        if let Some(writes) = writes {
            rootfs.keep_in_memory(writes)?;
        }
        rootfs.apply(inside)?;
        Ok(rootfs)
    }

    fn apply(&mut self, mounts: &[RootMount]) -> Result<(), RootfsError> {
        for one in mounts {
            let target = self.target(&one.target)?;
            apply(one, &target).map_err(|source| RootfsError::Mount {
                kind: one.kind.clone(),
                source_path: one.source.clone(),
                target: self.path.join(one.target.trim_start_matches('/')),
                source,
            })?;
            if one.is_root() {
                self.mounted += 1;
            }
        }
        Ok(())
    }

    fn keep_in_memory(&mut self, writes: InMemory<'_>) -> Result<(), RootfsError> {
        keep_in_memory(&self.path, writes).map_err(|source| RootfsError::Writes {
            path: self.path.clone(),
            mib: writes.mib,
            source,
        })?;
        self.mounted += 1;
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn target(&self, target: &str) -> Result<OwnedFd, RootfsError> {
        make_inside(&self.path, Path::new(target)).map_err(|source| RootfsError::Target {
            root: self.path.clone(),
            target: target.into(),
            source,
        })
    }

    fn unmount(&mut self) {
        while self.mounted > 0 {
            self.mounted -= 1;
            // Lazily: what still holds a file open must not keep the clean-up from ending.
            let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
            if let Err(error) = unmount(&self.path, flags) {
                tracing::warn!(path = %self.path.display(), %error, "root was not unmounted");
            }
        }
    }
}

impl Drop for Rootfs {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Opens a folder inside `root`, and makes what is missing of it.
fn make_inside(root: &Path, target: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = open(root, flags, Mode::empty())?;
    let mut so_far = PathBuf::from("/");
    let mut at = open_inside(dir.as_fd(), &so_far, flags)?;
    for part in target.components() {
        let Component::Normal(name) = part else {
            continue;
        };
        so_far.push(name);
        at = match open_inside(dir.as_fd(), &so_far, flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mode = Mode::from_raw_mode(0o755);
                mkdirat(at.as_fd(), name, mode)?;
                // The folder is the guest's: the umask of the shim is no matter of it.
                chmodat(at.as_fd(), name, mode, AtFlags::empty())?;
                open_inside(dir.as_fd(), &so_far, flags)?
            }
            other => other?,
        };
    }
    Ok(at)
}

#[derive(Debug, PartialEq)]
struct Options {
    flags: MountFlags,
    bind: Option<Recursive>,
    data: String,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Recursive(bool);

fn options(words: &[String]) -> Options {
    let mut all = Options {
        flags: MountFlags::empty(),
        bind: None,
        data: String::new(),
    };
    let mut data: Vec<&str> = Vec::new();
    for word in words {
        match word.as_str() {
            "ro" | "rro" => all.flags |= MountFlags::RDONLY,
            "rw" | "rrw" | "" | "defaults" => {}
            "nosuid" | "rnosuid" => all.flags |= MountFlags::NOSUID,
            "nodev" | "rnodev" => all.flags |= MountFlags::NODEV,
            "noexec" | "rnoexec" => all.flags |= MountFlags::NOEXEC,
            "noatime" | "rnoatime" => all.flags |= MountFlags::NOATIME,
            "nodiratime" => all.flags |= MountFlags::NODIRATIME,
            "relatime" => all.flags |= MountFlags::RELATIME,
            "strictatime" => all.flags |= MountFlags::STRICTATIME,
            "sync" => all.flags |= MountFlags::SYNCHRONOUS,
            "bind" => all.bind = Some(Recursive(false)),
            "rbind" => all.bind = Some(Recursive(true)),
            "private" | "rprivate" | "slave" | "rslave" => {}
            other => data.push(other),
        }
    }
    all.data = data.join(",");
    all
}

/// Makes one mount on what `target` is.
pub(crate) fn apply(one: &RootMount, target: &OwnedFd) -> io::Result<()> {
    let Options { flags, bind, data } = options(&one.options);
    // The descriptor's own path, so that a link that appears now changes nothing.
    let path = format!("/proc/self/fd/{}", target.as_raw_fd());
    let bind = bind.or((one.kind == "bind").then_some(Recursive(false)));
    match bind {
        Some(Recursive(deep)) => {
            if deep {
                mount_bind_recursive(&one.source, &path)?;
            } else {
                mount_bind(&one.source, &path)?;
            }
            // The descriptor is still the folder underneath: ask for the new mount by its name.
            let on_top = fs::read_link(&path)?;
            // Private first: nothing that is mounted on the host from here on appears in it, unrestricted.
            mount_change(
                &on_top,
                MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
            )?;
            mounts::restrict(&on_top, flags, deep)?;
        }
        None => {
            let data = CString::new(data)?;
            mount(&one.source, &path, &one.kind, flags, data.as_c_str())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn flags_and_data_are_told_apart() {
        let read = options(&words("ro,nosuid,lowerdir=/a:/b,upperdir=/u,workdir=/w"));
        assert_eq!(read.flags, MountFlags::RDONLY | MountFlags::NOSUID);
        assert_eq!(read.data, "lowerdir=/a:/b,upperdir=/u,workdir=/w");
        let deep = options(&words("rbind,rro"));
        assert_eq!(deep.bind, Some(Recursive(true)));
        assert_eq!(deep.flags, MountFlags::RDONLY);
    }

    #[test]
    fn targets_are_made_inside_the_root_whatever_its_links_say() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("root");
        fs::create_dir(&root).unwrap();
        symlink("../outside", root.join("nix")).unwrap();
        fs::create_dir(outer.path().join("outside")).unwrap();
        // The link means /outside of the root, which does not exist: so it is refused or made inside.
        let _ = make_inside(&root, Path::new("/nix/store"));
        assert_eq!(
            fs::read_dir(outer.path().join("outside")).unwrap().count(),
            0
        );
        make_inside(&root, Path::new("/a/../b/c")).unwrap();
        assert!(root.join("a/b/c").is_dir());
    }

    #[test]
    fn a_root_without_mounts_is_used_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = Rootfs::mount(dir.path(), &[], None).unwrap();
        assert_eq!(rootfs.path(), dir.path().canonicalize().unwrap());
        let error = Rootfs::mount(Path::new("/nonexistent/root"), &[], None).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/root"));
    }
}
