//! The codec's promises: what goes in comes out, bounds hold, bytes of any kind never panic.

use proptest::{collection::vec, prelude::*};

use super::{varint::put_varint, *};

#[derive(Debug, Clone)]
struct Plain {
    head: EntryHead,
    fields: Vec<(Option<u64>, Vec<u8>)>,
}

fn decode(block: &[u8]) -> Result<Vec<Entry<'_>>, DecodeError> {
    BatchDecoder::new(block)?.collect()
}

fn head(seqnum: u64) -> EntryHead {
    EntryHead {
        seqnum,
        realtime_us: 7,
        monotonic_us: 9,
        boot_id: [3; 16],
        xor_hash: 11,
    }
}

/// The value of a key is fixed, as a DATA object's is.
fn value_of_key(key: u64) -> Vec<u8> {
    format!("KEY={}", "v".repeat(usize::try_from(key % 300).unwrap())).into_bytes()
}

fn entries() -> impl Strategy<Value = Vec<Plain>> {
    let field = prop_oneof![
        (0_u64..40).prop_map(|key| (Some(key << 3), value_of_key(key << 3))),
        vec(any::<u8>(), 0..200).prop_map(|bytes| (None, bytes)),
    ];
    let entry = (
        1_u64..1_000_000,
        any::<u64>(),
        any::<u64>(),
        0_u8..3,
        any::<u64>(),
        vec(field, 0..30),
    );
    vec(entry, 0..60).prop_map(|raw| {
        let mut seqnum = 0_u64;
        raw.into_iter()
            .map(
                |(step, realtime_us, monotonic_us, boot, xor_hash, fields)| {
                    seqnum += step;
                    let boot_id = [boot; 16];
                    Plain {
                        head: EntryHead {
                            seqnum,
                            realtime_us,
                            monotonic_us,
                            boot_id,
                            xor_hash,
                        },
                        fields,
                    }
                },
            )
            .collect()
    })
}

fn push(encoder: &mut BatchEncoder, plain: &Plain) -> Commit {
    encoder
        .push(
            &plain.head,
            plain
                .fields
                .iter()
                .map(|(key, bytes)| (*key, bytes.as_slice())),
        )
        .unwrap()
}

