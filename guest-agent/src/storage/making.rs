//! Making a file system on a blank device, so that a power cut in the middle needs nobody's hand and no data of
//! anybody is ever formatted.
//!
//! Before `mkfs` writes its first byte, marks of ours are on the device, in places that it leaves alone: near the
//! end, where it keeps no tables of its own. They name the file system that is being made, and are taken off
//! before it is mounted for the first time. So a device with a mark and without a file system holds what an
//! interrupted `mkfs` left, and nothing else:
//!
//! ```text
//! blank --mark, sync--> marked --mkfs, sync--> file system, marked --unmark, sync--> file system --> mount
//!             ^            |cut                      |cut
//!             +--again-----+                         +--> unmark
//! ```
//!
//! A file system that somebody else made in between counts, marked or not; so do copies of another one's
//! superblock. `mke2fs` writes the superblock last, after a sync of all else; XFS says in it that it is not finished.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;

use super::{
    Filesystem,
    probe::{ext4_copies_of_others, is_new, xfs_is_unfinished},
};
use crate::sys::command::{self, CommandError};

/// How long a new file system may take.
const LIMIT: Duration = Duration::from_secs(300);

/// How a mark begins. The name of the file system follows, and zeros up to the end.
const BEGINNING: &[u8] = b"seed: a file system is being made here: ";

/// A name is a UUID as text.
const NAME_BYTES: usize = 36;

/// One mark.
const MARK_BYTES: usize = 512;

/// Where marks are, from the end of the device. `mke2fs` clears up to 128 KiB there and has free blocks before;
/// `mkfs.xfs` clears 128 KiB; `mkfs.btrfs` 2 MiB.
const FROM_END_BYTES: [u64; 2] = [160 * 1024, 3 * 1024 * 1024];

/// What lies before this belongs to the beginning, where every file system has its tables.
const FIRST_PLACE: u64 = 512 * 1024;

/// Marks begin where blocks do.
const BLOCK_BYTES: u64 = 4096;

/// Every new file system has a name of its own; the kernel has names.
const NEW_NAME: &str = "/proc/sys/kernel/random/uuid";

/// Why there is no new file system.
#[derive(Debug, Error)]
pub enum MakeError {
    #[error("{} cannot be marked: {source}", node.display())]
    Mark { node: PathBuf, source: io::Error },
    #[error("no file system could be made: {0}")]
    Run(CommandError),
    #[error("no file system could be made on {}: {words}", node.display())]
    Failed { node: PathBuf, words: String },
}

/// Makes a file system on a device that is blank, or that holds what an earlier try left. Blocks.
pub(super) fn make(filesystem: Filesystem, node: &Path) -> Result<(), MakeError> {
    let marking = |source| MakeError::Mark {
        node: node.to_owned(),
        source,
    };
    let name = fs::read_to_string(NEW_NAME).map_err(marking)?;
    let name = name.trim();
    mark(node, name).map_err(marking)?;
    let program = format!("mkfs.{}", filesystem.name());
    let arguments = arguments(filesystem, node, name);
    let ended = command::run(&program, &arguments, LIMIT).map_err(MakeError::Run)?;
    if !ended.status.success() {
        let (node, words) = (node.to_owned(), ended.words);
        return Err(MakeError::Failed { node, words });
    }
    unmark(filesystem, node).map_err(marking)
}

/// All three know `-q` as "quiet"; without `-F` or `-f` they refuse a device that is in use. What is blank is not
/// discarded: that would take the marks along.
fn arguments(filesystem: Filesystem, node: &Path, name: &str) -> Vec<String> {
    let own: &[&str] = match filesystem {
        Filesystem::Ext4 => &["-E", "nodiscard", "-U", name],
        Filesystem::Xfs => &["-K", "-m", &format!("uuid={name}")],
        Filesystem::Btrfs => &["-K", "-U", name],
        Filesystem::Erofs => &[],
    };
    let words = ["-q"].iter().chain(own).map(|&word| word.to_owned());
    words.chain([node.to_string_lossy().into_owned()]).collect()
}

