//! A tar archive of a few small files, as POSIX has it (pax(1), `ustar`): enough for a backup that every tar
//! reads, and that is read back here without trusting it. No folders, no links, no long names.

use thiserror::Error;

/// Everything comes in blocks of this.
const BLOCK: usize = 512;

/// The longest name.
const NAME_BYTES: usize = 100;

/// More than any TPM's state.
pub(super) const MAX_BYTES: usize = 16 << 20;

/// Why it is no archive of ours.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ArchiveError {
    /// It ends too early.
    #[error("it is cut short")]
    Short,
    /// A header's sum is wrong.
    #[error("it is no tar archive, or a damaged one")]
    Damaged,
    /// Something that no backup has in it.
    #[error("it has {0:?} in it, which is no file of a TPM's state")]
    Foreign(String),
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) data: Vec<u8>,
}

/// Whether a file of this name can be in a backup.
pub(super) fn is_plain(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name.len() < NAME_BYTES && !name.starts_with('.') && name.chars().all(known)
}

/// The archive of these files. Their names are plain.
pub(super) fn write(entries: &[Entry], seconds: u64) -> Vec<u8> {
    let mut archive = Vec::new();
    for entry in entries {
        let mut header = [0; BLOCK];
        put(&mut header, 0, entry.name.as_bytes());
        put(&mut header, 100, b"0000600\0");
        put(&mut header, 108, b"0000000\0");
        put(&mut header, 116, b"0000000\0");
        put(
            &mut header,
            124,
            format!("{:011o}\0", entry.data.len()).as_bytes(),
        );
        put(&mut header, 136, format!("{seconds:011o}\0").as_bytes());
        put(&mut header, 156, b"0");
        put(&mut header, 257, b"ustar\x0000root");
        put(&mut header, 297, b"root");
        let sum = sum(&header);
        put(&mut header, 148, format!("{sum:06o}\0 ").as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(&entry.data);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}

/// The files of an archive.
pub(super) fn read(archive: &[u8]) -> Result<Vec<Entry>, ArchiveError> {
    let mut entries = Vec::new();
    let mut rest = archive;
    loop {
        let (header, after) = rest.split_at_checked(BLOCK).ok_or(ArchiveError::Short)?;
        if header.iter().all(|byte| *byte == 0) {
            return Ok(entries);
        }
        if octal(&header[148..156]) != Some(sum(header)) || &header[257..262] != b"ustar" {
            return Err(ArchiveError::Damaged);
        }
        let name = String::from_utf8_lossy(text(&header[..NAME_BYTES])).into_owned();
        // 0 and the zero byte are files; a prefix would be a folder.
        if !matches!(header[156], b'0' | 0) || !is_plain(&name) || header[345] != 0 {
            return Err(ArchiveError::Foreign(name));
        }
        let length = octal(&header[124..136]).ok_or(ArchiveError::Damaged)?;
        let length = usize::try_from(length).map_err(|_| ArchiveError::Damaged)?;
        let data = after.get(..length).ok_or(ArchiveError::Short)?;
        entries.push(Entry {
            name,
            data: data.to_vec(),
        });
        let padded = length.next_multiple_of(BLOCK);
        rest = after.get(padded..).ok_or(ArchiveError::Short)?;
    }
}

fn put(header: &mut [u8; BLOCK], at: usize, bytes: &[u8]) {
    header[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Of all bytes, with blanks in place of the sum itself.
fn sum(header: &[u8]) -> u64 {
    let byte = |(at, byte): (usize, &u8)| match at {
        148..156 => u64::from(b' '),
        _ => u64::from(*byte),
    };
    header.iter().enumerate().map(byte).sum()
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn octal(field: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(text(field)).ok()?;
    u64::from_str_radix(digits.trim(), 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, data: &[u8]) -> Entry {
        Entry {
            name: name.into(),
            data: data.to_vec(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let entries = [
            entry("tpm2-00.permall", &[7; 1300]),
            entry("machine-id", b"0123\n"),
            entry("empty", b""),
        ];
        let archive = write(&entries, 1_700_000_000);
        assert_eq!(archive.len() % BLOCK, 0);
        assert_eq!(read(&archive).unwrap(), entries);
    }

    #[test]
    fn every_damage_is_an_error_and_never_a_panic() {
        let archive = write(&[entry("machine-id", &[1; 600])], 0);
        for length in 0..BLOCK * 3 {
            assert_eq!(
                read(&archive[..length]),
                Err(ArchiveError::Short),
                "{length}"
            );
        }
        for at in 0..BLOCK {
            let mut damaged = archive.clone();
            damaged[at] ^= 0x41;
            // What is behind the end of a field means nothing.
            let same = read(&damaged) == read(&archive) && at == 155;
            assert!(same || read(&damaged).is_err(), "{at}");
        }
        assert!(read(&write(&[entry("../machine-id", b"")], 0)).is_err());
        assert!(read(&write(&[entry(".lock", b"")], 0)).is_err());
    }
}
