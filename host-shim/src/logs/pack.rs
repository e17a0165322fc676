//! Compression of blocks on the host's disk: zstd, in Rust alone. The bounds are the reader's own, whatever the file
//! says.

use std::io::Read;

use ruzstd::{
    decoding::{FrameDecoder, StreamingDecoder},
    encoding::{CompressionLevel, compress_to_vec},
};
use serde::{Deserialize, Serialize};

/// The largest window that is accepted: what is written here has the block's own length.
const MAX_WINDOW_BYTES: u64 = 8 << 20;

/// How blocks lie in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// As they came.
    #[default]
    None,
    /// As zstd frames.
    Zstd,
}

/// The block as a zstd frame, `None` when that is no shorter.
pub(super) fn pack(block: &[u8]) -> Option<Vec<u8>> {
    let packed = compress_to_vec(block, CompressionLevel::Fastest);
    (packed.len() < block.len()).then_some(packed)
}

/// The block that was packed, `None` when it is damaged or longer than `limit`.
pub(super) fn unpack(packed: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(MAX_WINDOW_BYTES);
    let stream = StreamingDecoder::new_with_decoder(packed, &mut decoder).ok()?;
    let mut block = Vec::new();
    stream
        .take(limit as u64 + 1)
        .read_to_end(&mut block)
        .ok()
        .filter(|length| *length <= limit)?;
    Some(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_comes_back_and_a_limit_holds() {
        let block = b"MESSAGE=the same line again\n".repeat(1000);
        let packed = pack(&block).unwrap();
        assert!(packed.len() * 10 < block.len(), "{}", packed.len());
        assert_eq!(unpack(&packed, block.len()), Some(block.clone()));
        assert_eq!(unpack(&packed, block.len() - 1), None);
        assert_eq!(unpack(&packed[..packed.len() - 3], block.len()), None);
        assert_eq!(unpack(b"", 10), None);
    }

    #[test]
    fn what_cannot_be_packed_is_left_as_it_is() {
        assert_eq!(pack(b"x"), None);
    }
}