/// Marks the device, after the beginning was cleared of what an earlier try may have left: programs refuse what looks
/// like somebody's.
fn mark(node: &Path, name: &str) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(node)?;
    let mut mark = Vec::with_capacity(MARK_BYTES);
    mark.extend_from_slice(BEGINNING);
    mark.extend_from_slice(name.as_bytes());
    mark.resize(MARK_BYTES, 0);
    let places = places(&file)?;
    for place in &places {
        file.write_all_at(&mark, *place)?;
    }
    file.sync_all()?;
    if places.is_empty() {
        return Ok(());
    }
    let mut beginning = vec![0; usize::try_from(FIRST_PLACE).unwrap_or_default()];
    file.read_exact_at(&mut beginning, 0)?;
    if beginning.iter().any(|byte| *byte != 0) {
        beginning.fill(0);
        file.write_all_at(&beginning, 0)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Takes the marks of this file system off, for good: only as long as it was never mounted, since what looks like
/// a mark later is in somebody's file. Without marks nothing is written.
pub(super) fn unmark(filesystem: Filesystem, node: &Path) -> io::Result<()> {
    let reader = File::open(node)?;
    let mut marked = Vec::new();
    for place in places(&reader)? {
        if let Some(name) = name_at(&reader, place)?
            && is_new(&reader, filesystem, &name)?
        {
            marked.push(place);
        }
    }
    if marked.is_empty() {
        return Ok(());
    }
    let file = OpenOptions::new().write(true).open(node)?;
    for place in marked {
        file.write_all_at(&[0; MARK_BYTES], place)?;
    }
    file.sync_all()
}

/// Whether all that is on a device is what an interrupted try of ours left. The caller has found no file system
/// there, or an XFS.
pub(super) fn is_unfinished(file: &File, found: Option<Filesystem>) -> io::Result<bool> {
    let mut name = None;
    for place in places(file)? {
        name = name.or(name_at(file, place)?);
    }
    let Some(name) = name else {
        return Ok(false);
    };
    match found {
        None => Ok(!ext4_copies_of_others(file, &name)?),
        Some(Filesystem::Xfs) => xfs_is_unfinished(file),
        Some(_) => Ok(false),
    }
}

fn places(file: &File) -> io::Result<Vec<u64>> {
    let mut reader = file;
    let size = reader.seek(SeekFrom::End(0))?;
    let from_end = FROM_END_BYTES.iter().filter_map(|bytes| {
        let place = size.checked_sub(*bytes)? / BLOCK_BYTES * BLOCK_BYTES;
        (place >= FIRST_PLACE).then_some(place)
    });
    Ok(from_end.collect())
}

/// The name in the mark at this place, if there is one.
fn name_at(file: &File, place: u64) -> io::Result<Option<String>> {
    let mut mark = [0; MARK_BYTES];
    file.read_exact_at(&mut mark, place)?;
    let Some(rest) = mark.strip_prefix(BEGINNING) else {
        return Ok(None);
    };
    let (name, rest) = rest.split_at(NAME_BYTES);
    let whole = rest.iter().all(|byte| *byte == 0);
    let name = std::str::from_utf8(name).ok().filter(|_| whole);
    Ok(name.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Command, Stdio},
        thread,
        time::Instant,
    };

    use super::*;
    use crate::storage::probe::{Contents, probe};

    const MIB: u64 = 1024 * 1024;
    const NAME: &str = "6ac37b9e-24dd-4f2b-b5d0-4f6a5e8f4e11";

    fn image(size: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        file
    }

    fn mkfs(node: &Path, name: &str) -> Command {
        let mut command = Command::new("/sbin/mkfs.ext4");
        command.args(arguments(Filesystem::Ext4, node, name));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn is_good(node: &Path) -> bool {
        let check = Command::new("/sbin/e2fsck").arg("-fn").arg(node).output();
        check.unwrap().status.success()
    }

    #[test]
    fn a_new_file_system_is_whole_and_has_no_mark_left() {
        for size in [2 * MIB, 8 * MIB, 64 * MIB, 64 * MIB + 4096 * 37, 600 * MIB] {
            let file = image(size);
            make(Filesystem::Ext4, file.path()).unwrap();
            assert!(is_good(file.path()), "{size}");
            for place in places(file.as_file()).unwrap() {
                assert_eq!(name_at(file.as_file(), place).unwrap(), None, "{size}");
            }
        }
    }

    #[test]
    fn a_try_that_was_cut_off_anywhere_is_known_and_done_again() {
        // How long one takes here and now, so that the cuts fall into it.
        let whole = image(64 * MIB);
        let begin = Instant::now();
        assert!(mkfs(whole.path(), NAME).status().unwrap().success());
        let mut whole = begin.elapsed();
        let (mut unfinished, mut rounds) = (0, 0_u32);
        // Until enough were cut in the middle; the runner's limit bounds it.
        while unfinished < 25 || rounds < 50 {
            rounds += 1;
            let file = image(64 * MIB);
            mark(file.path(), NAME).unwrap();
            let mut child = mkfs(file.path(), NAME).spawn().unwrap();
            thread::sleep(whole * (rounds % 48) / 40);
            child.kill().unwrap();
            child.wait().unwrap();
            match probe(file.path()).unwrap() {
                Contents::Unfinished => unfinished += 1,
                // The superblock comes last: all the rest is there. And this one was faster than the first.
                Contents::Filesystem(Filesystem::Ext4) => {
                    assert!(is_good(file.path()));
                    whole = whole * 19 / 20;
                }
                other => panic!("round {rounds}: {other:?}"),
            }
            make(Filesystem::Ext4, file.path()).unwrap();
            assert!(is_good(file.path()));
        }
    }

    #[test]
    fn what_a_power_cut_kept_of_a_try_in_whatever_order_is_still_known() {
        let file = image(64 * MIB);
        assert!(mkfs(file.path(), NAME).status().unwrap().success());
        let mut blocks = Vec::new();
        let mut block = vec![0; 4096];
        for at in (0..64 * MIB).step_by(4096) {
            file.as_file().read_exact_at(&mut block, at).unwrap();
            // Not the superblock: it is written after all else was synced.
            if at > 0 && block.iter().any(|byte| *byte != 0) {
                blocks.push((at, block.clone()));
            }
        }
        assert!(blocks.len() > 20, "{}", blocks.len());
        for kept in (0..blocks.len()).step_by(5) {
            let cut = image(64 * MIB);
            mark(cut.path(), NAME).unwrap();
            // Every block by itself, and one in three.
            for (index, (at, block)) in blocks.iter().enumerate() {
                if index == kept || index % 3 == kept % 3 {
                    cut.as_file().write_all_at(block, *at).unwrap();
                }
            }
            assert_eq!(probe(cut.path()).unwrap(), Contents::Unfinished, "{kept}");
        }
    }

    #[test]
    fn a_marked_device_with_anybodys_file_system_or_its_remains_is_theirs() {
        let file = image(64 * MIB);
        mark(file.path(), NAME).unwrap();
        let other = "0f0f0f0f-24dd-4f2b-b5d0-4f6a5e8f4e11";
        assert!(mkfs(file.path(), other).status().unwrap().success());
        let ext4 = Contents::Filesystem(Filesystem::Ext4);
        assert_eq!(probe(file.path()).unwrap(), ext4);
        // Its beginning is lost; the copies of its superblock tell.
        let beginning = vec![0; 1024 * 1024];
        file.as_file().write_all_at(&beginning, 0).unwrap();
        assert_eq!(probe(file.path()).unwrap(), Contents::Unknown);
        // Half a mark is none.
        let place = places(file.as_file()).unwrap()[0];
        let torn = image(64 * MIB);
        let text = [BEGINNING, NAME.as_bytes(), b"x"].concat();
        torn.as_file().write_all_at(&text, place).unwrap();
        assert_eq!(probe(torn.path()).unwrap(), Contents::Unknown);
    }

    #[test]
    fn marks_are_taken_off_before_the_first_mount_and_never_later() {
        let file = image(64 * MIB);
        mark(file.path(), NAME).unwrap();
        let marks = || {
            let places = places(file.as_file()).unwrap();
            let names = places.iter().map(|place| name_at(file.as_file(), *place));
            names
                .filter(|name| name.as_ref().unwrap().is_some())
                .count()
        };
        assert!(mkfs(file.path(), NAME).status().unwrap().success());
        // It was mounted since, as its superblock says: this is in somebody's file.
        let mut mounted = [0; 4];
        let at = 1024 + 0x2c;
        file.as_file().read_exact_at(&mut mounted, at).unwrap();
        file.as_file().write_all_at(b"now!", at).unwrap();
        unmark(Filesystem::Ext4, file.path()).unwrap();
        assert_eq!(marks(), 2);
        file.as_file().write_all_at(&mounted, at).unwrap();
        for _ in 0..2 {
            unmark(Filesystem::Ext4, file.path()).unwrap();
            assert_eq!(marks(), 0);
        }
        assert!(is_good(file.path()));
    }
}
