//! Numbers of the block: LEB128, and zigzag differences.

pub(super) fn put_varint(buffer: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        buffer.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
        value >>= 7;
    }
    buffer.push(u8::try_from(value).expect("seven bits"));
}

/// The wrapping difference, small numbers of either sign made small.
pub(super) fn zigzag(value: u64, previous: u64) -> u64 {
    let delta = value.wrapping_sub(previous);
    (delta << 1) ^ 0_u64.wrapping_sub(delta >> 63)
}

pub(super) fn unzigzag(coded: u64, previous: u64) -> u64 {
    let delta = (coded >> 1) ^ 0_u64.wrapping_sub(coded & 1);
    previous.wrapping_add(delta)
}
