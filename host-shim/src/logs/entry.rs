//! What a frame holds, taken apart: entries, and the marks between them. Nothing is copied: an entry borrows
//! from its frame, and is gone with it.

use seed_protocol::journal::{BatchDecoder, EntryHead, Field};

use super::segment::{Frame, Gap};

/// The `MESSAGE_ID` of journald's notice that it dropped a unit's messages (sd-messages.h,
/// `SD_MESSAGE_JOURNAL_DROPPED`). It comes when the unit logs again after the rate limit's interval.
const DROPPED: &[u8] = b"a596d6fe7bfa4994828e72309e95d61e";

/// One entry of the guest's journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'e> {
    /// Who numbered it.
    pub seqnum_id: [u8; 16],
    /// Number, times, boot.
    pub head: EntryHead,
    /// The fields as `NAME=value`, in the journal's order. A name may come more than once.
    pub fields: &'e [Field<'e>],
}

impl<'e> Entry<'e> {
    /// Name and value of each field.
    pub fn fields(&self) -> impl Iterator<Item = (&'e [u8], &'e [u8])> + use<'e> {
        self.fields.iter().filter_map(Field::split)
    }

    /// The first value of this name.
    pub fn get(&self, name: &str) -> Option<&'e [u8]> {
        first(self.fields, name)
    }

    /// Whether one of the values of this name is this.
    pub fn has(&self, name: &str, value: &str) -> bool {
        let of_name = |field: &Field<'e>| field.value_of(name.as_bytes());
        self.fields
            .iter()
            .filter_map(of_name)
            .any(|found| found == value.as_bytes())
    }

    /// The syslog level, 0 (emerg) to 7 (debug).
    pub fn priority(&self) -> Option<u8> {
        match self.get("PRIORITY")? {
            [digit @ b'0'..=b'7'] => Some(digit - b'0'),
            _ => None,
        }
    }

    /// How many messages journald dropped, if this is its notice of that; 0 otherwise.
    pub fn dropped(&self) -> u64 {
        dropped(self.fields)
    }
}

/// [`Entry::dropped`] of an entry's fields. A unit can send the same fields, but not as journald itself.
pub(super) fn dropped(fields: &[Field<'_>]) -> u64 {
    let notice = first(fields, "MESSAGE_ID") == Some(DROPPED)
        && first(fields, "_TRANSPORT") == Some(b"driver");
    let number = || {
        let text = std::str::from_utf8(first(fields, "N_DROPPED")?).ok()?;
        text.parse().ok()
    };
    if notice { number().unwrap_or(0) } else { 0 }
}

fn first<'e>(fields: &[Field<'e>], name: &str) -> Option<&'e [u8]> {
    fields
        .iter()
        .find_map(|field| field.value_of(name.as_bytes()))
}

/// One thing of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'e> {
    /// An entry.
    Entry(Entry<'e>),
    /// Entries that could not be had.
    Gap {
        /// Whose numbers they are.
        seqnum_id: [u8; 16],
        /// Which.
        gap: Gap,
    },
    /// Messages that journald dropped before they were entries.
    Dropped {
        /// How many.
        count: u64,
    },
    /// The guest's journal began anew.
    Reset,
    /// The host deleted older entries, which this reader had not come to.
    Removed,
}

