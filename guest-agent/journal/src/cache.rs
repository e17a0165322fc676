//! Values that come again and again (unit names, boot ids, command lines), kept from batch to batch.
//!
//! Every batch has a string table of its own, so each begins by asking for the same few hundred values,
//! which lie far back in the file. Bounded: when full it is emptied, and fills again with what is used now.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

const MAX_VALUES: usize = 16 * 1024;
const MAX_BYTES: usize = 1024 * 1024;
const MAX_VALUE_BYTES: usize = 4 * 1024;

#[derive(Debug, Default)]
pub(crate) struct ValueCache {
    places: HashMap<u64, (u32, u32), BuildHasherDefault<KeyHasher>>,
    bytes: Vec<u8>,
}

impl ValueCache {
    pub(crate) fn get(&self, key: u64) -> Option<&[u8]> {
        let (start, length) = *self.places.get(&key)?;
        let start = usize::try_from(start).ok()?;
        self.bytes.get(start..start + usize::try_from(length).ok()?)
    }

    pub(crate) fn insert(&mut self, key: u64, value: &[u8]) {
        if value.len() > MAX_VALUE_BYTES {
            return;
        }
        if self.places.len() >= MAX_VALUES || self.bytes.len() + value.len() > MAX_BYTES {
            self.places.clear();
            self.bytes.clear();
        }
        let place = (u32::try_from(self.bytes.len()), u32::try_from(value.len()));
        if let (Ok(start), Ok(length)) = place {
            self.bytes.extend_from_slice(value);
            self.places.insert(key, (start, length));
        }
    }
}

/// Keys are places in files, chosen by journald: one multiplication spreads them well enough.
#[derive(Debug, Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, key: u64) {
        let mixed = (self.0 ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_and_a_full_cache_starts_again() {
        let mut cache = ValueCache::default();
        cache.insert(8, b"_UID=0");
        assert_eq!(cache.get(8), Some(b"_UID=0".as_slice()));
        assert_eq!(cache.get(16), None);
        cache.insert(24, &[b'x'; MAX_VALUE_BYTES + 1]);
        assert_eq!(cache.get(24), None);
        for key in 1000..1000 + (MAX_BYTES / MAX_VALUE_BYTES) as u64 {
            cache.insert(key, &[b'x'; MAX_VALUE_BYTES]);
        }
        assert_eq!(cache.get(8), None);
        assert!(cache.bytes.len() <= MAX_BYTES);
    }
}
