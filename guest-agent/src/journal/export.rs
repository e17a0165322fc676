//! Entries in systemd's export format, from a stream that another program writes. Follows "Journal Export Formats" of
//! systemd's documentation: lines `NAME=value`, or `NAME`, a little-endian length of eight bytes and so many bytes;
//! an empty line ends an entry.
//!
//! What an entry is comes from its `__CURSOR`, which has everything that a position needs, also where journalctl is too
//! old to print `__SEQNUM`. Memory is bounded whatever the stream says: long values are cut and measured.

use std::io::{self, BufRead, Read};

use seed_journal::Position;
use seed_protocol::journal::{
    EntryHead, MAX_ENTRY_BYTES, MAX_FIELDS, MAX_VALUE_BYTES, MIN_KEPT_BYTES,
};
use thiserror::Error;

/// systemd's own limit is 64.
const MAX_NAME_BYTES: usize = 256;

/// A cursor has 123 bytes today.
const MAX_CURSOR_BYTES: usize = 512;

/// Why a stream cannot be read on.
#[derive(Debug, Error)]
pub(super) enum ExportError {
    /// The pipe broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It ends within an entry.
    #[error("the export ends within an entry")]
    CutShort,
    /// Not a field.
    #[error("a line of the export is no field: {0:?}")]
    NoField(String),
    /// An entry without, or with one that cannot be read.
    #[error("an entry of the export has no cursor: {0:?}")]
    NoCursor(String),
}

/// What is kept of one entry's fields, as in the block that they go to: beyond it a field keeps its beginning.
struct Room(usize);

impl Room {
    /// How much of the next field is kept.
    fn of_field(&self) -> usize {
        self.0.clamp(MIN_KEPT_BYTES, MAX_VALUE_BYTES)
    }

    fn take(&mut self, field: &Field) {
        self.0 = self.0.saturating_sub(field.bytes.len());
    }
}

/// One field, `NAME=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    /// At most [`MAX_VALUE_BYTES`] of it, and less where those before it took the entry's room.
    pub(super) bytes: Vec<u8>,
    pub(super) true_length: u64,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exported {
    pub(super) seqnum_id: [u8; 16],
    pub(super) head: EntryHead,
    /// Without what journalctl adds (`__CURSOR` and the like).
    pub(super) fields: Vec<Field>,
}

/// The next entry, `None` at the end of the stream.
pub(super) fn next(stream: &mut impl BufRead) -> Result<Option<Exported>, ExportError> {
    let mut cursor: Option<String> = None;
    let mut fields = Vec::new();
    let mut any = false;
    let mut room = Room(MAX_ENTRY_BYTES);
    loop {
        let Some(field) = field(stream, room.of_field())? else {
            return if any {
                Err(ExportError::CutShort)
            } else {
                Ok(None)
            };
        };
        any |= !field.bytes.is_empty();
        if field.bytes.is_empty() {
            // Lines between entries.
            if !any {
                continue;
            }
            let text = cursor.take().unwrap_or_default();
            let (seqnum_id, head) =
                parse_cursor(&text).ok_or_else(|| ExportError::NoCursor(text.clone()))?;
            return Ok(Some(Exported {
                seqnum_id,
                head,
                fields,
            }));
        }
        if let Some(text) = field.bytes.strip_prefix(b"__CURSOR=") {
            cursor = Some(String::from_utf8_lossy(text).into_owned());
        } else if !field.bytes.starts_with(b"__") && fields.len() < MAX_FIELDS {
            room.take(&field);
            fields.push(field);
        }
    }
}

/// A field, of which so much is kept; one without bytes is an empty line.
fn field(stream: &mut impl BufRead, kept: usize) -> Result<Option<Field>, ExportError> {
    let mut bytes = Vec::new();
    // journalctl writes what is printable on one line, however long; and the line's end. A cursor and a name are whole.
    let kept = kept.max(MAX_CURSOR_BYTES);
    let limit = kept as u64 + 1;
    stream.by_ref().take(limit).read_until(b'\n', &mut bytes)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let is_whole = bytes.last() == Some(&b'\n');
    let mut true_length = bytes.len() as u64;
    if is_whole {
        bytes.pop();
        true_length -= 1;
    } else {
        true_length += skip_line(stream)?;
        bytes.truncate(kept);
    }
    if bytes.is_empty() || bytes.contains(&b'=') {
        return Ok(Some(Field { bytes, true_length }));
    }
    if !is_whole || bytes.len() > MAX_NAME_BYTES {
        bytes.truncate(MAX_NAME_BYTES);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        return Err(ExportError::NoField(text));
    }
    binary(stream, bytes, kept).map(Some)
}

