//! Files that must never be seen half written.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown},
    path::Path,
};

/// The mode of directories that are made on the way.
const DIRECTORY_MODE: u32 = 0o755;

/// The mode of a file that is not finished.
const PRIVATE_MODE: u32 = 0o600;

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
