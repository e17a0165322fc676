//! The files that QEMU finds open: kernel, disks, connections to its daemons, its monitor. So it needs no folder and no
//! file of the host, and can be any user.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::{fs::MetadataExt, net::UnixStream},
    },
    path::Path,
};

use rustix::fs::{MemfdFlags, memfd_create};

use super::args::Numbers;
use crate::{
    spec::VmSpec,
    vmm::{VmmError, daemons::Connections},
};

/// Everybody may read.
const READ_BY_ALL: u32 = 0o004;

/// Open files, and their numbers for the command line.
#[derive(Debug)]
pub(super) struct Files {
    open: Vec<OwnedFd>,
    pub(super) numbers: Numbers,
}

impl Files {
    /// Opens what the spec names. Our end of the monitor comes with them. `by_others`: QEMU is not the shim's own user.
    pub(super) fn open(
        spec: &VmSpec,
        connections: Connections,
        by_others: bool,
    ) -> Result<(Self, tokio::net::UnixStream), VmmError> {
        let mut open = Vec::new();
        let mut keep = |fd: OwnedFd| -> RawFd {
            let number = fd.as_raw_fd();
            open.push(fd);
            number
        };
        let image = |path: &Path| boot_image(path, by_others).map_err(not_opened(path));
        let kernel = keep(image(&spec.kernel)?);
        let initrd = spec
            .initrd
            .as_deref()
            .map(image)
            .transpose()?
            .map(&mut keep);
        let mut disks = Vec::new();
        for disk in spec.disks() {
            let file = OpenOptions::new()
                .read(true)
                .write(!disk.read_only)
                .open(disk.source);
            disks.push(keep(file.map_err(not_opened(disk.source))?.into()));
        }
        let Connections {
            tpm,
            root,
            vsock,
            share,
        } = connections;
        let (ours, theirs) = monitor().map_err(|source| VmmError::Spawn {
            name: super::KIND.as_str(),
            source,
        })?;
        let numbers = Numbers {
            kernel,
            initrd,
            disks,
            root: keep(root.into()),
            share: share.map(|share| keep(share.into())),
            vsock: keep(vsock.into()),
            tpm: keep(tpm.into()),
            monitor: keep(theirs.into()),
        };
        Ok((Self { open, numbers }, ours))
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.open.iter().map(AsFd::as_fd)
    }
}

/// Both ends of a connection to the monitor, ours the first.
fn monitor() -> io::Result<(tokio::net::UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((tokio::net::UnixStream::from_std(ours)?, theirs))
}

fn not_opened(path: &Path) -> impl FnOnce(io::Error) -> VmmError {
    move |source| VmmError::Open {
        path: path.to_owned(),
        source,
    }
}

/// A kernel or initial file system. QEMU opens it once more, by its number, and must be allowed to: of one that only its
/// owner reads it gets a copy in memory.
fn boot_image(path: &Path, by_others: bool) -> io::Result<OwnedFd> {
    let mut file = File::open(path)?;
    if !by_others || file.metadata()?.mode() & READ_BY_ALL != 0 {
        return Ok(file.into());
    }
    // Anybody who has its number may open it (memfd_create(2)).
    let copy = memfd_create("seed-boot-image", MemfdFlags::CLOEXEC)?;
    let mut copy = File::from(copy);
    io::copy(&mut file, &mut copy)?;
    Ok(copy.into())
}
