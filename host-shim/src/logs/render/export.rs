//! systemd's "Journal Export Format", as `journalctl -o export` writes it: `NAME=value` lines, and the binary
//! form of a value that is not one printable line. Marks are comments nowhere known to that format, so they
//! are entries of one field that begins with `__SEED_`, which readers of the format pass over.

use std::io::Write;

use super::{
    human::words,
    json::{is_plain, printable},
};
use crate::{
    logs::entry::{Entry, Record},
    text::hex,
};

/// Appends the record and the empty line that ends it.
pub fn render(record: &Record<'_>, out: &mut Vec<u8>) {
    // A Vec takes every write.
    let _ = match record {
        Record::Entry(entry) => {
            self::entry(entry, out);
            Ok(())
        }
        other => {
            let name = match other {
                Record::Gap { .. } => "GAP",
                Record::Dropped { .. } => "DROPPED",
                Record::Reset => "RESET",
                Record::Removed | Record::Entry(_) => "REMOVED",
            };
            writeln!(out, "__SEED_{name}={}", words(other))
        }
    };
    out.push(b'\n');
}

fn entry(entry: &Entry<'_>, out: &mut Vec<u8>) {
    let head = &entry.head;
    let (seqnum_id, boot_id) = (hex(&entry.seqnum_id), hex(&head.boot_id));
    let _ = write!(
        out,
        "__CURSOR=s={seqnum_id};i={:x};b={boot_id};m={:x};t={:x};x={:x}\n\
         __REALTIME_TIMESTAMP={}\n__MONOTONIC_TIMESTAMP={}\n__SEQNUM={}\n__SEQNUM_ID={seqnum_id}\n\
         _BOOT_ID={boot_id}\n",
        head.seqnum,
        head.monotonic_us,
        head.realtime_us,
        head.xor_hash,
        head.realtime_us,
        head.monotonic_us,
        head.seqnum,
    );
    for (name, value) in entry.fields().filter(|(name, _)| *name != b"_BOOT_ID") {
        out.extend_from_slice(name);
        let line = is_plain(value)
            || std::str::from_utf8(value)
                .is_ok_and(|text| text.chars().all(|c| c != '\n' && printable(c)));
        if line {
            out.push(b'=');
        } else {
            out.push(b'\n');
            out.extend_from_slice(&(value.len() as u64).to_le_bytes());
        }
        out.extend_from_slice(value);
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::entry::tests::{entry, fields};

    #[test]
    fn what_is_not_one_printable_line_has_its_length() {
        let fields = fields(&[
            b"_BOOT_ID=cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
            b"MESSAGE=a\ttab",
            b"TRACE=two\nlines",
            b"BLOB=\xff\x00",
            b"TAG=1",
            b"TAG=2",
        ]);
        let mut out = Vec::new();
        render(&Record::Entry(entry(26, &fields)), &mut out);
        render(&Record::Dropped { count: 3 }, &mut out);
        let expected = b"__CURSOR=s=abababababababababababababababab;i=1a;b=cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd;m=401640;t=64422c99989c0;x=1122\n\
            __REALTIME_TIMESTAMP=1763766062123456\n__MONOTONIC_TIMESTAMP=4200000\n__SEQNUM=26\n\
            __SEQNUM_ID=abababababababababababababababab\n_BOOT_ID=cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd\n\
            MESSAGE=a\ttab\nTRACE\n\x09\0\0\0\0\0\0\0two\nlines\nBLOB\n\x02\0\0\0\0\0\0\0\xff\0\nTAG=1\nTAG=2\n\n\
            __SEED_DROPPED=3 messages were dropped by the guest's rate limit\n\n";
        assert_eq!(
            out.escape_ascii().to_string(),
            expected.escape_ascii().to_string()
        );
    }
}
