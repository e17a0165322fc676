//! What the fuzz targets do, over the inputs that are kept in `fuzz/corpus`, and how those inputs are made.

use protobuf::Message;
use seed_protocol::{
    journal::{BatchEncoder, EntryHead},
    seed::v1::{Gap, JournalBatch, gap::Reason},
};
use seed_shim::{
    logs::{
        pack::Compression,
        segment::{Frame, GapReason, Mark, write_header},
    },
    vsock::packet::{HOST_CID, Header, STREAM, op},
};

use super::bodies;

#[test]
fn every_input_is_taken_or_refused_as_it_is_known_to_be() {
    let targets = bodies::TARGETS.map(|(name, _)| name);
    seed_corpus::check(env!("CARGO_MANIFEST_DIR"), &targets, bodies::run);
}

#[test]
fn the_corpus_is_what_is_written_today() {
    for (name, bytes) in [blocks(), segments(), batches(), calls()].concat() {
        seed_corpus::keep(env!("CARGO_MANIFEST_DIR"), name, &bytes);
    }
}

type Inputs = Vec<(&'static str, Vec<u8>)>;

fn head(seqnum: u64) -> EntryHead {
    EntryHead {
        seqnum,
        realtime_us: 1_763_766_062_000_000 + seqnum,
        monotonic_us: seqnum * 10,
        boot_id: [u8::try_from(1 + seqnum / 9).unwrap(); 16],
        xor_hash: seqnum,
    }
}

/// Entries with everything that a block knows: shared, inline, cut, empty, binary, and a notice of dropped messages.
fn block(seqnums: impl Iterator<Item = u64>) -> Vec<u8> {
    let mut encoder = BatchEncoder::new(1 << 20);
    for seqnum in seqnums {
        let mut entry = encoder.begin(&head(seqnum)).unwrap();
        if !entry.known(1) {
            entry.shared(1, b"SYSLOG_IDENTIFIER=app", 21);
        }
        let message = format!("MESSAGE=line \x1b[31m{seqnum}\nsecond \0");
        entry.inline(message.as_bytes(), message.len() as u64);
        entry.inline(b"PRIORITY=3", 10);
        entry.inline(b"LONG=only the beg", 5000);
        entry.inline(b"MESSAGE_ID=a596d6fe7bfa4994828e72309e95d61e", 43);
        entry.inline(b"N_DROPPED=12", 12);
        let _ = entry.commit();
    }
    encoder.finish()
}

fn blocks() -> Inputs {
    let whole = block(5..=12);
    let mut version = whole.clone();
    version[0] = 9;
    vec![
        ("block/good-empty", Vec::new()),
        ("block/bad-cut", whole[..whole.len() - 3].to_vec()),
        ("block/bad-version", version),
        ("block/good-entries", whole),
    ]
}

fn frame(from: u64, to: u64) -> Frame {
    Frame {
        seqnum_id: [9; 16],
        first: from,
        last: to,
        count: u32::try_from(to + 1 - from).unwrap(),
        reset: from == 20,
        gap: (from > 5).then_some(seed_shim::logs::segment::Gap {
            first: from - 2,
            last: from - 1,
            reason: GapReason::Vacuumed,
        }),
        received_unix_us: 1_763_766_062_000_000,
        mark: Mark::from(&head(to)),
        block: block(from..=to),
    }
}

fn segments() -> Inputs {
    let segment = |compressions: [Compression; 3]| {
        let mut bytes = Vec::new();
        write_header(&mut bytes).unwrap();
        for (from, compression) in [5, 12, 20].into_iter().zip(compressions) {
            bytes.extend(frame(from, from + 4).encode(compression).unwrap());
        }
        bytes
    };
    let (plain, packed) = (Compression::None, Compression::Zstd);
    let whole = segment([plain; 3]);
    let mut version = whole.clone();
    version[8] = 200;
    vec![
        ("segment/good-torn", whole[..whole.len() - 3].to_vec()),
        ("segment/good-plain", whole),
        ("segment/good-packed", segment([packed, plain, packed])),
        ("segment/bad-version", version),
        ("segment/bad-empty", Vec::new()),
    ]
}

fn batches() -> Inputs {
    let whole = JournalBatch {
        seqnum_id: vec![9; 16],
        first_seqnum: 8,
        last_seqnum: 12,
        count: 5,
        block: block(8..=12),
        gap: Some(Gap {
            first_seqnum: 6,
            last_seqnum: 7,
            reason: Reason::REASON_VACUUMED.into(),
            ..Default::default()
        })
        .into(),
        tail_seqnum: 12,
        turn: 3,
        ..Default::default()
    };
    let reset = JournalBatch {
        reset: true,
        gap: None.into(),
        ..whole.clone()
    };
    let broken = JournalBatch {
        block: whole.block[..40].to_vec(),
        ..whole.clone()
    };
    let id = JournalBatch {
        seqnum_id: vec![9; 15],
        ..whole.clone()
    };
    let bytes = |batch: JournalBatch| batch.write_to_bytes().unwrap();
    vec![
        ("batch/good-gap", bytes(whole)),
        ("batch/good-reset", bytes(reset)),
        ("batch/good-broken-block", bytes(broken)),
        ("batch/bad-id", bytes(id)),
        ("batch/bad-nothing", bytes(JournalBatch::default())),
    ]
}

/// Steps of guest and host, as `fuzz/vsock.rs` reads them.
fn calls() -> Inputs {
    // A caller is asked for, and answered.
    let open: [u8; 11] = [0, 5, 5, 6, 2, 7, 0, 2, 0, 0, 0];
    let after_open = |steps: &[&[u8]]| {
        let mut all = open.to_vec();
        all.extend(steps.concat());
        all
    };
    let both: [&[u8]; 3] = [
        &[7, 0, 5, 0, 0, 1, 2, 0, 4],
        &[1, 0, 2, 5, 6, 200, 7, 0, 7, 0, 0, 0, 6, 0],
        &[3, 0, 5, 6, 200],
    ];
    let (much, reads) = ([7, 0, 5, 0, 0, 128].repeat(4), [2, 0, 255, 5].repeat(3));
    let slow: [&[u8]; 3] = [
        &much[..],
        &[7, 0, 4, 1, 0, 0, 7, 0, 4, 2, 0, 0, 7, 0, 3, 0, 0, 0],
        &reads[..],
    ];
    let cut = Header {
        from_cid: 3,
        to_cid: HOST_CID,
        from_port: 1_000_000,
        to_port: (1 << 30) + 1,
        len: 1 << 20,
        kind: STREAM,
        op: op::DATA,
        ..Header::default()
    }
    .bytes();
    let cut: [&[u8]; 3] = [&[8], &cut[..], &[6, 2]];
    vec![
        ("vsock/good-both", after_open(&both)),
        ("vsock/good-slow", after_open(&slow)),
        ("vsock/bad-cut", after_open(&cut)),
        ("vsock/bad-call", vec![9, 7, 10, 0, 6, 2]),
        (
            "vsock/bad-stranger",
            b"\x04\x06HELLO\n\x05\x05\x05".to_vec(),
        ),
        ("vsock/bad-nothing", Vec::new()),
    ]
}
