//! The header of a vsock packet (virtio 1.2, section 5.10.6), and the words in it.

/// What a header takes.
pub const HEADER_BYTES: usize = 44;

/// The host's address.
pub const HOST_CID: u64 = 2;

/// The one type that there is here: a stream of bytes.
pub const STREAM: u16 = 1;

/// `op` of a header.
pub mod op {
    /// Open a connection.
    pub const REQUEST: u16 = 1;
    /// It is open.
    pub const RESPONSE: u16 = 2;
    /// There is none, or none any more.
    pub const RESET: u16 = 3;
    /// Some ways of it are over.
    pub const SHUTDOWN: u16 = 4;
    /// Bytes.
    pub const DATA: u16 = 5;
    /// What the header says of room is all.
    pub const CREDIT_UPDATE: u16 = 6;
    /// The other side is to say that.
    pub const CREDIT_REQUEST: u16 = 7;
}

/// `flags` of a shutdown: neither does the sender take anything more, nor does it send.
pub(super) const BOTH_WAYS: u32 = 3;

/// The header. Numbers are little-endian on the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// The sender's address.
    pub from_cid: u64,
    /// The receiver's.
    pub to_cid: u64,
    /// The sender's port.
    pub from_port: u32,
    /// The receiver's.
    pub to_port: u32,
    /// How many bytes of data follow.
    pub len: u32,
    /// [`STREAM`].
    pub kind: u16,
    /// One of [`mod@op`].
    pub op: u16,
    /// Of a shutdown: 1, the sender takes nothing more; 2, it sends nothing more.
    pub flags: u32,
    /// How much the sender buffers of this connection.
    pub buffer: u32,
    /// How much of what it got it has passed on, ever; wraps.
    pub passed_on: u32,
}

impl Header {
    /// Of the wire's bytes.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let mut rest = &bytes[..];
        Self {
            from_cid: u64::from_le_bytes(take(&mut rest)),
            to_cid: u64::from_le_bytes(take(&mut rest)),
            from_port: u32::from_le_bytes(take(&mut rest)),
            to_port: u32::from_le_bytes(take(&mut rest)),
            len: u32::from_le_bytes(take(&mut rest)),
            kind: u16::from_le_bytes(take(&mut rest)),
            op: u16::from_le_bytes(take(&mut rest)),
            flags: u32::from_le_bytes(take(&mut rest)),
            buffer: u32::from_le_bytes(take(&mut rest)),
            passed_on: u32::from_le_bytes(take(&mut rest)),
        }
    }

    /// As on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        [
            &self.from_cid.to_le_bytes()[..],
            &self.to_cid.to_le_bytes(),
            &self.from_port.to_le_bytes(),
            &self.to_port.to_le_bytes(),
            &self.len.to_le_bytes(),
            &self.kind.to_le_bytes(),
            &self.op.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.buffer.to_le_bytes(),
            &self.passed_on.to_le_bytes(),
        ]
        .concat()
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let (first, rest) = bytes
        .split_first_chunk()
        .expect("the fields are as long as the header together");
    *bytes = rest;
    *first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_as_long_as_the_specification_says_and_comes_back_whole() {
        let header = Header {
            from_cid: 3,
            to_cid: HOST_CID,
            from_port: 1024,
            to_port: 1 << 30,
            len: 7,
            kind: STREAM,
            op: op::DATA,
            flags: BOTH_WAYS,
            buffer: 1 << 18,
            passed_on: u32::MAX,
        };
        let bytes: [u8; HEADER_BYTES] = header.bytes().try_into().unwrap();
        assert_eq!(bytes[..9], [3, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(bytes[28..32], [1, 0, 5, 0]);
        assert_eq!(Header::parse(&bytes), header);
    }
}