/// Hands on everything in a frame, in order, until `each` fails.
pub fn for_each<E>(
    frame: &Frame,
    mut each: impl FnMut(&Record<'_>) -> Result<(), E>,
) -> Result<(), E> {
    if frame.reset {
        each(&Record::Reset)?;
    }
    if let Some(gap) = frame.gap {
        each(&Record::Gap {
            seqnum_id: frame.seqnum_id,
            gap,
        })?;
    }
    // The puller stores only blocks that decode; one that no longer does ends here.
    let Ok(mut decoder) = BatchDecoder::new(&frame.block) else {
        return Ok(());
    };
    let mut fields = Vec::new();
    while let Ok(Some(head)) = decoder.read_into(&mut fields) {
        each(&Record::Entry(Entry {
            seqnum_id: frame.seqnum_id,
            head,
            fields: &fields,
        }))?;
    }
    Ok(())
}

/// Hands on what comes in a frame behind its first `done` records, as long as `each` takes more; how many are done then, `None`
/// when that is all of them. What one frame holds may be thousands of times its length as text.
pub fn take_up(
    frame: &Frame,
    done: usize,
    mut each: impl FnMut(&Record<'_>) -> bool,
) -> Option<usize> {
    let mut at = 0;
    let all = for_each(frame, |record| {
        at += 1;
        if at <= done || each(record) {
            Ok(())
        } else {
            Err(())
        }
    });
    all.is_err().then_some(at)
}

/// As much of a name as a line of text may have of it: its sender makes it as long as it likes, and it may stand before
/// each line of a message.
pub(super) fn name_of(bytes: &[u8]) -> &[u8] {
    const MOST: usize = 256;
    let line = bytes.split(|byte| *byte == b'\n').next();
    let line = line.unwrap_or_default();
    let is_inside = |at: &usize| line.get(*at).is_some_and(|byte| byte & 0xc0 == 0x80);
    // Not in the middle of a character, where they are characters: none has more than four bytes.
    let end = (MOST - 3..=MOST).rev().find(|at| !is_inside(at));
    &line[..end.unwrap_or(MOST).min(line.len())]
}

#[cfg(test)]
pub(super) mod tests {
    use seed_protocol::journal::BatchEncoder;

    use super::{super::store::tests::frame as empty, *};

    pub(in crate::logs) fn fields<'e>(fields: &[&'e [u8]]) -> Vec<Field<'e>> {
        let field = |bytes: &&'e [u8]| Field {
            bytes,
            true_length: bytes.len() as u64,
        };
        fields.iter().map(field).collect()
    }

    pub(in crate::logs) fn entry<'e>(seqnum: u64, fields: &'e [Field<'e>]) -> Entry<'e> {
        Entry {
            seqnum_id: [0xab; 16],
            head: EntryHead {
                seqnum,
                realtime_us: 1_763_766_062_123_456,
                monotonic_us: 4_200_000,
                boot_id: [0xcd; 16],
                xor_hash: 0x1122,
            },
            fields,
        }
    }

    #[test]
    fn only_journald_itself_says_how_much_it_dropped() {
        let id = [b"MESSAGE_ID=".as_slice(), DROPPED].concat();
        let notice = [b"_TRANSPORT=driver".as_slice(), &id, b"N_DROPPED=132029"];
        assert_eq!(entry(1, &fields(&notice)).dropped(), 132_029);
        let forged = [b"_TRANSPORT=journal".as_slice(), &id, b"N_DROPPED=7"];
        assert_eq!(entry(1, &fields(&forged)).dropped(), 0);
        let unreadable = [b"_TRANSPORT=driver".as_slice(), &id, b"N_DROPPED=-7"];
        assert_eq!(entry(1, &fields(&unreadable)).dropped(), 0);
    }

    /// A frame of one entry for each message.
    pub(in crate::logs) fn frame_of(messages: &[&[u8]]) -> Frame {
        let mut encoder = BatchEncoder::new(usize::MAX);
        for (seqnum, message) in (1..).zip(messages) {
            let head = entry(seqnum, &[]).head;
            let mut writer = encoder.begin(&head).expect("their numbers rise");
            writer.inline(message, message.len() as u64);
            let _ = writer.commit();
        }
        Frame {
            count: u32::try_from(messages.len()).unwrap(),
            block: encoder.finish(),
            ..empty(1, 0)
        }
    }

    #[test]
    fn a_frame_is_taken_up_where_it_was_left() {
        let frame = Frame {
            reset: true,
            ..frame_of(&[b"MESSAGE=a", b"MESSAGE=b", b"MESSAGE=c"])
        };
        let mut seen = Vec::new();
        let mut done = Some(0);
        let mut times = 0;
        while let Some(from) = done {
            times += 1;
            let mut most = 2;
            done = take_up(&frame, from, |record| {
                seen.push(match record {
                    Record::Entry(entry) => entry.get("MESSAGE").unwrap().to_vec(),
                    _ => b"mark".to_vec(),
                });
                most -= 1;
                most > 0
            });
        }
        assert_eq!(seen, [b"mark".as_slice(), b"a", b"b", b"c"]);
        assert_eq!(times, 3, "two, two, and none");
    }

    #[test]
    fn a_name_is_one_line_of_bounded_length_and_whole_characters() {
        assert_eq!(name_of(b"app\nforged: "), b"app");
        assert_eq!(name_of(b""), b"");
        assert_eq!(name_of(&[b'x'; 256]), [b'x'; 256]);
        assert_eq!(name_of(&[b'x'; 1 << 20]), [b'x'; 256]);
        for lead in 0..4 {
            let name = "x".repeat(lead) + &"\u{1f331}".repeat(100);
            let cut = std::str::from_utf8(name_of(name.as_bytes())).unwrap();
            assert!((253..=256).contains(&cut.len()), "{}", cut.len());
        }
        // What is no text is cut all the same.
        assert_eq!(name_of(&[0x80; 1000]).len(), 256);
    }
}
