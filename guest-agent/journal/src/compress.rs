//! Unpacks compressed values: zstd (what journald writes today), with the feature `lz4` what it wrote before systemd 246, and
//! with the feature `xz` what a systemd without either wrote. A file that says that it has values in a form that this
//! build does not know is refused by its header; a single such value in another file is reported as unreadable.
//!
//! Output is bounded whatever the input says; what is over the bound is measured, not kept.

use std::{fmt, io::Read};

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// Largest zstd window that is accepted; journald's level needs 2 MiB.
const MAX_WINDOW_BYTES: u64 = 8 * 1024 * 1024;

/// What unpacking an xz value may take; journald's dictionary has 1 MiB.
#[cfg(feature = "xz")]
const MAX_XZ_KIB: u32 = 16 * 1024;

/// Keeps the decoder's tables from value to value.
pub(crate) struct Unpacker {
    zstd: FrameDecoder,
    output: Vec<u8>,
}

impl fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unpacker").finish_non_exhaustive()
    }
}

impl Unpacker {
    pub(crate) fn new() -> Self {
        let mut zstd = FrameDecoder::new();
        zstd.set_max_window_size(MAX_WINDOW_BYTES);
        Self {
            zstd,
            output: Vec::new(),
        }
    }

    /// The first `keep` bytes of the value, and its true length. None when the frame is damaged.
    pub(crate) fn zstd(&mut self, packed: &[u8], keep: usize) -> Option<(&[u8], u64)> {
        self.reset();
        let mut stream = StreamingDecoder::new_with_decoder(packed, &mut self.zstd).ok()?;
        stream
            .by_ref()
            .take(keep as u64)
            .read_to_end(&mut self.output)
            .ok()?;
        let kept = self.output.len() as u64;
        // The frame says how long its content is; where it does not, the rest is counted.
        let said = stream.decoder.content_size();
        let true_length = if kept < keep as u64 {
            kept
        } else if said > 0 {
            said.max(kept)
        } else {
            kept + count(stream)?
        };
        Some((&self.output, true_length))
    }

    /// One xz stream. Without the feature this build cannot.
    #[cfg_attr(
        not(feature = "xz"),
        allow(
            unused_variables,
            clippy::unused_self,
            reason = "there is nothing to unpack with"
        )
    )]
    pub(crate) fn xz(&mut self, packed: &[u8], keep: usize) -> Option<(&[u8], u64)> {
        #[cfg(feature = "xz")]
        {
            self.reset();
            let mut stream = lzma_rust2::XzReader::new_mem_limit(packed, false, MAX_XZ_KIB);
            stream
                .by_ref()
                .take(keep as u64)
                .read_to_end(&mut self.output)
                .ok()?;
            let true_length = self.output.len() as u64 + count(stream)?;
            Some((&self.output, true_length))
        }
        #[cfg(not(feature = "xz"))]
        None
    }

    /// A little-endian length of eight bytes and one LZ4 block. Without the feature this build cannot.
    #[cfg_attr(
        not(feature = "lz4"),
        allow(
            unused_variables,
            clippy::unused_self,
            reason = "there is nothing to unpack with"
        )
    )]
    pub(crate) fn lz4(&mut self, packed: &[u8], keep: usize) -> Option<(&[u8], u64)> {
        #[cfg(feature = "lz4")]
        {
            self.reset();
            let (length, block) = packed.split_first_chunk::<8>()?;
            let true_length = u64::from_le_bytes(*length);
            let wanted = usize::try_from(true_length).unwrap_or(usize::MAX).min(keep);
            unpack_lz4(block, wanted, &mut self.output)?;
            Some((&self.output, true_length))
        }
        #[cfg(not(feature = "lz4"))]
        None
    }

    fn reset(&mut self) {
        if self.output.capacity() > 256 * 1024 {
            self.output = Vec::new();
        }
        self.output.clear();
    }
}

fn count(mut stream: impl Read) -> Option<u64> {
    let mut chunk = [0; 4096];
    let mut total = 0;
    loop {
        match stream.read(&mut chunk).ok()? {
            0 => return Some(total),
            more => total += more as u64,
        }
    }
}

