//! Damaged and hostile input by the ten thousand, the same in each run: segment files with bytes changed, cut
//! out, doubled and put in, and blocks as a guest could send them. Nothing may panic, what checks must be what
//! was written, and what is kept must be readable by everything that reads it.

use std::{fs, path::Path};

use seed_protocol::{
    journal::{BatchDecoder, BatchEncoder, EntryHead},
    seed::v1::JournalBatch,
};
use seed_shim::logs::{
    batch::{Accepted, accept},
    pack::Compression,
    reader::{Reader, boots, tail},
    segment::{Frame, Mark, Position, write_header},
    store::{Limits, Store},
};

use super::bodies::{frames as frames_of, printed};

const ROUNDS: usize = 10_000;

/// xorshift64*: good enough to damage things, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).unwrap() % sides.max(1)
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.roll(256)).unwrap()
    }

    /// Damages `bytes` in one to three places; the first place.
    fn damage(&mut self, bytes: &mut Vec<u8>) -> usize {
        let mut first = bytes.len();
        for _ in 0..=self.roll(3) {
            let at = self.roll(bytes.len());
            let end = (at + 1 + self.roll(40)).min(bytes.len());
            first = first.min(at);
            match self.roll(6) {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
                3 => {
                    let junk: Vec<u8> = (0..self.roll(20)).map(|_| self.byte()).collect();
                    bytes.splice(at..at, junk);
                }
                4 if at < bytes.len() => bytes[at] = [0, 0xff, 0x7f, 0x80][self.roll(4)],
                _ if at < bytes.len() => bytes[at] ^= 1 << self.roll(8),
                _ => {}
            }
        }
        first
    }
}

fn head(seqnum: u64) -> EntryHead {
    EntryHead {
        seqnum,
        realtime_us: 1_763_766_062_000_000 + seqnum,
        monotonic_us: seqnum,
        boot_id: [u8::try_from(seqnum / 10).unwrap(); 16],
        xor_hash: seqnum * 7,
    }
}

fn block(from: u64, to: u64) -> Vec<u8> {
    let mut encoder = BatchEncoder::new(1 << 20);
    for seqnum in from..=to {
        let message = format!(
            "MESSAGE=entry {seqnum}\n\tsecond \u{1b}[1m line {}",
            "x".repeat(50)
        );
        let shared: [(Option<u64>, &[u8]); 4] = [
            (Some(1), b"_SYSTEMD_UNIT=app.service"),
            (Some(2), b"PRIORITY=3"),
            (None, message.as_bytes()),
            (Some(3), b"BLOB=\xff\0"),
        ];
        encoder.push(&head(seqnum), shared).unwrap();
    }
    encoder.finish()
}

fn frame(from: u64, to: u64) -> Frame {
    Frame {
        seqnum_id: [7; 16],
        first: from,
        last: to,
        count: u32::try_from(to - from + 1).unwrap(),
        reset: false,
        gap: None,
        received_unix_us: 1_763_766_062_500_000,
        mark: Mark::from(&head(to)),
        block: block(from, to),
    }
}

#[test]
fn a_damaged_segment_yields_what_is_before_the_damage_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("00000001.seg");
    let frames: Vec<Frame> = (0..6).map(|n| frame(n * 5 + 1, n * 5 + 5)).collect();
    let mut whole = Vec::new();
    write_header(&mut whole).unwrap();
    let mut ends = Vec::new();
    for (frame, packs) in frames.iter().zip([false, true].iter().cycle()) {
        let compression = if *packs {
            Compression::Zstd
        } else {
            Compression::None
        };
        whole.extend(frame.encode(compression).unwrap());
        ends.push(whole.len());
    }
    let mut dice = Dice(0x5eed);
    let (mut none, mut some) = (0, 0);
    for round in 0..ROUNDS {
        let mut bytes = whole.clone();
        let at = dice.damage(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        let intact = ends.iter().filter(|end| **end <= at).count();
        let found = frames_of(Reader::from_start(dir.path()));
        assert!(
            found.len() >= intact || at < 16,
            "round {round}: {} of {intact} frames before byte {at}",
            found.len()
        );
        // What checks was written so; doubled bytes may be a whole frame again.
        assert!(
            found.iter().all(|frame| frames.contains(frame)),
            "round {round}"
        );
        none += usize::from(found.is_empty());
        some += usize::from(!found.is_empty());
        // Everything else that reads a folder gets along too.
        let _ = boots(dir.path());
        if let Ok(found) = tail(dir.path(), 7, |frame| frame.count as usize) {
            assert!(
                frames_of(found.reader)
                    .iter()
                    .all(|frame| frames.contains(frame))
            );
        }
        if round % 10 == 0 {
            goes_on(dir.path(), &found, &frames[5]);
        }
    }
    assert!(
        none > 100 && some > 1000,
        "{none} {some}: not much was tried"
    );
}

/// The writer cuts the damage off and goes on behind it; a file that is not ours stays.
fn goes_on(dir: &Path, found: &[Frame], next: &Frame) {
    let Ok(mut store) = Store::open(dir, Limits::default()) else {
        return;
    };
    let last = found.last().map_or(0, |frame| frame.last);
    assert_eq!(store.position().seqnum, last);
    store.append(next).unwrap();
    drop(store);
    let after = frames_of(Reader::from_start(dir));
    assert_eq!(after.len(), found.len() + 1);
    assert_eq!(after.last(), Some(next));
}

#[test]
fn a_hostile_block_is_kept_only_where_it_can_be_read_again() {
    let whole = block(5, 14);
    let position = Position {
        seqnum_id: [7; 16],
        seqnum: 6,
        mark: Mark::from(&head(6)),
    };
    let mut dice = Dice(0xb10c);
    let (mut kept, mut not) = (0, 0);
    for round in 0..ROUNDS {
        let mut bytes = whole.clone();
        dice.damage(&mut bytes);
        let decodes = BatchDecoder::new(&bytes).is_ok_and(|mut all| all.all(|entry| entry.is_ok()));
        let batch = JournalBatch {
            seqnum_id: vec![7; 16],
            first_seqnum: 5,
            last_seqnum: 14,
            count: 10,
            block: bytes,
            tail_seqnum: 14,
            ..Default::default()
        };
        let frame = match accept(position, batch) {
            Accepted::Frame(frame, _) => frame,
            Accepted::Nothing | Accepted::Refused(_) => continue,
        };
        if frame.count > 0 {
            assert!(decodes, "round {round}: kept what does not decode");
            kept += 1;
        } else {
            not += 1;
        }
        assert_eq!(printed(&frame), frame.count as usize, "round {round}");
        assert!(frame.last >= frame.first, "round {round}");
    }
    assert!(kept > 500 && not > 500, "{kept} {not}: not much was tried");
}
