//! The form of one segment file. Little-endian throughout.
//!
//! ```text
//! file   := magic "SEEDJRNL" | version u32 = 2 | zero u32 | frame*
//! frame  := length u32 | crc32 u32 | header | block       length counts header and block,
//!                                                         crc32 (IEEE) covers header and block
//! header := seqnum_id [16] | first u64 | last u64 | count u32 | flags u16 | gap_reason u16
//!           | gap_first u64 | gap_last u64 | received_unix_us u64
//!           | boot_id [16] | realtime_us u64 | monotonic_us u64 | xor_hash u64     of the entry `last`
//! ```
//!
//! A file is `%08u.seg`, counted from 1 in its folder; the order of files is that of their numbers. A block is
//! what `seed_protocol::journal` documents, with a version of its own. Flags: 1 the numbering began anew, 2 there is a
//! gap, 4 the block is one zstd frame (RFC 8878) of what it is otherwise. Version 1 is the same without flag 4. A reader refuses a
//! file of a later version by name, and takes flags and reasons that it does not know for none.
//!
//! A frame is one batch *and* the position after it; it is written with one call. Whatever does not check
//! at the end of the newest file was being written when the machine stopped: it is cut off, and the guest
//! is asked for it again. Nothing is read into memory before its length was found to be within bounds.

use std::io::{self, Read, Write};

use seed_protocol::journal::EntryHead;
use thiserror::Error;

use super::{
    crc::crc32,
    pack::{Compression, pack},
};

/// The first bytes of a segment.
pub const MAGIC: [u8; 8] = *b"SEEDJRNL";

/// The version of this form. All before it are read, too.
pub const VERSION: u32 = 2;

/// The length of a file's header.
pub const FILE_HEADER_BYTES: u64 = FILE_HEADER as u64;

const FILE_HEADER: usize = 16;

/// The length of a frame's prefix.
pub const PREFIX_BYTES: u64 = PREFIX as u64;

const PREFIX: usize = 8;

/// The length of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 104;

/// The longest block taken: the protocol's limit of 1 MiB, plus one entry that alone is longer.
pub const MAX_BLOCK_BYTES: usize = 4 << 20;

const FLAG_RESET: u16 = 1;
const FLAG_GAP: u16 = 2;
const FLAG_ZSTD: u16 = 4;

/// What cannot be a segment.
#[derive(Debug, Error)]
pub enum SegmentError {
    /// Not our file.
    #[error("not a journal segment")]
    Magic,
    /// Written by a later release.
    #[error("journal segment of version {0}; this program knows up to {VERSION}")]
    Version(u32),
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Where a writer's numbering stands: the last entry that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Who numbers the entries; all zero before the first entry.
    pub seqnum_id: [u8; 16],
    /// The last entry held.
    pub seqnum: u64,
    /// What marks that entry: after a killed VM another entry may get its number.
    pub mark: Mark,
}

/// What tells an entry from another one of the same number. All zero when not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// Its boot.
    pub boot_id: [u8; 16],
    /// Its time.
    pub realtime_us: u64,
    /// Its time within the boot.
    pub monotonic_us: u64,
    /// The journal's hash of its fields.
    pub xor_hash: u64,
}

impl From<&EntryHead> for Mark {
    fn from(head: &EntryHead) -> Self {
        let EntryHead {
            seqnum: _,
            realtime_us,
            monotonic_us,
            boot_id,
            xor_hash,
        } = *head;
        Self {
            boot_id,
            realtime_us,
            monotonic_us,
            xor_hash,
        }
    }
}

/// Why entries are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapReason {
    /// Not known: the numbers jump.
    Unknown,
    /// journald deleted the file before it was read.
    Vacuumed,
    /// The guest's journal is damaged there.
    Corrupt,
    /// The block that the guest sent for them cannot be decoded.
    Undecodable,
    /// The host's disk has damaged their frames. Readers find that out; it is in no frame.
    Damaged,
}