/// Unpacks `wanted` bytes, or fails. The format: token, literals, two bytes of distance, match.
#[cfg(feature = "lz4")]
fn unpack_lz4(block: &[u8], wanted: usize, output: &mut Vec<u8>) -> Option<()> {
    let mut at = 0;
    while output.len() < wanted {
        let token = *block.get(at)?;
        at += 1;
        let literals = lz4_length(block, &mut at, token >> 4)?;
        let end = at.checked_add(literals)?;
        output.extend_from_slice(block.get(at..end)?);
        at = end;
        if output.len() >= wanted {
            break;
        }
        let distance = usize::from(u16::from_le_bytes([*block.get(at)?, *block.get(at + 1)?]));
        at += 2;
        let length = lz4_length(block, &mut at, token & 15)?.checked_add(4)?;
        let from = output
            .len()
            .checked_sub(distance)
            .filter(|_| distance > 0)?;
        // A match may overlap what it writes, so byte by byte.
        for index in from..from + length.min(wanted - output.len()) {
            output.push(output[index]);
        }
    }
    output.truncate(wanted);
    Some(())
}

#[cfg(feature = "lz4")]
fn lz4_length(block: &[u8], at: &mut usize, nibble: u8) -> Option<usize> {
    let mut length = usize::from(nibble);
    if nibble == 15 {
        loop {
            let more = *block.get(*at)?;
            *at += 1;
            length = length.checked_add(usize::from(more))?;
            if more < 255 {
                break;
            }
        }
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    #[test]
    fn a_zstd_value_is_unpacked_and_a_long_one_is_measured() {
        let value: Vec<u8> = (0..300_000_u32)
            .flat_map(|n| (n % 977).to_le_bytes())
            .collect();
        let packed = compress_to_vec(value.as_slice(), CompressionLevel::Fastest);
        let mut unpacker = Unpacker::new();
        assert_eq!(
            unpacker.zstd(&packed, usize::MAX),
            Some((value.as_slice(), 1_200_000))
        );
        assert_eq!(
            unpacker.zstd(&packed, 1000),
            Some((&value[..1000], 1_200_000))
        );
        assert_eq!(unpacker.zstd(&packed[..packed.len() / 2], usize::MAX), None);
        assert_eq!(unpacker.zstd(b"", 10), None);
    }

    #[cfg(feature = "lz4")]
    #[test]
    fn an_lz4_value_is_unpacked() {
        // 4 literals, then 12 bytes from 4 back, then 5 literals.
        let block = [
            0x48, b'a', b'b', b'c', b'd', 4, 0, 0x50, b'1', b'2', b'3', b'4', b'5',
        ];
        let mut packed = 21_u64.to_le_bytes().to_vec();
        packed.extend_from_slice(&block);
        let mut unpacker = Unpacker::new();
        let whole = b"abcdabcdabcdabcd12345".as_slice();
        assert_eq!(unpacker.lz4(&packed, usize::MAX), Some((whole, 21)));
        assert_eq!(unpacker.lz4(&packed, 7), Some((&whole[..7], 21)));
        assert_eq!(unpacker.lz4(&packed[..12], usize::MAX), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300), keep in 0_usize..5000) {
            let mut unpacker = Unpacker::new();
            if let Some((value, _)) = unpacker.lz4(&bytes, keep) {
                prop_assert!(value.len() <= keep);
            }
            let mut stream = vec![0xfd, b'7', b'z', b'X', b'Z', 0];
            stream.extend_from_slice(&bytes);
            if let Some((value, _)) = unpacker.xz(&stream, keep) {
                prop_assert!(value.len() <= keep);
            }
            let mut framed = vec![0x28, 0xb5, 0x2f, 0xfd];
            framed.extend_from_slice(&bytes);
            if let Some((value, _)) = unpacker.zstd(&framed, keep) {
                prop_assert!(value.len() <= keep);
            }
        }
    }
}
