//! One JSON object a line, equal field by field to what `journalctl --all -o json` prints in the guest
//! (systemd's "Journal JSON format"): addresses first, then the fields; a name that comes more than once is
//! an array, a value that is not printable UTF-8 is an array of numbers. The marks between entries are
//! objects with one field that begins with `__SEED_`, which no journal has.

use std::{collections::HashMap, io::Write};

use super::human::hex;
use crate::logs::entry::{Entry, Record};

/// Appends the record's line.
pub fn render(record: &Record, out: &mut Vec<u8>) {
    match record {
        Record::Entry(entry) => object(entry, out),
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
        Record::Reset => out.extend_from_slice(br#"{"__SEED_RESET":true}"#),
        Record::Removed => out.extend_from_slice(br#"{"__SEED_REMOVED":true}"#),
    }
    out.push(b'\n');
}

fn object(entry: &Entry, out: &mut Vec<u8>) {
    let head = &entry.head;
    let (seqnum_id, boot_id) = (hex(&entry.seqnum_id), hex(&head.boot_id));
    let cursor = format!(
        "s={seqnum_id};i={:x};b={boot_id};m={:x};t={:x};x={:x}",
        head.seqnum, head.monotonic_us, head.realtime_us, head.xor_hash
    );
    // A Vec takes every write.
    let _ = write!(
        out,
        r#"{{"__CURSOR":"{cursor}","__REALTIME_TIMESTAMP":"{}","__MONOTONIC_TIMESTAMP":"{}","__SEQNUM":"{}","__SEQNUM_ID":"{seqnum_id}","_BOOT_ID":"{boot_id}""#,
        head.realtime_us, head.monotonic_us, head.seqnum,
    );
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
        out.push(b',');
        string(&String::from_utf8_lossy(name), out);
        out.push(b':');
        match values.as_slice() {
            [value] => one(value, out),
            many => list(many, out, |value, out| one(value, out)),
        }
    }
    out.push(b'}');
}

fn one(value: &[u8], out: &mut Vec<u8>) {
    match std::str::from_utf8(value) {
        Ok(text) if text.chars().all(printable) => string(text, out),
        _ => list(value, out, |byte, out| {
            let _ = write!(out, "{byte}");
        }),
    }
}

fn list<T>(items: &[T], out: &mut Vec<u8>, each: impl Fn(&T, &mut Vec<u8>)) {
    out.push(b'[');
    for (number, item) in items.iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        each(item, out);
    }
    out.push(b']');
}

fn string(text: &str, out: &mut Vec<u8>) {
    // A str is always JSON, and a Vec takes every write.
    let _ = serde_json::to_writer(out, text);
}

/// As `utf8_is_printable()` in systemd's `basic/utf8.c` (v257): no control characters but tab and newline,
/// no code points that Unicode reserves as non-characters.
fn printable(c: char) -> bool {
    let control = c.is_control() && c != '\t' && c != '\n';
    let code = u32::from(c);
    let reserved = (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe;
    !(control || reserved)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::logs::entry::tests::entry;

    fn parsed(record: &Record) -> Value {
        let mut out = Vec::new();
        render(record, &mut out);
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn an_entry_reads_as_journalctl_prints_it() {
        let entry = entry(
            26,
            &[
                b"_BOOT_ID=cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
                b"MESSAGE=a \"b\"\n\tc \xc3\xa4",
                b"TAG=one",
                b"EMPTY=",
                b"TAG=\x1btwo",
                b"BLOB=\xff\x00",
                b"C1=\xc2\x85",
                b"NOCHAR=\xef\xbf\xbf",
            ],
        );
        assert_eq!(
            parsed(&Record::Entry(entry)),
            json!({
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
            })
        );
    }

    #[test]
    fn marks_are_objects_too() {
        assert_eq!(parsed(&Record::Reset), json!({"__SEED_RESET": true}));
    }
}