impl GapReason {
    fn code(self) -> u16 {
        match self {
            Self::Unknown => 0,
            Self::Vacuumed => 1,
            Self::Corrupt => 2,
            Self::Undecodable => 3,
            Self::Damaged => 4,
        }
    }

    fn from_code(code: u16) -> Self {
        match code {
            1 => Self::Vacuumed,
            2 => Self::Corrupt,
            3 => Self::Undecodable,
            4 => Self::Damaged,
            _ => Self::Unknown,
        }
    }

    /// Half a sentence for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Unknown => "the guest's journal does not have them",
            Self::Vacuumed => "the guest deleted them before they were read",
            Self::Corrupt => "the guest's journal is damaged there",
            Self::Undecodable => "the guest sent them in a form that cannot be read",
            Self::Damaged => "the log is damaged there",
        }
    }
}

/// Entries that are missing before a frame's first entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The first missing number.
    pub first: u64,
    /// The last missing number.
    pub last: u64,
    /// Why.
    pub reason: GapReason,
}

impl Gap {
    /// How many entries are missing.
    pub fn count(&self) -> u64 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }
}

/// One batch and the position after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Who numbers the entries.
    pub seqnum_id: [u8; 16],
    /// The first entry in the block, 0 when there is none.
    pub first: u64,
    /// The position after this frame: its last entry, or the end of its gap.
    pub last: u64,
    /// How many entries the block holds.
    pub count: u32,
    /// The numbering began anew: this is the first frame of another writer.
    pub reset: bool,
    /// What is missing before it.
    pub gap: Option<Gap>,
    /// When the host received it, microseconds since the epoch.
    pub received_unix_us: u64,
    /// What marks the entry at the position.
    pub mark: Mark,
    /// The entries, in the form of `seed_protocol::journal`. Empty when `count` is 0.
    pub block: Vec<u8>,
}

impl Frame {
    /// The position after this frame.
    pub fn position(&self) -> Position {
        Position {
            seqnum_id: self.seqnum_id,
            seqnum: self.last,
            mark: self.mark,
        }
    }

