//! A writer of journal files, as simple as may be, in journald's order: objects, the entry, the array item, then
//! the header. It fills the hash table with a hash of its own, which readers of entries never look at.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use seed_protocol::journal::EntryHead;

const HEADER: u64 = 272;
/// More than there are values, as in journald's files: nearly each value begins a chain.
const BUCKETS: u64 = 1024;
const FLAG_COMPACT: u32 = 16;

pub struct Writer {
    pub path: PathBuf,
    file: File,
    compact: bool,
    seqnum_id: [u8; 16],
    file_id: [u8; 16],
    end: u64,
    data: HashMap<Vec<u8>, (u64, u64)>,
    buckets: Vec<(u64, u64)>,
    first_array: u64,
    array: u64,
    array_used: u64,
    array_capacity: u64,
    pub entries: u64,
    head: Option<EntryHead>,
    tail: EntryHead,
    tail_object: u64,
    state: u8,
    /// The header does not reach the disk any more.
    loses_header: bool,
}

impl Writer {
    pub fn create(path: &Path, compact: bool, seqnum_id: [u8; 16], file_id: u8) -> Self {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .unwrap();
        let mut writer = Self {
            path: path.to_owned(),
            file,
            compact,
            seqnum_id,
            file_id: [file_id; 16],
            end: HEADER,
            data: HashMap::new(),
            buckets: vec![(0, 0); 1024],
            first_array: 0,
            array: 0,
            array_used: 0,
            array_capacity: 0,
            entries: 0,
            head: None,
            tail: EntryHead::default(),
            tail_object: 0,
            state: 1,
            loses_header: false,
        };
        writer.object(4, &[0; 1024 * 16]);
        writer.write_header();
        writer
    }

    /// Appends one entry and makes it visible.
    pub fn append(&mut self, head: &EntryHead, fields: &[&[u8]]) -> u64 {
        let items: Vec<u64> = fields.iter().map(|field| self.value(field)).collect();
        let mut body = Vec::new();
        for number in [head.seqnum, head.realtime_us, head.monotonic_us] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        body.extend_from_slice(&head.boot_id);
        body.extend_from_slice(&head.xor_hash.to_le_bytes());
        for item in &items {
            if self.compact {
                body.extend_from_slice(&u32::try_from(*item).unwrap().to_le_bytes());
            } else {
                body.extend_from_slice(&item.to_le_bytes());
                body.extend_from_slice(&[0; 8]);
            }
        }
        let offset = self.object(3, &body);
        self.link(offset);
        self.head = self.head.or(Some(*head));
        self.tail = *head;
        self.entries += 1;
        self.write_header();
        offset
    }

    /// The machine will be killed: what is written from now on reaches the disk, but for the header.
    pub fn lose_header(&mut self) {
        self.loses_header = true;
    }

    /// Numbers go on from another file's last, though there is no entry yet.
    pub fn number_from(&mut self, seqnum: u64) {
        self.tail.seqnum = seqnum;
        self.write_header();
    }

    /// What a sync does: the file is offline until the next entry.
    pub fn sync(&mut self) {
        self.state = 0;
        self.write_header();
        self.state = 1;
    }

    /// Rotation: the file gets another name and is closed.
    pub fn archive(mut self, path: &Path) {
        self.state = 2;
        self.write_header();
        fs::rename(&self.path, path).unwrap();
    }

    fn value(&mut self, bytes: &[u8]) -> u64 {
        let key = bytes.to_vec();
        if let Some((offset, entries)) = self.data.get_mut(&key) {
            *entries += 1;
            self.file
                .write_all_at(&entries.to_le_bytes(), *offset + 56)
                .unwrap();
            return *offset;
        }
        let mut body = vec![0; if self.compact { 56 } else { 48 }];
        body[40..48].copy_from_slice(&1_u64.to_le_bytes());
        body.extend_from_slice(bytes);
        let offset = self.object(1, &body);
        self.data.insert(key, (offset, 1));
        let bucket = bytes
            .iter()
            .fold(7_u64, |hash, byte| hash.wrapping_mul(31) + u64::from(*byte));
        let bucket = bucket % BUCKETS;
        let slot = &mut self.buckets[usize::try_from(bucket).unwrap()];
        if slot.0 == 0 {
            slot.0 = offset;
        } else {
            self.file
                .write_all_at(&offset.to_le_bytes(), slot.1 + 24)
                .unwrap();
        }
        slot.1 = offset;
        let pair = [slot.0.to_le_bytes(), slot.1.to_le_bytes()].concat();
        self.file
            .write_all_at(&pair, HEADER + 16 + bucket * 16)
            .unwrap();
        offset
    }

    fn link(&mut self, entry: u64) {
        let width = if self.compact { 4 } else { 8 };
        if self.array_used == self.array_capacity {
            let capacity = if self.array_capacity == 0 {
                4
            } else {
                self.array_capacity * 2
            };
            let array = self.object(6, &vec![0; usize::try_from(8 + capacity * width).unwrap()]);
            if self.array == 0 {
                self.first_array = array;
            } else {
                self.file
                    .write_all_at(&array.to_le_bytes(), self.array + 16)
                    .unwrap();
            }
            (self.array, self.array_capacity, self.array_used) = (array, capacity, 0);
        }
        let bytes = entry.to_le_bytes();
        let at = self.array + 24 + self.array_used * width;
        self.file
            .write_all_at(&bytes[..usize::try_from(width).unwrap()], at)
            .unwrap();
        self.array_used += 1;
    }

    fn object(&mut self, kind: u8, body: &[u8]) -> u64 {
        let offset = self.end;
        let mut bytes = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(&(16 + body.len() as u64).to_le_bytes());
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        self.file.write_all_at(&bytes, offset).unwrap();
        self.end += bytes.len() as u64;
        self.tail_object = offset;
        offset
    }

    fn write_header(&mut self) {
        if self.loses_header {
            return;
        }
        let mut bytes = vec![0; 272];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, b"LPKSHHRH");
        put(
            12,
            &(if self.compact { FLAG_COMPACT } else { 0 }).to_le_bytes(),
        );
        put(16, &[self.state]);
        put(24, &self.file_id);
        put(40, &super::MACHINE);
        put(56, &self.tail.boot_id);
        put(72, &self.seqnum_id);
        let head = self.head.unwrap_or_default();
        for (at, value) in [
            (88, HEADER),
            (96, self.end - HEADER),
            (104, HEADER + 16),
            (112, BUCKETS * 16),
            (136, self.tail_object),
            (152, self.entries),
            (160, self.tail.seqnum),
            (168, head.seqnum),
            (176, self.first_array),
            (184, head.realtime_us),
            (192, self.tail.realtime_us),
            (200, self.tail.monotonic_us),
        ] {
            put(at, &value.to_le_bytes());
        }
        self.file.write_all_at(&bytes, 0).unwrap();
    }
}
