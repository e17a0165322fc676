//! Files that must never be seen half written, nor be read without a limit, and paths that must not lead out.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown},
    },
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};

/// The mode of directories that are made on the way.
const DIRECTORY_MODE: u32 = 0o755;

/// The mode of a file that is not finished.
const PRIVATE_MODE: u32 = 0o600;

/// How often a path is resolved again that the kernel could not be sure of.
const RESOLVED_AGAIN: usize = 128;

/// Opens `path` in `directory` by openat2(2).
///
/// The kernel gives a `..` up with EAGAIN whenever anything is mounted or renamed meanwhile, which a boot does all
/// the time: it is asked again.
pub fn open_resolved(
    directory: impl AsFd,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> io::Result<OwnedFd> {
    for _ in 0..RESOLVED_AGAIN {
        match openat2(directory.as_fd(), path, flags, mode, resolve) {
            Err(Errno::AGAIN) => {}
            opened => return Ok(opened?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// Reads a file of at most `max` bytes; a longer one is `FileTooLarge`.
pub fn read_small(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let read = File::open(path)?
        .take(max.saturating_add(1))
        .read_to_end(&mut content)?;
    if u64::try_from(read).is_ok_and(|read| read <= max) {
        Ok(content)
    } else {
        Err(io::ErrorKind::FileTooLarge.into())
    }
}

/// Writes `content` beside `path`, syncs it and renames it into place with exactly `mode`. Missing
/// directories are made. Two writers at the same time are the caller's mistake.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    write_atomic_for(path, content, mode, None)
}

/// The same for a file that belongs to a group.
pub fn write_atomic_for(
    path: &Path,
    content: &[u8],
    mode: u32,
    group: Option<u32>,
) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidFilename.into());
    };
    make_directories(directory)?;
    let mut temporary = name.to_owned();
    temporary.push(".new");
    let temporary = directory.join(temporary);
    let written =
        write_new(&temporary, content, mode, group).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // Best effort: the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Makes `path` and its parents, readable by all.
pub fn make_directories(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(path)
}

/// Makes an empty file, to have something mounted on it. What is there already stays.
pub fn make_empty(path: &Path) -> io::Result<()> {
    match File::create_new(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map(drop),
    }
}

fn write_new(path: &Path, content: &[u8], mode: u32, group: Option<u32>) -> io::Result<()> {
    match fs::remove_file(path) {
        // What an interrupted writer left.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(PRIVATE_MODE & mode)
        .open(path)?;
    if group.is_some() {
        fchown(&file, None, group)?;
    }
    // Not before it is whose it shall be.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn what_is_longer_than_its_limit_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record");
        fs::write(&path, "1234").unwrap();
        assert_eq!(read_small(&path, 4).unwrap(), b"1234");
        let error = read_small(&path, 3).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_path_that_climbs_is_opened_while_files_are_renamed() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("volume")).unwrap();
        let names = ["first", "second"].map(|name| directory.path().join(name));
        fs::write(&names[0], "").unwrap();
        let top = File::open(directory.path()).unwrap();
        let resolve = ResolveFlags::BENEATH;
        let climbing = Path::new("volume/../volume");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    fs::rename(&names[0], &names[1]).unwrap();
                    fs::rename(&names[1], &names[0]).unwrap();
                }
            });
            let refused = (0..20_000).find_map(|_| {
                open_resolved(&top, climbing, OFlags::PATH, Mode::empty(), resolve).err()
            });
            stop.store(true, Ordering::Relaxed);
            assert!(refused.is_none(), "{refused:?}");
        });
    }
}
