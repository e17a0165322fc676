//! Paths inside a root file system that the guest may have written: resolved by the kernel with the root
//! as `/` (openat2(2), `RESOLVE_IN_ROOT`), so that no link and no `..` leads out of it.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, open};
use thiserror::Error;

use crate::sys::open_inside;

/// Why a path inside a root could not be opened.
#[derive(Debug, Error)]
pub enum InsideError {
    /// The root itself.
    #[error("root file system {} cannot be opened", root.display())]
    Root {
        /// The root.
        root: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The path in it.
    #[error("{} cannot be opened inside {}", path.display(), root.display())]
    Path {
        /// The root.
        root: PathBuf,
        /// The path as the guest sees it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a folder, a device, a socket.
    #[error("{} inside {} is no regular file", path.display(), root.display())]
    NotAFile {
        /// The root.
        root: PathBuf,
        /// The path as the guest sees it.
        path: PathBuf,
    },
}

/// Opens a regular file inside `root` for reading. Returns it with its path on the host, in which no
/// symbolic link is left.
pub fn resolve(root: &Path, path: &Path) -> Result<(File, PathBuf), InsideError> {
    let outer = |source: rustix::io::Errno| InsideError::Root {
        root: root.to_owned(),
        source: source.into(),
    };
    let wrap = |source: io::Error| InsideError::Path {
        root: root.to_owned(),
        path: path.to_owned(),
        source,
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = open(root, flags, Mode::empty()).map_err(outer)?;
    // NONBLOCK: opening a FIFO must not wait for its other end.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let file = File::from(open_inside(dir.as_fd(), path, flags).map_err(wrap)?);
    if !file.metadata().map_err(wrap)?.is_file() {
        return Err(InsideError::NotAFile {
            root: root.to_owned(),
            path: path.to_owned(),
        });
    }
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let host = std::fs::read_link(link).map_err(wrap)?;
    Ok((file, host))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::CWD;

    use super::*;

    #[test]
    fn links_are_followed_inside_the_root_and_never_out_of_it() {
        let outer = tempfile::tempdir().unwrap();
        let outer_path = outer.path().canonicalize().unwrap();
        let root = outer_path.join("root");
        std::fs::create_dir_all(root.join("nix/store/k")).unwrap();
        std::fs::write(root.join("nix/store/k/bzImage"), "kernel").unwrap();
        std::fs::write(outer_path.join("secret"), "host").unwrap();
        symlink("/nix/store/k/bzImage", root.join("kernel")).unwrap();
        symlink("../../../secret", root.join("escape")).unwrap();
        symlink(outer_path.join("secret"), root.join("absolute")).unwrap();

        let (_, host) = resolve(&root, Path::new("/kernel")).unwrap();
        assert_eq!(host, root.join("nix/store/k/bzImage"));
        for path in ["/escape", "/absolute", "/../secret"] {
            let error = resolve(&root, Path::new(path)).unwrap_err();
            assert!(error.to_string().contains(path), "{error}");
        }
    }

    #[test]
    fn what_is_no_file_is_refused_without_waiting() {
        let root = tempfile::tempdir().unwrap();
        rustix::fs::mkfifoat(CWD, root.path().join("fifo"), Mode::RUSR).unwrap();
        for path in ["/", "/fifo"] {
            let error = resolve(root.path(), Path::new(path)).unwrap_err();
            assert!(matches!(error, InsideError::NotAFile { .. }), "{error}");
        }
    }
}