    /// The bytes on disk. Fails only for a block beyond [`MAX_BLOCK_BYTES`].
    pub fn encode(&self, compression: Compression) -> io::Result<Vec<u8>> {
        let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "block is too long");
        if self.block.len() > MAX_BLOCK_BYTES {
            return Err(too_long());
        }
        let packed = match compression {
            Compression::None => None,
            Compression::Zstd => pack(&self.block),
        };
        let block = packed.as_deref().unwrap_or(&self.block);
        let length = FRAME_HEADER_BYTES + block.len();
        let length = u32::try_from(length).map_err(|_| too_long())?;
        let (flags, gap) = match self.gap {
            Some(gap) => (FLAG_GAP, gap),
            None => (
                0,
                Gap {
                    first: 0,
                    last: 0,
                    reason: GapReason::Unknown,
                },
            ),
        };
        let flags = flags | if self.reset { FLAG_RESET } else { 0 };
        let flags = flags | if packed.is_some() { FLAG_ZSTD } else { 0 };
        let mut body = Vec::with_capacity(FRAME_HEADER_BYTES + block.len());
        body.extend_from_slice(&self.seqnum_id);
        body.extend_from_slice(&self.first.to_le_bytes());
        body.extend_from_slice(&self.last.to_le_bytes());
        body.extend_from_slice(&self.count.to_le_bytes());
        body.extend_from_slice(&flags.to_le_bytes());
        body.extend_from_slice(&gap.reason.code().to_le_bytes());
        body.extend_from_slice(&gap.first.to_le_bytes());
        body.extend_from_slice(&gap.last.to_le_bytes());
        body.extend_from_slice(&self.received_unix_us.to_le_bytes());
        body.extend_from_slice(&self.mark.boot_id);
        body.extend_from_slice(&self.mark.realtime_us.to_le_bytes());
        body.extend_from_slice(&self.mark.monotonic_us.to_le_bytes());
        body.extend_from_slice(&self.mark.xor_hash.to_le_bytes());
        debug_assert_eq!(body.len(), FRAME_HEADER_BYTES);
        body.extend_from_slice(block);
        let mut out = Vec::with_capacity(body.len() + 8);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&crc32(&body).to_le_bytes());
        out.extend_from_slice(&body);
        Ok(out)
    }

    /// Without `unpack` the block stays empty.
    fn decode(mut body: Vec<u8>, unpack: bool) -> Option<Self> {
        let stored = body.split_off(FRAME_HEADER_BYTES);
        let mut rest = body.as_slice();
        let seqnum_id = take(&mut rest)?;
        let first = u64::from_le_bytes(take(&mut rest)?);
        let last = u64::from_le_bytes(take(&mut rest)?);
        let count = u32::from_le_bytes(take(&mut rest)?);
        let flags = u16::from_le_bytes(take(&mut rest)?);
        let reason = GapReason::from_code(u16::from_le_bytes(take(&mut rest)?));
        let gap_first = u64::from_le_bytes(take(&mut rest)?);
        let gap_last = u64::from_le_bytes(take(&mut rest)?);
        let received_unix_us = u64::from_le_bytes(take(&mut rest)?);
        let mark = Mark {
            boot_id: take(&mut rest)?,
            realtime_us: u64::from_le_bytes(take(&mut rest)?),
            monotonic_us: u64::from_le_bytes(take(&mut rest)?),
            xor_hash: u64::from_le_bytes(take(&mut rest)?),
        };
        let gap = (flags & FLAG_GAP != 0).then_some(Gap {
            first: gap_first,
            last: gap_last,
            reason,
        });
        let reset = flags & FLAG_RESET != 0;
        let block = match flags & FLAG_ZSTD {
            _ if !unpack => Vec::new(),
            0 => stored,
            _ => super::pack::unpack(&stored, MAX_BLOCK_BYTES)?,
        };
        Some(Self {
            seqnum_id,
            first,
            last,
            count,
            reset,
            gap,
            received_unix_us,
            mark,
            block,
        })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

/// Writes a file's header.
pub fn write_header(file: &mut impl Write) -> io::Result<()> {
    let mut header = [0; FILE_HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    file.write_all(&header)
}

/// Reads and checks a file's header: its version. A file too short for one has none.
pub fn read_header(file: &mut impl Read) -> Result<Option<u32>, SegmentError> {
    let mut header = [0; FILE_HEADER];
    match read_whole(file, &mut header)? {
        Filled::Whole => {}
        Filled::Nothing | Filled::Part => return Ok(None),
    }
    if header[..8] != MAGIC {
        return Err(SegmentError::Magic);
    }
    let mut version = &header[8..];
    match take(&mut version).map(u32::from_le_bytes) {
        Some(version @ 1..=VERSION) => Ok(Some(version)),
        other => Err(SegmentError::Version(other.unwrap_or(0))),
    }
}

/// What follows in a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A frame that checks, and how many bytes it takes on disk.
    Frame(Frame, u64),
    /// The end, just behind a frame.
    End,
    /// Something that is not, or not yet, a whole frame.
    Torn,
}

/// Reads the next frame.
pub fn read_frame(file: &mut impl Read) -> io::Result<Next> {
    read(file, true)
}

/// Reads and checks the next frame, and leaves its block out.
pub fn read_head(file: &mut impl Read) -> io::Result<Next> {
    read(file, false)
}

fn read(file: &mut impl Read, unpack: bool) -> io::Result<Next> {
    let mut prefix = [0; PREFIX];
    match read_whole(file, &mut prefix)? {
        Filled::Nothing => return Ok(Next::End),
        Filled::Part => return Ok(Next::Torn),
        Filled::Whole => {}
    }
    let mut rest = prefix.as_slice();
    let (Some(length), Some(sum)) = (take(&mut rest), take(&mut rest)) else {
        return Ok(Next::Torn);
    };
    let length = u32::from_le_bytes(length) as usize;
    if !(FRAME_HEADER_BYTES..=FRAME_HEADER_BYTES + MAX_BLOCK_BYTES).contains(&length) {
        return Ok(Next::Torn);
    }
    let mut body = vec![0; length];
    if read_whole(file, &mut body)? != Filled::Whole || crc32(&body) != u32::from_le_bytes(sum) {
        return Ok(Next::Torn);
    }
    let size = PREFIX_BYTES + body.len() as u64;
    Ok(match Frame::decode(body, unpack) {
        Some(frame) => Next::Frame(frame, size),
        None => Next::Torn,
    })
}

#[derive(PartialEq, Eq)]
enum Filled {
    Nothing,
    Part,
    Whole,
}

fn read_whole(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<Filled> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => {
                return Ok(if filled == 0 {
                    Filled::Nothing
                } else {
                    Filled::Part
                });
            }
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Filled::Whole)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(block: Vec<u8>, gap: Option<Gap>) -> Frame {
        Frame {
            seqnum_id: [7; 16],
            first: 5,
            last: 9,
            count: 5,
            reset: true,
            gap,
            received_unix_us: 1_763_766_000_000_000,
            mark: Mark {
                boot_id: [5; 16],
                realtime_us: 3,
                monotonic_us: 2,
                xor_hash: 1,
            },
            block,
        }
    }

    #[test]
    fn a_later_version_and_a_foreign_file_are_told_apart() {
        let mut header = Vec::new();
        write_header(&mut header).unwrap();
        assert_eq!(read_header(&mut header.as_slice()).unwrap(), Some(2));
        assert_eq!(read_header(&mut &header[..7]).unwrap(), None);
        header[8] = 1;
        assert_eq!(read_header(&mut header.as_slice()).unwrap(), Some(1));
        for version in [0, 3] {
            header[8] = version;
            let error = read_header(&mut header.as_slice()).unwrap_err();
            assert!(matches!(error, SegmentError::Version(v) if v == u32::from(version)));
        }
        assert!(matches!(
            read_header(&mut [b'x'; 16].as_slice()),
            Err(SegmentError::Magic)
        ));
    }

    #[test]
    fn a_length_beyond_the_bound_is_torn_and_reads_nothing() {
        let bytes = [0xff; 64];
        assert_eq!(read_frame(&mut bytes.as_slice()).unwrap(), Next::Torn);
    }

    proptest! {
        #[test]
        fn a_frame_comes_back_and_any_cut_or_flipped_bit_is_torn(
            random in proptest::collection::vec(any::<u8>(), 0..300),
            repeats in 1usize..4,
            zstd in any::<bool>(),
            gap in proptest::option::of((any::<u64>(), any::<u64>(), 0u16..5)),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let gap = gap.map(|(first, last, reason)| Gap {
                first, last, reason: GapReason::from_code(reason),
            });
            let frame = frame(random.repeat(repeats), gap);
            let compression = if zstd { Compression::Zstd } else { Compression::None };
            let bytes = frame.encode(compression).unwrap();
            let whole = PREFIX + FRAME_HEADER_BYTES + frame.block.len();
            prop_assert!(bytes.len() == whole || (zstd && bytes.len() < whole));
            let size = bytes.len() as u64;
            let head = Frame { block: Vec::new(), ..frame.clone() };
            prop_assert_eq!(read_head(&mut bytes.as_slice()).unwrap(), Next::Frame(head, size));
            prop_assert_eq!(read_frame(&mut bytes.as_slice()).unwrap(), Next::Frame(frame, size));

            let cut = at.index(bytes.len());
            let expected = if cut == 0 { Next::End } else { Next::Torn };
            prop_assert_eq!(read_frame(&mut &bytes[..cut]).unwrap(), expected);

            let mut flipped = bytes.clone();
            flipped[cut] ^= 1 << bit;
            prop_assert_eq!(read_frame(&mut flipped.as_slice()).unwrap(), Next::Torn);
        }
    }
}