fn binary(
    stream: &mut impl BufRead,
    mut bytes: Vec<u8>,
    kept: usize,
) -> Result<Field, ExportError> {
    let mut length = [0; 8];
    stream.read_exact(&mut length).map_err(cut_short)?;
    let length = u64::from_le_bytes(length);
    bytes.push(b'=');
    let true_length = length.saturating_add(bytes.len() as u64);
    let kept = length.min(kept.saturating_sub(bytes.len()) as u64);
    let before = bytes.len() as u64;
    stream.by_ref().take(kept).read_to_end(&mut bytes)?;
    let rest = length - kept;
    let skipped = io::copy(&mut stream.by_ref().take(rest), &mut io::sink())?;
    let mut end = [0];
    stream.read_exact(&mut end).map_err(cut_short)?;
    if bytes.len() as u64 - before != kept || skipped != rest || end != *b"\n" {
        return Err(ExportError::CutShort);
    }
    Ok(Field { bytes, true_length })
}

/// The rest of a line; how long it was.
fn skip_line(stream: &mut impl BufRead) -> Result<u64, ExportError> {
    let mut skipped = 0;
    loop {
        let buffer = stream.fill_buf()?;
        if buffer.is_empty() {
            return Err(ExportError::CutShort);
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let length = end.unwrap_or(buffer.len());
        skipped += length as u64;
        stream.consume(length + usize::from(end.is_some()));
        if end.is_some() {
            return Ok(skipped);
        }
    }
}

fn cut_short(error: io::Error) -> ExportError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ExportError::CutShort,
        _ => ExportError::Io(error),
    }
}

/// What `journalctl --cursor=` takes, for a position that is not the start.
pub(super) fn cursor(position: &Position) -> String {
    let id = u128::from_be_bytes(position.seqnum_id);
    let text = format!("s={id:032x};i={:x}", position.seqnum);
    let Some(mark) = position.mark else {
        return text;
    };
    format!(
        "{text};b={:032x};m={:x};t={:x};x={:x}",
        u128::from_be_bytes(mark.boot_id),
        mark.monotonic_us,
        mark.realtime_us,
        mark.xor_hash
    )
}

