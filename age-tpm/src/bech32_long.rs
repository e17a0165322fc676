//! Bech32 (BIP-173) without its limit of 90 characters, as age spells recipients and identities: the checksum is the same, and
//! with long texts it finds fewer errors.

use bech32::{
    Bech32, Checksum, Hrp,
    primitives::decode::{CheckedHrpstring, CheckedHrpstringError},
};

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
pub(crate) fn decode(text: &str) -> Result<(String, Vec<u8>), CheckedHrpstringError> {
    let checked = CheckedHrpstring::new::<AnyLength>(text)?;
    let hrp = checked.hrp().as_str().to_owned();
    Ok((hrp, checked.byte_iter().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
