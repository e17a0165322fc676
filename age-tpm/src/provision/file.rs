//! The identity file on disk.
//!
//! Owns reading it, and writing it so that a reader or a crash sees the old state or the new one:
//! a temporary file beside it, fsync, rename, fsync of the folder. It never follows a symbolic
//! link that sits in the temporary file's place.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::identity::{Identity, IdentityFileError, read_identities};

use super::Step;

/// Owner only: not because the blob were secret, but because nobody else needs it.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// What is at the path.
pub(super) enum Found {
    Nothing,
    /// A file without a byte in it, as some file systems leave after a power cut.
    Empty,
    Identity(Box<Identity>),
}

/// Reads the first identity of ours.
pub(super) fn read(path: &Path) -> Result<Found, IdentityFileError> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        other => other?,
    };
    if file.metadata()?.len() == 0 {
        return Ok(Found::Empty);
    }
    let first = read_identities(file)?
        .into_iter()
        .next()
        .ok_or(IdentityFileError::Empty)?;
    Ok(Found::Identity(Box::new(first)))
}

/// Replaces `path` in one step, making its folder if need be.
pub(super) fn write_atomic(
    path: &Path,
    contents: &[u8],
    observer: &mut dyn FnMut(Step),
) -> io::Result<()> {
    let folder = folder_of(path);
    DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(&folder)?;
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let mut staged_name = std::ffi::OsString::from(".");
    staged_name.push(name);
    staged_name.push(".new");
    let staged = folder.join(staged_name);
    // A leftover of a crash is in the way of create_new, which in turn follows no link.
    match fs::remove_file(&staged) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    write_new(&staged, contents)?;
    observer(Step::FileStaged);
    fs::rename(&staged, path)?;
    observer(Step::FileRenamed);
    File::open(&folder)?.sync_all()?;
    observer(Step::FileSynced);
    Ok(())
}

/// Writes a file (mode 0600) that must not exist yet, and syncs its contents.
///
/// # Errors
///
/// `AlreadyExists` if there is one, or whatever the kernel says.
pub fn write_new(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}
