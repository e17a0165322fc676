//! Places to take something from: what the host shares, and what is at a place where a volume may be.
//! Symbolic links do not lead out of there (`openat2(2)`), and what was opened is what is used, whatever
//! its name leads to by then.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags, open};

use super::{MountPoint, SpecError, share::ShareError};
use crate::sys::file;

/// A place to take something from is one where something may be mounted. The characters that separate the
/// layers of an overlay are refused.
pub(super) fn origin(text: &str) -> Result<PathBuf, SpecError> {
    let plain = !text.contains([':', ',', '\\']);
    let place = MountPoint::try_from(text)?;
    if !plain {
        return Err(SpecError::MountPoint {
            path: text.to_owned(),
            reason: "the path has \":\", \",\" or \"\\\" in it",
        });
    }
    Ok(place.as_path().to_owned())
}

/// Opens a place to take something from, without following links out of the folder for shares, and without
/// following any elsewhere.
pub(super) fn open_source(path: &Path, shared: &Path) -> Result<OwnedFd, ShareError> {
    let failed = |source: io::Error| ShareError::Source {
        path: path.to_owned(),
        source,
    };
    let (top, below, resolve) = match path.strip_prefix(shared) {
        Ok(below) => (shared, below, ResolveFlags::BENEATH),
        Err(_) => {
            let below = path.strip_prefix("/").unwrap_or(path);
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            (Path::new("/"), below, resolve)
        }
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let top = open(top, flags | OFlags::DIRECTORY, Mode::empty())
        .map_err(|error| failed(error.into()))?;
    let below = if below
        .components()
        .any(|part| matches!(part, Component::Normal(_)))
    {
        below
    } else {
        Path::new(".")
    };
    let resolve = resolve | ResolveFlags::NO_MAGICLINKS;
    file::open_resolved(&top, below, flags, Mode::empty(), resolve).map_err(failed)
}

/// The path by which the kernel reaches an open file.
pub(super) fn by_descriptor(source: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", source.as_raw_fd()).into()
}
