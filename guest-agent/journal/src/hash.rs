//! The two hashes that journald files values under: SipHash-2-4 keyed with the file's id (files with keyed
//! hashes, systemd 246 and later), and Bob Jenkins's lookup3 (older ones; and of all values of an entry together, in every
//! file). Looking values up is what they are used for, and telling a whole entry from a half-written one; neither says who
//! wrote it.

/// The hash of a value in a file.
pub(crate) fn value_hash(value: &[u8], keyed: bool, file_id: &[u8; 16]) -> u64 {
    if keyed {
        siphash24(value, file_id)
    } else {
        lookup3(value)
    }
}

/// What a value (`NAME=value`) adds, by exclusive or, to the hash of the entries that have it:
/// [`Mark::xor_hash`](crate::Mark::xor_hash).
#[must_use]
pub fn entry_hash(value: &[u8]) -> u64 {
    lookup3(value)
}

fn siphash24(bytes: &[u8], key: &[u8; 16]) -> u64 {
    let (low, high) = key.split_at(8);
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0_u64, |word, byte| (word << 8) | u64::from(*byte))
    };
    let (k0, k1) = (word(low), word(high));
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let round = |v: &mut [u64; 4]| {
        v[0] = v[0].wrapping_add(v[1]);
        v[2] = v[2].wrapping_add(v[3]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[1]);
        v[0] = v[0].wrapping_add(v[3]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].rotate_left(32);
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let last = word(rest) | ((bytes.len() as u64) << 56);
    for message in words
        .iter()
        .map(|bytes| u64::from_le_bytes(*bytes))
        .chain([last])
    {
        v[3] ^= message;
        round(&mut v);
        round(&mut v);
        v[0] ^= message;
    }
    v[2] ^= 0xff;
    for _ in 0..4 {
        round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

/// `hashlittle2` with both seeds zero; the first result is the upper half.
fn lookup3(bytes: &[u8]) -> u64 {
    // The length goes in modulo 2^32, as in C.
    let length = u32::try_from(bytes.len() & 0xffff_ffff).expect("masked to 32 bits");
    let start = 0xdead_beef_u32.wrapping_add(length);
    let (mut a, mut b, mut c) = (start, start, start);
    let mut rest = bytes;
    while rest.len() > 12 {
        add(rest, &mut a, &mut b, &mut c);
        a = a.wrapping_sub(c) ^ c.rotate_left(4);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(6);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(8);
        b = b.wrapping_add(a);
        a = a.wrapping_sub(c) ^ c.rotate_left(16);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(19);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(4);
        b = b.wrapping_add(a);
        rest = &rest[12..];
    }
    if !rest.is_empty() {
        let mut last = [0; 12];
        last[..rest.len()].copy_from_slice(rest);
        add(&last, &mut a, &mut b, &mut c);
        c = (c ^ b).wrapping_sub(b.rotate_left(14));
        a = (a ^ c).wrapping_sub(c.rotate_left(11));
        b = (b ^ a).wrapping_sub(a.rotate_left(25));
        c = (c ^ b).wrapping_sub(b.rotate_left(16));
        a = (a ^ c).wrapping_sub(c.rotate_left(4));
        b = (b ^ a).wrapping_sub(a.rotate_left(14));
        c = (c ^ b).wrapping_sub(b.rotate_left(24));
    }
    (u64::from(c) << 32) | u64::from(b)
}

/// Adds the first twelve bytes, little endian.
fn add(bytes: &[u8], a: &mut u32, b: &mut u32, c: &mut u32) {
    for (index, sum) in [a, b, c].into_iter().enumerate() {
        *sum = sum.wrapping_add(crate::header::le32(bytes, index * 4));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siphash_gives_the_reference_vectors() {
        let key: [u8; 16] = std::array::from_fn(|index| u8::try_from(index).unwrap());
        let message: Vec<u8> = (0..15).collect();
        assert_eq!(siphash24(&message, &key), 0xa129_ca61_49be_45e5);
        assert_eq!(siphash24(b"", &key), 0x726f_db47_dd0e_0e31);
    }

    #[test]
    fn lookup3_gives_the_reference_vectors() {
        assert_eq!(lookup3(b""), 0xdead_beef_dead_beef);
        assert_eq!(
            lookup3(b"Four score and seven years ago"),
            0x1777_0551_ce72_26e6
        );
    }
}
