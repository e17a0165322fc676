//! Bounded reading and writing of TPM 2.0 wire values (big-endian integers and sized buffers).
//!
//! Owns the two cursors that every other file here uses. It never talks to a TPM and knows no
//! command. Follows TPM 2.0 Library Part 2 (structures), where a `TPM2B` is a 16-bit size and
//! that many bytes.

use zeroize::Zeroizing;

/// Why bytes were not what the specification says they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The buffer ended inside a field.
    #[error("{field} is cut short")]
    Truncated {
        /// Field that was being read.
        field: &'static str,
    },
    /// Bytes were left over after the last field.
    #[error("{extra} unexpected bytes after {field}")]
    Trailing {
        /// Structure that should have ended.
        field: &'static str,
        /// How many bytes followed it.
        extra: usize,
    },
    /// A sized buffer is larger than the caller accepts.
    #[error("{field} has {len} bytes, more than the limit of {limit}")]
    TooLong {
        /// Field that was being read.
        field: &'static str,
        /// Size on the wire.
        len: usize,
        /// Largest size that is accepted.
        limit: usize,
    },
}

/// A cursor over bytes that came from outside.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Takes exactly `len` bytes.
    pub fn bytes(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], WireError> {
        let (head, tail) = self
            .rest
            .split_at_checked(len)
            .ok_or(WireError::Truncated { field })?;
        self.rest = tail;
        Ok(head)
    }

    /// Takes exactly `N` bytes as an array.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], WireError> {
        let (head, tail) = self
            .rest
            .split_first_chunk()
            .ok_or(WireError::Truncated { field })?;
        self.rest = tail;
        Ok(*head)
    }

    /// Takes one byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, WireError> {
        self.array::<1>(field).map(|[b]| b)
    }

    /// Takes a 16-bit integer.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, WireError> {
        self.array(field).map(u16::from_be_bytes)
    }

    /// Takes a 32-bit integer.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, WireError> {
        self.array(field).map(u32::from_be_bytes)
    }

    /// Takes a sized buffer of at most `limit` bytes.
    pub fn sized(&mut self, limit: usize, field: &'static str) -> Result<&'a [u8], WireError> {
        let len = usize::from(self.u16(field)?);
        if len > limit {
            return Err(WireError::TooLong { field, len, limit });
        }
        self.bytes(len, field)
    }

    /// Everything that has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Demands that nothing is left.
    pub fn end(&self, field: &'static str) -> Result<(), WireError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(WireError::Trailing { field, extra }),
        }
    }
}

/// A growing buffer; its memory is wiped when dropped, for some commands carry a PIN.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Zeroizing<Vec<u8>>,
}

impl Writer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends bytes as they are.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends one byte.
    pub fn u8(self, value: u8) -> Self {
        self.bytes(&[value])
    }

    /// Appends a 16-bit integer.
    pub fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends a 32-bit integer.
    pub fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends a sized buffer.
    ///
    /// # Panics
    ///
    /// If `bytes` is longer than 65,535: every caller writes a value of its own making or one that
    /// [`Reader::sized`] delivered.
    pub fn sized(self, bytes: &[u8]) -> Self {
        let len = u16::try_from(bytes.len()).expect("callers pass less than 64 KiB");
        self.u16(len).bytes(bytes)
    }

    /// What was written so far.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// The buffer itself, still wiped on drop.
    pub fn finish(self) -> Zeroizing<Vec<u8>> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = Writer::new().u16(7).u32(9).sized(b"abc").u8(1).finish();
        let mut r = Reader::new(&bytes);
        assert_eq!(r.u16("a").unwrap(), 7);
        assert_eq!(r.u32("b").unwrap(), 9);
        assert_eq!(r.sized(3, "c").unwrap(), b"abc");
        assert_eq!(
            r.end("d"),
            Err(WireError::Trailing {
                field: "d",
                extra: 1
            })
        );
    }

    #[test]
    fn short_and_oversize_fields_are_refused() {
        assert_eq!(
            Reader::new(&[0]).u16("size"),
            Err(WireError::Truncated { field: "size" })
        );
        assert_eq!(
            Reader::new(&[0, 9, 1]).sized(99, "x"),
            Err(WireError::Truncated { field: "x" })
        );
        assert_eq!(
            Reader::new(&[0, 9, 1]).sized(8, "x"),
            Err(WireError::TooLong {
                field: "x",
                len: 9,
                limit: 8
            })
        );
    }
}