fn same(plain: &Plain, entry: &Entry<'_>) -> bool {
    plain.head == entry.head
        && plain.fields.len() == entry.fields.len()
        && plain
            .fields
            .iter()
            .zip(&entry.fields)
            .all(|((_, bytes), field)| {
                field.bytes == bytes.as_slice() && field.true_length == bytes.len() as u64
            })
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(plain in entries()) {
        let mut encoder = BatchEncoder::new(usize::MAX);
        for entry in &plain {
            prop_assert_eq!(push(&mut encoder, entry), Commit::Added);
        }
        prop_assert_eq!(encoder.count() as usize, plain.len());
        let block = encoder.finish();
        let decoded = decode(&block).unwrap();
        prop_assert_eq!(decoded.len(), plain.len());
        for (plain, entry) in plain.iter().zip(&decoded) {
            prop_assert!(same(plain, entry));
        }
    }

    #[test]
    fn blocks_of_any_limit_hold_every_entry_once(plain in entries(), limit in 1_usize..4096) {
        let mut blocks = Vec::new();
        let mut encoder = BatchEncoder::new(limit);
        for entry in &plain {
            if push(&mut encoder, entry) == Commit::Full {
                prop_assert!(encoder.count() == 1 || encoder.len() <= limit);
                blocks.push(encoder.take());
                prop_assert_eq!(push(&mut encoder, entry), Commit::Added);
            }
        }
        blocks.push(encoder.finish());
        let mut expected = plain.iter();
        for block in &blocks {
            for entry in decode(block).unwrap() {
                prop_assert!(same(expected.next().unwrap(), &entry));
            }
        }
        prop_assert!(expected.next().is_none());
    }

    #[test]
    fn a_dropped_entry_leaves_no_trace(plain in entries(), dropped in entries()) {
        let mut with = BatchEncoder::new(usize::MAX);
        let mut without = BatchEncoder::new(usize::MAX);
        for (index, entry) in plain.iter().enumerate() {
            if let Some(other) = dropped.get(index) {
                let begun = with.begin(&EntryHead { seqnum: entry.head.seqnum, ..other.head });
                let mut begun = begun.unwrap();
                for (key, bytes) in &other.fields {
                    match key {
                        Some(key) if begun.known(*key) => {}
                        Some(key) => { begun.shared(*key, bytes, bytes.len() as u64); }
                        None => { begun.inline(bytes, bytes.len() as u64); }
                    }
                }
                drop(begun);
            }
            push(&mut with, entry);
            push(&mut without, entry);
        }
        prop_assert_eq!(with.finish(), without.finish());
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in vec(any::<u8>(), 0..2000), versioned: bool) {
        if versioned && let Some(first) = bytes.first_mut() {
            *first = BLOCK_VERSION;
        }
        if let Ok(decoder) = BatchDecoder::new(&bytes) {
            for entry in decoder.flatten() {
                prop_assert!(entry.fields.len() <= MAX_FIELDS);
            }
        }
    }

    #[test]
    fn a_damaged_block_never_panics_and_ends(
        plain in entries(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut encoder = BatchEncoder::new(usize::MAX);
        for entry in &plain {
            push(&mut encoder, entry);
        }
        let mut block = encoder.finish();
        prop_assume!(!block.is_empty());
        for (index, byte) in &damage {
            let at = index.index(block.len());
            block[at] = *byte;
        }
        if let Ok(decoder) = BatchDecoder::new(&block) {
            let mut previous = 0;
            for entry in decoder.flatten() {
                prop_assert!(entry.head.seqnum > previous);
                previous = entry.head.seqnum;
            }
        }
    }
}

#[test]
fn an_empty_block_has_no_entries() {
    assert_eq!(BatchEncoder::new(100).finish(), Vec::<u8>::new());
    assert_eq!(decode(&[]).unwrap(), vec![]);
    assert_eq!(decode(&[BLOCK_VERSION]).unwrap(), vec![]);
    assert_eq!(decode(&[9]).unwrap_err(), DecodeError::Version(9));
}

#[test]
fn a_repeated_value_costs_one_byte() {
    let value = b"_SYSTEMD_UNIT=app.service".as_slice();
    let mut encoder = BatchEncoder::new(usize::MAX);
    encoder.push(&head(1), [(Some(8), value)]).unwrap();
    let first = encoder.len();
    encoder.push(&head(2), [(Some(8), value)]).unwrap();
    // seq, real, mono, boot, hash (8), reference, end
    assert_eq!(encoder.len() - first, 14);
    let block = encoder.finish();
    let entries = decode(&block).unwrap();
    assert_eq!(
        entries[1].get("_SYSTEMD_UNIT"),
        Some(b"app.service".as_slice())
    );
}

#[test]
fn a_long_value_is_cut_and_says_so() {
    let long = vec![b'x'; MAX_VALUE_BYTES + 5];
    let mut encoder = BatchEncoder::new(1000);
    assert_eq!(
        encoder.push(&head(1), [(Some(8), long.as_slice())]),
        Ok(Commit::Added)
    );
    let block = encoder.finish();
    let entries = decode(&block).unwrap();
    let field = entries[0].fields[0];
    assert!(field.is_cut());
    assert_eq!(
        (field.bytes.len(), field.true_length),
        (MAX_VALUE_BYTES, long.len() as u64)
    );
}

#[test]
fn the_largest_entry_fits_into_a_ttrpc_frame() {
    let long = vec![b'x'; MAX_VALUE_BYTES * 2];
    let mut encoder = BatchEncoder::new(1000);
    let fields = (0..MAX_FIELDS + 10).map(|_| (None, long.as_slice()));
    assert_eq!(encoder.push(&head(1), fields), Ok(Commit::Added));
    let block = encoder.finish();
    assert!(block.len() < 3 * 1024 * 1024, "{}", block.len());
    let entries = decode(&block).unwrap();
    assert_eq!(entries[0].fields.len(), MAX_FIELDS);
    assert!(
        entries[0]
            .fields
            .iter()
            .all(|field| field.bytes.len() >= MIN_KEPT_BYTES)
    );
}

#[test]
fn a_block_closes_before_it_expands_too_far() {
    let wide = vec![b'x'; MAX_SHARED_BYTES];
    let mut encoder = BatchEncoder::new(usize::MAX);
    let mut seqnum = 1;
    while encoder
        .push(&head(seqnum), [(Some(8), wide.as_slice())])
        .unwrap()
        == Commit::Added
    {
        seqnum += 1;
    }
    assert_eq!(
        encoder.count() as u64 * MAX_SHARED_BYTES as u64,
        MAX_EXPANDED_BYTES
    );
    assert_eq!(decode(&encoder.finish()).unwrap().len() as u64, seqnum - 1);
}

#[test]
fn a_bomb_is_refused() {
    let mut block = vec![BLOCK_VERSION];
    let entry_head = |block: &mut Vec<u8>| {
        block.extend_from_slice(&[1, 0, 0]);
        block.push(u8::from(block.len() > 4));
        if block.len() == 5 {
            block.extend_from_slice(&[0; 16]);
        }
        block.extend_from_slice(&[0; 8]);
    };
    entry_head(&mut block);
    put_varint(&mut block, TAG_DEFINE);
    put_varint(&mut block, 500_000);
    block.resize(block.len() + 500_000, b'x');
    block.push(0);
    entry_head(&mut block);
    for _ in 0..1000 {
        put_varint(&mut block, TAG_FIRST_REFERENCE);
    }
    block.push(0);
    let results: Vec<_> = BatchDecoder::new(&block).unwrap().collect();
    assert!(results[0].is_ok());
    assert!(
        matches!(results[1], Err(DecodeError::Length { .. })),
        "{:?}",
        results[1]
    );
    assert_eq!(results.len(), 2);
}

#[test]
fn entries_out_of_order_are_refused_on_both_sides() {
    let mut encoder = BatchEncoder::new(usize::MAX);
    encoder.push(&head(5), []).unwrap();
    assert_eq!(
        encoder.push(&head(5), []).unwrap_err(),
        EncodeError::OutOfOrder {
            seqnum: 5,
            previous: 5
        }
    );
    let block = encoder.finish();
    let mut twice = block.clone();
    let mut again = block[1..].to_vec();
    again[0] = 0;
    twice.extend_from_slice(&again);
    let at = block.len();
    assert_eq!(decode(&twice).unwrap_err(), DecodeError::OutOfOrder { at });
}

#[test]
fn numbers_of_more_than_64_bits_and_unknown_strings_are_refused() {
    let long = [
        BLOCK_VERSION,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0x02,
    ];
    assert_eq!(
        decode(&long).unwrap_err(),
        DecodeError::LongNumber { at: 1 }
    );
    let mut encoder = BatchEncoder::new(usize::MAX);
    encoder.push(&head(1), []).unwrap();
    let mut block = encoder.finish();
    *block.last_mut().unwrap() = 4;
    let expected = DecodeError::UnknownReference { at: 1, number: 0 };
    assert_eq!(decode(&block).unwrap_err(), expected);
    block.pop();
    assert_eq!(
        decode(&block).unwrap_err(),
        DecodeError::CutShort { entry: 1 }
    );
}
