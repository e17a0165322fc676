//! Bech32 (BIP-173) without its limit of 90 characters, as age spells recipients and identities: the checksum is the same, and
//! with long texts it finds fewer errors.

use bech32::{
    Bech32, Checksum, Hrp,
    primitives::decode::{CheckedHrpstring, CheckedHrpstringError},
};
use thiserror::Error;

/// Why a text is none.
#[derive(Debug, Error)]
pub(crate) enum DecodeError {
    /// Characters or checksum.
    #[error(transparent)]
    Text(#[from] CheckedHrpstringError),
    /// Whoever writes this format leaves the bits behind the last byte zero: one key has one spelling.
    #[error("the bits behind its last byte are not zero")]
    Padding,
}

/// The checksum, for any length.
enum AnyLength {}

impl Checksum for AnyLength {
    type MidstateRepr = <Bech32 as Checksum>::MidstateRepr;
    const CODE_LENGTH: usize = usize::MAX;
    const CHECKSUM_LENGTH: usize = Bech32::CHECKSUM_LENGTH;
    const GENERATOR_SH: [Self::MidstateRepr; 5] = Bech32::GENERATOR_SH;
    const TARGET_RESIDUE: Self::MidstateRepr = Bech32::TARGET_RESIDUE;
}

/// In lower case.
pub(crate) fn encode(hrp: &str, data: &[u8]) -> String {
    bech32::encode_lower::<AnyLength>(Hrp::parse_unchecked(hrp), data)
        .expect("only a limit of length can be broken, and there is none")
}

/// The human-readable part, as it stands there, and the data.
pub(crate) fn decode(text: &str) -> Result<(String, Vec<u8>), DecodeError> {
    let checked = CheckedHrpstring::new::<AnyLength>(text)?;
    // The rule is the same there: at most four bits, and all of them zero.
    let padding = checked.validate_segwit_padding();
    padding.map_err(|_| DecodeError::Padding)?;
    let hrp = checked.hrp().as_str().to_owned();
    Ok((hrp, checked.byte_iter().collect()))
}

#[cfg(test)]
mod tests {
    use bech32::{Fe32, primitives::iter::Fe32IterExt};

    use super::*;

    #[test]
    fn the_bits_behind_the_last_byte_are_zero() {
        let hrp = Hrp::parse("age1x").unwrap();
        let text = |values: &[u8]| -> String {
            let letters = values.iter().map(|value| Fe32::try_from(*value).unwrap());
            letters.with_checksum::<AnyLength>(&hrp).chars().collect()
        };
        assert_eq!(decode(&text(&[31, 28])).unwrap().1, [0xff]);
        for bits in 1..4 {
            let refused = decode(&text(&[31, 28 + bits]));
            assert!(matches!(refused, Err(DecodeError::Padding)), "{bits}");
        }
        // A whole letter that carries nothing.
        let refused = decode(&text(&[31, 28, 0]));
        assert!(matches!(refused, Err(DecodeError::Padding)));
    }

    #[test]
    fn long_texts_go_there_and_back_and_an_error_in_one_is_found() {
        let data: Vec<u8> = (0..=255).collect();
        let text = encode("age1x", &data);
        assert!(text.len() > 400, "{text}");
        assert_eq!(decode(&text).unwrap(), ("age1x".to_owned(), data));
        let wrong = text.replacen('q', "p", 1);
        assert!(decode(&wrong).is_err());
    }
}
