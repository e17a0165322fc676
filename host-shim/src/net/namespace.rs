//! Enters a network namespace. The shim of a pod lives in the pod's, and so do the VMM and everything else that
//! it starts: `/proc/<shim>/ns/net` is where containerd looks for the pod's network.

use std::{
    fs::{self, File, Metadata},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use thiserror::Error;

/// The namespace of the thread that asks.
pub(super) const OWN: &str = "/proc/thread-self/ns/net";

/// Why a network namespace was not entered.
#[derive(Debug, Error)]
#[error("network namespace {} cannot be entered", path.display())]
pub struct NamespaceError {
    path: PathBuf,
    source: io::Error,
}

/// A network namespace, told from every other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    device: u64,
    inode: u64,
}

impl Network {
    /// The calling thread's.
    pub fn own() -> Result<Self, NamespaceError> {
        Self::at(Path::new(OWN))
    }

    /// The one that a file names.
    pub fn at(path: &Path) -> Result<Self, NamespaceError> {
        let metadata = fs::metadata(path).map_err(|source| NamespaceError {
            path: path.into(),
            source,
        })?;
        Ok(Self::of(&metadata))
    }

    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// Takes the calling thread, and what it starts from now on, into the network namespace at `path`. To be in it
/// already is no error. Threads that exist stay where they are: to be called on the one thread of the runtime.
pub fn enter(path: &Path) -> Result<(), NamespaceError> {
    let wrap = |source| NamespaceError {
        path: path.to_owned(),
        source,
    };
    let target = File::open(path).map_err(wrap)?;
    let wanted = Network::of(&target.metadata().map_err(wrap)?);
    if wanted == Network::own()? {
        return Ok(());
    }
    let entered = move_into_link_name_space(target.as_fd(), Some(LinkNameSpaceType::Network));
    entered.map_err(|error| wrap(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ones_own_namespace_is_entered_by_doing_nothing() {
        enter(Path::new(OWN)).unwrap();
    }

    #[test]
    fn what_is_no_namespace_is_refused_by_name() {
        for path in ["/nonexistent/netns", "/dev/null"] {
            let error = enter(Path::new(path)).unwrap_err();
            assert!(error.to_string().contains(path), "{error}");
        }
    }
}