fn parse_cursor(text: &str) -> Option<([u8; 16], EntryHead)> {
    let part = |name: &str| text.split(';').find_map(|part| part.strip_prefix(name));
    let number = |name: &str| u64::from_str_radix(part(name)?, 16).ok();
    let id = |name: &str| {
        let text = part(name).filter(|text| text.len() == 32)?;
        Some(u128::from_str_radix(text, 16).ok()?.to_be_bytes())
    };
    let head = EntryHead {
        seqnum: number("i=").filter(|number| *number > 0)?,
        realtime_us: number("t=")?,
        monotonic_us: number("m=")?,
        boot_id: id("b=")?,
        xor_hash: number("x=")?,
    };
    Some((id("s=")?, head))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use seed_journal::Mark;

    use super::*;

    const CURSOR: &str =
        "s=0011223344556677889900aabbccddee;i=1f;b=00000000000000000000000000000001;m=a;t=b;x=c";

    fn all(mut stream: &[u8]) -> Result<Vec<Exported>, ExportError> {
        let mut all = Vec::new();
        while let Some(entry) = next(&mut stream)? {
            all.push(entry);
        }
        Ok(all)
    }

    #[test]
    fn an_entry_has_its_cursors_place_and_its_own_fields() {
        let mut text = format!("__CURSOR={CURSOR}\n__SEQNUM=31\nMESSAGE=a=b\nDATA\n").into_bytes();
        text.extend_from_slice(&3_u64.to_le_bytes());
        text.extend_from_slice(b"x\ny\n\n");
        let found = all(&text.repeat(2)).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], found[1]);
        let entry = &found[0];
        let fields: Vec<_> = entry.fields.iter().map(|f| f.bytes.as_slice()).collect();
        assert_eq!(fields, [&b"MESSAGE=a=b"[..], b"DATA=x\ny"]);
        assert_eq!((entry.head.seqnum, entry.head.xor_hash), (31, 12));
        // And back.
        let mark = Some(Mark::from(&entry.head));
        let position = Position {
            seqnum_id: entry.seqnum_id,
            seqnum: 31,
            mark,
        };
        assert_eq!(cursor(&position), CURSOR);
    }

    #[test]
    fn a_long_value_is_cut_and_measured() {
        let mut text = format!("__CURSOR={CURSOR}\nLINE=").into_bytes();
        text.resize(text.len() + 3 * MAX_VALUE_BYTES, b'l');
        text.extend_from_slice(b"\nBLOB\n");
        let length = 2 * MAX_VALUE_BYTES as u64;
        text.extend_from_slice(&length.to_le_bytes());
        text.resize(text.len() + 2 * MAX_VALUE_BYTES, 0);
        text.extend_from_slice(b"\nAFTER=1\n\n");
        let fields = all(&text).unwrap().remove(0).fields;
        let sizes: Vec<_> = fields
            .iter()
            .map(|f| (f.bytes.len(), f.true_length))
            .collect();
        let line = 5 + 3 * MAX_VALUE_BYTES as u64;
        assert_eq!(
            sizes,
            [
                (MAX_VALUE_BYTES, line),
                (MAX_VALUE_BYTES, length + 5),
                (7, 7)
            ]
        );
    }

    #[test]
    fn an_entry_of_many_long_fields_takes_no_more_than_its_block() {
        // 60 values of 1 MiB each, half of them in lines, made up as they are read.
        let line_length = MAX_VALUE_BYTES as u64 + 5;
        let mut parts: Vec<Box<dyn Read>> =
            vec![Box::new(io::Cursor::new(format!("__CURSOR={CURSOR}\n")))];
        for _ in 0..30 {
            parts.push(Box::new(io::Cursor::new("LINE=")));
            parts.push(Box::new(io::repeat(b'l').take(MAX_VALUE_BYTES as u64)));
            parts.push(Box::new(io::Cursor::new("\nBLOB\n")));
            parts.push(Box::new(io::Cursor::new((1_u64 << 20).to_le_bytes())));
            parts.push(Box::new(io::repeat(0).take(1 << 20)));
            parts.push(Box::new(io::Cursor::new("\n")));
        }
        parts.push(Box::new(io::Cursor::new("LAST=here\n\n")));
        let whole = parts
            .into_iter()
            .reduce(|all, part| Box::new(all.chain(part)))
            .unwrap();
        let mut stream = io::BufReader::new(whole);
        let entry = next(&mut stream).unwrap().unwrap();
        assert_eq!(entry.fields.len(), 61);
        assert_eq!(entry.fields[60].bytes, b"LAST=here");
        assert!(
            entry.fields[..60]
                .iter()
                .all(|field| field.true_length == line_length)
        );
        let kept: usize = entry.fields.iter().map(|field| field.bytes.len()).sum();
        assert!(kept <= MAX_ENTRY_BYTES + 61 * MAX_CURSOR_BYTES, "{kept}");
        assert!(next(&mut stream).unwrap().is_none());
    }

    #[test]
    fn what_is_no_export_is_refused() {
        for (text, said) in [
            ("MESSAGE=a\n\n", "no cursor"),
            ("__CURSOR=s=1;i=0\n\n", "no cursor"),
            ("__CURSOR=x\nMESSAGE=a", "within"),
            ("DATA\n\x05\0\0\0\0\0\0\0ab", "within"),
        ] {
            let error = all(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let name = "N".repeat(MAX_NAME_BYTES + 1);
        let error = all(format!("{name}\n").as_bytes()).unwrap_err().to_string();
        assert!(error.contains("no field"), "{error}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_never_hang(bytes in vec(any::<u8>(), 0..300)) {
            let _ = all(&bytes);
            let mut begun = format!("__CURSOR={CURSOR}\n").into_bytes();
            begun.extend_from_slice(&bytes);
            let _ = all(&begun);
        }
    }
}
