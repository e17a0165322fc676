//! Who owns a folder of TPM state: the shim's user, and while a TPM runs as another user, that one. It could put
//! anything into the folder; so no link in it is followed, and nothing is touched but plain files that have one name.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, OpenOptionsExt},
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, open, openat},
    io::Errno,
};

use crate::paths::{TPM_LOCK, TPM_MACHINE_ID};

/// What stays ours.
const OURS: [&str; 2] = [TPM_LOCK, TPM_MACHINE_ID];

/// How the names of a TPM's state begin (swtpm's `swtpm_nvstore_dir.c`).
const STATE: &[u8] = b"tpm2-";

/// Gives a folder of TPM state, and what a TPM keeps in it, to the user and group of this number. State that has a
/// second name is an error: it may be anybody's file, so it is not given away, and without it a TPM would find nothing.
pub(super) fn lend(dir: &Path, id: u32) -> io::Result<()> {
    let skipped = change(dir, Uid::from_raw(id), Gid::from_raw(id))?;
    let of_tpm = |name: &&OsString| name.as_bytes().starts_with(STATE);
    match skipped.iter().find(of_tpm) {
        None => Ok(()),
        Some(name) => Err(io::Error::other(format!(
            "{} in it is no plain file of one name (a hard link?): put a copy in its place",
            name.display()
        ))),
    }
}

/// Takes it back, if somebody else has it. It may be done at any time that no TPM runs.
pub(super) fn take_back(dir: &Path) -> io::Result<()> {
    if !is_lent(dir) {
        return Ok(());
    }
    change(dir, rustix::process::geteuid(), rustix::process::getegid()).map(drop)
}

/// Whether somebody else than we has it.
pub(super) fn is_lent(dir: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    fs::symlink_metadata(dir).is_ok_and(|found| found.uid() != own)
}

/// The names of what was left as it is.
fn change(dir: &Path, uid: Uid, gid: Gid) -> io::Result<Vec<OsString>> {
    let mut skipped = Vec::new();
    let flags = OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let folder = open(dir, flags | OFlags::DIRECTORY, Mode::empty())?;
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if OURS.iter().any(|ours| name == *ours) {
            continue;
        }
        let file = match openat(&folder, &name, flags | OFlags::PATH, Mode::empty()) {
            Ok(file) => file,
            // A TPM that was killed a moment ago has renamed its new state, or is not quite gone.
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        let found = fstat(&file)?;
        let is_plain = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
        if is_plain && found.st_nlink == 1 {
            chownat(&file, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
        } else {
            tracing::warn!(dir = %dir.display(), ?name, "TPM state has something in it that is no file of a TPM");
            skipped.push(name);
        }
    }
    chownat(&folder, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    Ok(skipped)
}

/// Opens a file where others may have put something else. Links and everything else that is no file is refused.
pub(crate) fn open_plain(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // A pipe must not keep anybody waiting.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let file = options.custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::other("it is no plain file"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_what_a_tpm_keeps_changes_its_owner_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let (state, outside) = (dir.path().join("state"), dir.path().join("outside"));
        fs::create_dir(&state).unwrap();
        fs::write(&outside, "").unwrap();
        for name in [TPM_LOCK, TPM_MACHINE_ID, "tpm2-00.permall", ".lock"] {
            fs::write(state.join(name), "").unwrap();
        }
        symlink(&outside, state.join("link")).unwrap();
        fs::hard_link(&outside, state.join("second-name")).unwrap();
        let own = rustix::process::geteuid();
        let owner = |name: &str| fs::symlink_metadata(state.join(name)).unwrap().uid();
        // Whoever is no root can give nothing away but to himself.
        let other = if own.is_root() {
            1_879_048_193
        } else {
            own.as_raw()
        };
        for _ in 0..2 {
            lend(&state, other).unwrap();
        }
        for name in ["", "tpm2-00.permall", ".lock"] {
            assert_eq!(owner(name), other, "{name}");
        }
        for name in [TPM_LOCK, TPM_MACHINE_ID, "link", "second-name"] {
            assert_eq!(owner(name), own.as_raw(), "{name}");
        }
        assert_eq!(fs::metadata(&outside).unwrap().uid(), own.as_raw());
        assert_eq!(is_lent(&state), own.is_root());
        for _ in 0..2 {
            take_back(&state).unwrap();
        }
        assert!(!is_lent(&state));
        assert_eq!(owner("tpm2-00.permall"), own.as_raw());
        // State that somebody backed up by a second name: a TPM could not read it, and would begin anew.
        let backup = dir.path().join("backup");
        fs::hard_link(state.join("tpm2-00.permall"), &backup).unwrap();
        let error = lend(&state, other).unwrap_err().to_string();
        assert!(error.starts_with("tpm2-00.permall in it"), "{error}");
        take_back(&state).unwrap();
        fs::remove_file(&backup).unwrap();
        lend(&state, other).unwrap();
        take_back(&state).unwrap();
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "").unwrap();
        symlink(&file, &link).unwrap();
        let open = |path: &Path| open_plain(OpenOptions::new().read(true), path);
        assert!(open(&file).is_ok());
        assert!(open(&link).is_err() && open(dir.path()).is_err());
    }
}
