//! One JSON object a line, equal field by field to what `journalctl --all -o json` prints in the guest
//! (systemd's "Journal JSON format"): addresses first, then the fields; a name that comes more than once is
//! an array, a value that is not printable UTF-8 is an array of numbers. The marks between entries are
//! objects with one field that begins with `__SEED_`, which no journal has.

use std::{collections::HashMap, io::Write};

use crate::{
    logs::entry::{Entry, Record},
    text::hex,
};

/// Up to this many fields a name that comes twice is found by comparing each with each.
const FEW_FIELDS: usize = u64::BITS as usize;

/// A renderer. It holds nothing but room.
#[derive(Debug, Default)]
pub struct Json {
    seqnum_id: ([u8; 16], String),
    boot_id: ([u8; 16], String),
}

impl Json {
    /// Appends the record's line.
    pub fn render(&mut self, record: &Record<'_>, out: &mut Vec<u8>) {
        match record {
            Record::Entry(entry) => self.object(entry, out),
            Record::Gap { seqnum_id, gap } => {
                let mark = serde_json::json!({
                    "__SEED_GAP": {
                        "count": gap.count(),
                        "first": gap.first,
                        "last": gap.last,
                        "reason": gap.reason.text(),
                    },
                    "__SEQNUM_ID": hex(seqnum_id),
                });
                out.extend_from_slice(mark.to_string().as_bytes());
            }
            Record::Dropped { count } => {
                let mark = serde_json::json!({ "__SEED_DROPPED": { "count": count } });
                out.extend_from_slice(mark.to_string().as_bytes());
            }
            Record::Reset => out.extend_from_slice(br#"{"__SEED_RESET":true}"#),
            Record::Removed => out.extend_from_slice(br#"{"__SEED_REMOVED":true}"#),
        }
        out.push(b'\n');
    }

    fn object(&mut self, entry: &Entry<'_>, out: &mut Vec<u8>) {
        let head = &entry.head;
        let seqnum_id = kept(&mut self.seqnum_id, entry.seqnum_id);
        let boot_id = kept(&mut self.boot_id, head.boot_id);
        // A Vec takes every write.
        let _ = write!(
            out,
            r#"{{"__CURSOR":"s={seqnum_id};i={:x};b={boot_id};m={:x};t={:x};x={:x}","__REALTIME_TIMESTAMP":"{}","__MONOTONIC_TIMESTAMP":"{}","__SEQNUM":"{}","__SEQNUM_ID":"{seqnum_id}","_BOOT_ID":"{boot_id}""#,
            head.seqnum,
            head.monotonic_us,
            head.realtime_us,
            head.xor_hash,
            head.realtime_us,
            head.monotonic_us,
            head.seqnum,
        );
        if entry.fields.len() <= FEW_FIELDS {
            few(entry, out);
        } else {
            many(entry, out);
        }
        out.push(b'}');
    }
}

fn kept(kept: &mut ([u8; 16], String), id: [u8; 16]) -> &str {
    if kept.0 != id || kept.1.is_empty() {
        *kept = (id, hex(&id));
    }
    &kept.1
}

fn few(entry: &Entry<'_>, out: &mut Vec<u8>) {
    let mut fields: [(&[u8], &[u8]); FEW_FIELDS] = [(b"", b""); FEW_FIELDS];
    let mut count = 0;
    let wanted = entry.fields().filter(|(name, _)| *name != b"_BOOT_ID");
    for (place, field) in fields.iter_mut().zip(wanted) {
        *place = field;
        count += 1;
    }
    let fields = &fields[..count];
    // A bit for each field that an array before it has taken in.
    let mut taken = 0_u64;
    for (at, (name, value)) in fields.iter().enumerate() {
        if taken & (1 << at) != 0 {
            continue;
        }
        begin(name, out);
        let mut same = 0_u64;
        for (later, (other, _)) in fields.iter().enumerate().skip(at + 1) {
            // Most names of one length differ in their last letter.
            if other.len() == name.len() && other.last() == name.last() && other == name {
                same |= 1 << later;
            }
        }
        if same == 0 {
            one(value, out);
            continue;
        }
        taken |= same;
        let of_name = (at..count).filter(|place| (same | 1 << at) & (1 << place) != 0);
        list(of_name.map(|place| fields[place].1), out, one);
    }
}

fn many(entry: &Entry<'_>, out: &mut Vec<u8>) {
    let mut order: Vec<(&[u8], Vec<&[u8]>)> = Vec::new();
    let mut places = HashMap::new();
    for (name, value) in entry.fields().filter(|(name, _)| *name != b"_BOOT_ID") {
        let place = *places.entry(name).or_insert_with(|| {
            order.push((name, Vec::new()));
            order.len() - 1
        });
        order[place].1.push(value);
    }
    for (name, values) in order {
        begin(name, out);
        match values.as_slice() {
            [value] => one(value, out),
            _ => list(values, out, one),
        }
    }
}

fn begin(name: &[u8], out: &mut Vec<u8>) {
    out.push(b',');
    string(name, out);
    out.push(b':');
}

fn one(value: &[u8], out: &mut Vec<u8>) {
    if is_plain(value) {
        quoted(value, out);
        return;
    }
    match std::str::from_utf8(value) {
        Ok(text) if text.chars().all(printable) => escaped(text, out),
        _ => list(value, out, |byte, out| {
            let _ = write!(out, "{byte}");
        }),
    }
}

fn list<T>(items: impl IntoIterator<Item = T>, out: &mut Vec<u8>, each: impl Fn(T, &mut Vec<u8>)) {
    out.push(b'[');
    for (number, item) in items.into_iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        each(item, out);
    }
    out.push(b']');
}

/// Printable ASCII that stands in a JSON string as it is. Nearly all of the time that printing takes is spent here, so
/// eight bytes are looked at as one number: fast also in a program that is built for size.
pub(super) fn is_plain(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let odd = |byte: &u8| !(0x20..0x7f).contains(byte) || *byte == b'"' || *byte == b'\\';
    let any = words.iter().fold(0, |any, word| any | odd_of(*word));
    any == 0 && !rest.iter().any(odd)
}

/// Not 0 when one of the bytes is not plain. A byte after such a one may be marked without being odd, none before it:
/// "Bit Twiddling Hacks" (Anderson), "Determine if a word has a byte less than n" and "... a zero byte".
fn odd_of(word: [u8; 8]) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let word = u64::from_le_bytes(word);
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word;
    let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    (word | below(word, 0x20) | equal(0x7f) | equal(b'"') | equal(b'\\')) & HIGH
}

