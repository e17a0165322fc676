//! What each fuzz target does with its input: the way of the shim itself, and then what must hold of what came out. A
//! target is true when the input was taken, false when it was refused; a panic is a finding. The fuzzer runs these,
//! and so do the crate's tests over the corpus.

mod vsock;

use std::{convert::Infallible, env, fs, path::PathBuf, process};

use protobuf::Message;
use seed_protocol::{
    journal::{
        BatchDecoder, BatchEncoder, DECODER_FIXED_BYTES, Entry, MAX_EXPANDED_BYTES, MAX_FIELDS,
    },
    seed::v1::JournalBatch,
};
use seed_shim::logs::{
    batch::{Accepted, accept},
    entry::{Record, for_each},
    pack::Compression,
    reader::{Item, Reader, boots, tail},
    render::{Container, Human, Json, container::Texts, export},
    segment::{Frame, Mark, Next, Position, read_frame},
    store::{Limits, Store},
};

/// What a target does.
pub(crate) type Body = fn(&[u8]) -> bool;

/// All of them. A corpus has the name of its target.
pub(crate) const TARGETS: [(&str, Body); 4] = [
    ("segment", segment),
    ("block", block),
    ("batch", batch),
    ("vsock", vsock::vsock),
];

/// Runs the target of this name.
pub(crate) fn run(name: &str, input: &[u8]) -> bool {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.expect("a target that is in the table").1(input)
}

/// A folder of our own. Removed when it is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Taken when a frame checks.
fn segment(input: &[u8]) -> bool {
    let folder = Folder(env::temp_dir().join(format!("seed-segment-{}", process::id())));
    fs::create_dir_all(&folder.0).expect("a folder among the temporary files");
    let path = folder.0.join("00000001.seg");
    fs::write(&path, input).expect("room for a small file");
    let frames = frames(Reader::from_start(&folder.0));
    let _ = boots(&folder.0);
    for wanted in [0, 1, 7] {
        if let Ok(found) = tail(&folder.0, wanted, |frame| frame.count as usize) {
            // From the end also what lies behind a damaged frame is found: that may be more.
            self::frames(found.reader).iter().for_each(|frame| {
                printed(frame);
            });
        }
    }
    let entries: usize = frames.iter().map(printed).sum();
    // The writer takes what checks, and cuts what does not.
    if let Ok(store) = Store::open(&folder.0, Limits::DEFAULT) {
        let last = frames.last().map(Frame::position).unwrap_or_default();
        assert_eq!(store.position(), last);
        drop(store);
        let kept = self::frames(Reader::from_start(&folder.0));
        assert_eq!(kept, frames, "opening for writing changed the log");
    }
    entries > 0
}

/// Every frame that is read, whatever the files hold; an error ends it.
pub(crate) fn frames(mut reader: Reader) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Ok(Some(item)) = reader.next() {
        if let Item::Frame(frame) = item {
            frames.push(frame);
        }
    }
    frames
}

/// Prints in every form; how many entries there are.
pub(crate) fn printed(frame: &Frame) -> usize {
    let (mut human, mut json) = (Human::new(true), Json::default());
    let mut container = Container::new(true);
    let (mut text, mut texts, mut entries) = (Vec::new(), Texts::default(), 0);
    let Ok(()) = for_each(frame, |record| {
        entries += usize::from(matches!(record, Record::Entry(_)));
        human.render(record, &mut text);
        container.render(record, &mut texts);
        check_for_terminal(&text);
        text.clear();
        export::render(record, &mut text);
        text.clear();
        json.render(record, &mut text);
        let value = serde_json::from_slice::<serde_json::Value>(&text);
        value.expect("JSON");
        text.clear();
        Ok::<(), Infallible>(())
    });
    entries
}

/// Nothing in it steers a terminal but our own colours.
fn check_for_terminal(text: &[u8]) {
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == 0x1b {
            let colours: [&[u8]; 5] = [b"[1m", b"[1;31m", b"[1;33m", b"[90m", b"[0m"];
            let colour = colours.iter().find_map(|colour| rest.strip_prefix(*colour));
            rest = colour.expect("an escape that is not ours");
        } else {
            assert!(
                *byte >= 0x20 || matches!(byte, b'\n' | b'\t'),
                "{byte:#x} for a terminal"
            );
        }
    }
}

/// Taken when it decodes to its end.
fn block(input: &[u8]) -> bool {
    let Ok(decoder) = BatchDecoder::new(input) else {
        return false;
    };
    let mut entries = Vec::new();
    let mut expanded = 0;
    let mut ended_well = true;
    for entry in decoder {
        let Ok(entry) = entry else {
            ended_well = false;
            break;
        };
        assert!(entry.fields.len() <= MAX_FIELDS);
        expanded += entry
            .fields
            .iter()
            .map(|field| field.bytes.len() as u64)
            .sum::<u64>();
        assert!(expanded <= MAX_EXPANDED_BYTES);
        // The fuzzer's own memory: a few bytes say "the same again" very often.
        if expanded < (4 << 20) + DECODER_FIXED_BYTES as u64 {
            entries.push(entry);
        }
    }
    check_again(&entries);
    ended_well
}

/// Encoded and decoded again they are what they were.
fn check_again(entries: &[Entry<'_>]) {
    let mut encoder = BatchEncoder::new(usize::MAX);
    for entry in entries {
        let mut out = encoder.begin(&entry.head).expect("numbers rise");
        for field in &entry.fields {
            out.inline(field.bytes, field.true_length);
        }
        let _ = out.commit();
    }
    let block = encoder.finish();
    let found: Vec<_> = BatchDecoder::new(&block)
        .expect("a block of our own")
        .map(|entry| entry.expect("an entry of our own"))
        .collect();
    assert_eq!(found.len(), entries.len());
    for (found, entry) in found.iter().zip(entries) {
        assert_eq!(found.head, entry.head);
        for (found, field) in found.fields.iter().zip(&entry.fields) {
            // An entry beyond its limit is cut, never made up.
            assert!(field.bytes.starts_with(found.bytes));
            assert_eq!(found.true_length, field.true_length);
        }
    }
}

/// Taken when it becomes a frame. That lies behind the position, or says that numbers begin anew, and comes back from the
/// disk as it went there.
fn batch(input: &[u8]) -> bool {
    let Ok(batch) = JournalBatch::parse_from_bytes(input) else {
        return false;
    };
    let held = Position {
        seqnum_id: [9; 16],
        seqnum: 5,
        mark: Mark {
            boot_id: [1; 16],
            monotonic_us: 50,
            ..Mark::default()
        },
    };
    let mut taken = false;
    for position in [Position::default(), held] {
        let Accepted::Frame(frame, _) = accept(position, batch.clone()) else {
            continue;
        };
        taken = true;
        if frame.count > 0 {
            assert!(frame.first <= frame.last);
            assert_eq!(
                printed(&frame),
                usize::try_from(frame.count).expect("small")
            );
        }
        if let Some(gap) = frame.gap {
            assert!(gap.first <= gap.last);
            let goes_on = frame.seqnum_id == position.seqnum_id && !frame.reset;
            assert!(!goes_on || gap.first > position.seqnum, "{gap:?}");
        }
        for compression in [Compression::None, Compression::Zstd] {
            let bytes = frame.encode(compression).expect("within the bound");
            let size = bytes.len() as u64;
            let back = read_frame(&mut bytes.as_slice()).expect("memory does not fail");
            assert_eq!(back, Next::Frame(frame.clone(), size));
        }
    }
    taken
}
