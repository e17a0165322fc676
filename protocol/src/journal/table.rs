//! The encoder's string table: from the caller's key to the string's number in this block.

/// From key to number: open addressing over a dense list. A slot is true only when the list agrees,
/// so taking strings back is a truncation of the list.
#[derive(Debug, Default)]
pub(super) struct KeyTable {
    /// Number + 1; 0 is a slot never used since the last rebuild.
    slots: Vec<u32>,
    used_slots: usize,
    strings: Vec<(u64, u32)>,
}

/// More than a block of 1 MiB can hold of worthwhile strings.
const MAX_STRINGS: usize = 1 << 18;
const FIRST_SLOTS: usize = 1 << 10;

impl KeyTable {
    pub(super) fn len(&self) -> usize {
        self.strings.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.strings.len() >= MAX_STRINGS
    }

    pub(super) fn clear(&mut self) {
        self.slots.fill(0);
        self.used_slots = 0;
        self.strings.clear();
    }

    pub(super) fn truncate(&mut self, strings: usize) {
        self.strings.truncate(strings);
    }

    fn first_slot(&self, key: u64) -> usize {
        // Fibonacci hashing: the high bits of the product are well mixed.
        let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        usize::try_from(mixed).expect("32 bits fit") & (self.slots.len() - 1)
    }

    pub(super) fn get(&self, key: u64) -> Option<(u32, u32)> {
        if self.slots.is_empty() {
            return None;
        }
        let mut at = self.first_slot(key);
        loop {
            let number = self.slots[at].checked_sub(1)?;
            if let Some((known, length)) = self.strings.get(number as usize)
                && *known == key
            {
                return Some((number, *length));
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    pub(super) fn insert(&mut self, key: u64, length: u32) {
        if (self.used_slots + 1) * 2 > self.slots.len() {
            self.rebuild();
        }
        let number = u32::try_from(self.strings.len()).expect("at most MAX_STRINGS");
        self.strings.push((key, length));
        self.occupy(key, number);
    }

    fn occupy(&mut self, key: u64, number: u32) {
        let mut at = self.first_slot(key);
        while self.slots[at] != 0 {
            at = (at + 1) & (self.slots.len() - 1);
        }
        self.slots[at] = number + 1;
        self.used_slots += 1;
    }

    fn rebuild(&mut self) {
        let wanted = ((self.strings.len() + 1) * 4)
            .next_power_of_two()
            .max(FIRST_SLOTS);
        self.slots.clear();
        self.slots.resize(wanted, 0);
        self.used_slots = 0;
        for number in 0..self.strings.len() {
            let key = self.strings[number].0;
            self.occupy(key, u32::try_from(number).expect("at most MAX_STRINGS"));
        }
    }
}