fn string(text: &[u8], out: &mut Vec<u8>) {
    if is_plain(text) {
        quoted(text, out);
    } else {
        escaped(&String::from_utf8_lossy(text), out);
    }
}

fn quoted(plain: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(plain);
    out.push(b'"');
}

fn escaped(text: &str, out: &mut Vec<u8>) {
    // A str is always JSON, and a Vec takes every write.
    let _ = serde_json::to_writer(out, text);
}

/// As `utf8_is_printable()` in systemd's `basic/utf8.c` (v257): no control characters but tab and newline,
/// no code points that Unicode reserves as non-characters.
pub(super) fn printable(c: char) -> bool {
    let control = c.is_control() && c != '\t' && c != '\n';
    let code = u32::from(c);
    let reserved = (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe;
    !(control || reserved)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::logs::entry::tests::{entry, fields};

    #[test]
    fn what_is_not_plain_is_found_wherever_it_stands() {
        for byte in 0..=u8::MAX {
            let odd = !(0x20..0x7f).contains(&byte) || byte == b'"' || byte == b'\\';
            for length in 1..20 {
                for at in 0..length {
                    for around in [b' ', b'!', b'#', b'[', b']', b'~'] {
                        let mut text = vec![around; length];
                        text[at] = byte;
                        assert_eq!(is_plain(&text), !odd, "{text:x?}");
                    }
                }
            }
        }
        assert!(is_plain(b""));
    }

    fn parsed(record: &Record<'_>) -> Value {
        let mut out = Vec::new();
        Json::default().render(record, &mut out);
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn an_entry_reads_as_journalctl_prints_it() {
        let mut list: Vec<&[u8]> = vec![
            b"_BOOT_ID=cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
            b"MESSAGE=a \"b\"\n\tc \xc3\xa4",
            b"TAG=one",
            b"EMPTY=",
            b"TAG=\x1btwo",
            b"BLOB=\xff\x00",
            b"C1=\xc2\x85",
            b"NOCHAR=\xef\xbf\xbf",
        ];
        let mut expected = json!({
            "__CURSOR": "s=abababababababababababababababab;i=1a;b=cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd;m=401640;t=64422c99989c0;x=1122",
            "__REALTIME_TIMESTAMP": "1763766062123456",
            "__MONOTONIC_TIMESTAMP": "4200000",
            "__SEQNUM": "26",
            "__SEQNUM_ID": "abababababababababababababababab",
            "_BOOT_ID": "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
            "MESSAGE": "a \"b\"\n\tc ä",
            "TAG": ["one", [27, 116, 119, 111]],
            "EMPTY": "",
            "BLOB": [255, 0],
            "C1": [194, 133],
            "NOCHAR": [239, 191, 191],
        });
        assert_eq!(parsed(&Record::Entry(entry(26, &fields(&list)))), expected);
        // The same where there are many fields.
        let more: Vec<String> = (0..FEW_FIELDS).map(|n| format!("N{n}={n}")).collect();
        for (number, field) in more.iter().enumerate() {
            list.push(field.as_bytes());
            expected[format!("N{number}")] = json!(number.to_string());
        }
        assert_eq!(parsed(&Record::Entry(entry(26, &fields(&list)))), expected);
    }

    #[test]
    fn marks_are_objects_too() {
        assert_eq!(parsed(&Record::Reset), json!({"__SEED_RESET": true}));
        assert_eq!(
            parsed(&Record::Dropped { count: 3 }),
            json!({"__SEED_DROPPED": {"count": 3}})
        );
    }
}
