//! Whether other readers give the same: every entry by its number, its times, its boot and all of its fields, whatever their
//! order. Entries are compared as digests, so that a million of them take eight megabytes.

use std::{
    collections::BTreeMap,
    error::Error,
    hash::{DefaultHasher, Hash, Hasher},
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use seed_journal::{Journal, Position};
use seed_protocol::journal::{BatchDecoder, BatchEncoder};

type Digests = Result<Vec<u64>, Box<dyn Error>>;

/// What every reader tells of an entry: number, wall clock, monotonic clock, boot.
type Head = (u64, u64, u64, [u8; 16]);

fn hashed(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn digest<F: AsRef<[u8]>>(head: Head, fields: impl Iterator<Item = F>) -> u64 {
    let sum = fields.fold(0, |sum: u64, field| {
        sum.wrapping_add(hashed(field.as_ref()))
    });
    hashed((head, sum))
}

/// How many entries only we have, and how many only they.
pub(crate) fn unlike(mut ours: Vec<u64>, mut theirs: Vec<u64>) -> (usize, usize) {
    ours.sort_unstable();
    theirs.sort_unstable();
    let (mut left, mut right, mut same) = (0, 0, 0);
    while let (Some(one), Some(other)) = (ours.get(left), theirs.get(right)) {
        same += usize::from(one == other);
        left += usize::from(one <= other);
        right += usize::from(other <= one);
    }
    (ours.len() - same, theirs.len() - same)
}

pub(crate) fn ours(parent: &str, machine_id: [u8; 16]) -> Digests {
    let mut journal = Journal::open(&[PathBuf::from(parent)], machine_id);
    let mut position = Position::START;
    let mut batch = BatchEncoder::new(super::BATCH_BYTES);
    let mut digests = Vec::new();
    loop {
        let outcome = journal.read_after(&position, &mut batch)?;
        position = journal.end().unwrap_or(position);
        let block = batch.take();
        let mut fields = Vec::new();
        let mut decoder = BatchDecoder::new(&block)?;
        while let Some(head) = decoder.read_into(&mut fields)? {
            let place = (
                head.seqnum,
                head.realtime_us,
                head.monotonic_us,
                head.boot_id,
            );
            digests.push(digest(place, fields.iter().map(|field| field.bytes)));
        }
        if outcome.caught_up {
            return Ok(digests);
        }
    }
}

pub(crate) fn sdjournal(directory: &Path) -> Digests {
    let journal = sdjournal::Journal::open_dir(directory)?;
    let mut digests = Vec::new();
    for entry in journal.query().iter()? {
        let entry = entry?;
        let place = (
            entry.seqnum(),
            entry.realtime_usec(),
            entry.monotonic_usec(),
            entry.boot_id(),
        );
        let fields = entry.iter_fields();
        let fields = fields.map(|(name, value)| [name.as_bytes(), b"=", value].concat());
        digests.push(digest(place, fields));
    }
    Ok(digests)
}

/// What this machine's `journalctl -o export` prints.
pub(crate) fn journalctl(directory: &Path) -> Digests {
    let mut child = Command::new("journalctl")
        .args([
            "--quiet",
            "--no-pager",
            "--all",
            "--output=export",
            "--directory",
        ])
        .arg(directory)
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().ok_or("no standard output")?;
    let digests = exported(BufReader::with_capacity(1 << 20, stdout));
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("journalctl: {status}").into());
    }
    digests
}

/// systemd's "Journal Export Formats".
fn exported(mut text: impl BufRead) -> Digests {
    let (mut digests, mut fields) = (Vec::new(), Vec::new());
    loop {
        let mut line = Vec::new();
        let is_end = text.read_until(b'\n', &mut line)? == 0;
        line.pop();
        if line.is_empty() {
            if !fields.is_empty() {
                digests.push(of_export(&fields)?);
                fields.clear();
            }
            if is_end {
                return Ok(digests);
            }
        } else if line.contains(&b'=') {
            fields.push(line);
        } else {
            let mut length = [0; 8];
            text.read_exact(&mut length)?;
            line.push(b'=');
            let mut value = text.by_ref().take(u64::from_le_bytes(length));
            value.read_to_end(&mut line)?;
            text.read_exact(&mut [0])?;
            fields.push(line);
        }
    }
}

fn of_export(fields: &[Vec<u8>]) -> Result<u64, Box<dyn Error>> {
    let cursor = fields
        .iter()
        .find_map(|field| field.strip_prefix(b"__CURSOR="));
    let cursor = std::str::from_utf8(cursor.ok_or("an entry without a cursor")?)?;
    let parts: BTreeMap<&str, &str> = cursor
        .split(';')
        .filter_map(|part| part.split_once('='))
        .collect();
    let part = |key: &str| parts.get(key).copied().ok_or("a cursor that lacks a part");
    let number = |key: &str| Ok::<_, Box<dyn Error>>(u64::from_str_radix(part(key)?, 16)?);
    let boot_id = super::machine_id(part("b")?)?;
    let own = fields.iter().filter(|field| !field.starts_with(b"__"));
    Ok(digest(
        (number("i")?, number("t")?, number("m")?, boot_id),
        own,
    ))
}
