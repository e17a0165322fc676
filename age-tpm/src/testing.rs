//! Fixtures for unit tests: an identity with a software key that no TPM ever saw.
//!
//! Owns nothing but made-up values; compiled for tests only.

use p256::SecretKey;
use p256::elliptic_curve::sec1::ToEncodedPoint;

use crate::identity::{Identity, Pin};
use crate::tpm::wire::Writer;
use crate::tpm::{EccPublic, Name, NewKey};

/// The scalar 7, 7, 7, ..: below the group order.
pub(crate) fn secret() -> SecretKey {
    SecretKey::from_slice(&[7; 32]).unwrap()
}

/// An identity whose public half belongs to [`secret`].
pub(crate) fn identity() -> Identity {
    let point = secret().public_key().to_encoded_point(false);
    let raw = Writer::new()
        .bytes(&[
            0, 0x23, 0, 0x0b, 0, 2, 4, 0x72, 0, 0, 0, 0x10, 0, 0x19, 0, 0x0b,
        ])
        .bytes(&[0, 3, 0, 0x10])
        .sized(point.x().unwrap())
        .sized(point.y().unwrap())
        .finish();
    let key = NewKey {
        public: EccPublic::parse(&raw).unwrap(),
        private: vec![0xaa; 126],
        parent: Name::from([0xbb; Name::BYTES]),
    };
    Identity::new(key, Pin::None)
}
