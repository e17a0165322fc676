//! The beacon's frame: a four-byte big-endian length, then one [`Beacon`]. One frame a connection.

use protobuf::Message;
use thiserror::Error;

use crate::seed::v1::Beacon;

/// The longest message that a receiver takes.
pub const MAX_MESSAGE_BYTES: usize = 4096;

/// The length of the prefix.
pub const PREFIX_BYTES: usize = 4;

/// Why a beacon could not be read or written.
#[derive(Debug, Error)]
pub enum BeaconError {
    /// The prefix asks for more than [`MAX_MESSAGE_BYTES`].
    #[error("beacon of {0} bytes is longer than {MAX_MESSAGE_BYTES}")]
    TooLong(usize),
    /// The bytes are no beacon.
    #[error("beacon cannot be parsed")]
    Malformed(#[from] protobuf::Error),
}

/// The whole frame.
pub fn encode(beacon: &Beacon) -> Result<Vec<u8>, BeaconError> {
    let body = beacon.write_to_bytes()?;
    let length = u32::try_from(body.len())
        .ok()
        .filter(|_| body.len() <= MAX_MESSAGE_BYTES);
    let length = length.ok_or(BeaconError::TooLong(body.len()))?;
    Ok([&length.to_be_bytes()[..], &body].concat())
}

/// The length of the message that follows this prefix.
pub fn message_length(prefix: [u8; PREFIX_BYTES]) -> Result<usize, BeaconError> {
    let length = u32::from_be_bytes(prefix) as usize;
    if length > MAX_MESSAGE_BYTES {
        return Err(BeaconError::TooLong(length));
    }
    Ok(length)
}

/// The message behind the prefix.
pub fn decode(body: &[u8]) -> Result<Beacon, BeaconError> {
    if body.len() > MAX_MESSAGE_BYTES {
        return Err(BeaconError::TooLong(body.len()));
    }
    Ok(Beacon::parse_from_bytes(body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_as_it_went() {
        let beacon = Beacon {
            version: 1,
            boottime_us: 4_200_000,
            ..Default::default()
        };
        let frame = encode(&beacon).unwrap();
        let (prefix, body) = frame.split_at(PREFIX_BYTES);
        assert_eq!(
            message_length(prefix.try_into().unwrap()).unwrap(),
            body.len()
        );
        assert_eq!(decode(body).unwrap(), beacon);
    }

    #[test]
    fn a_hostile_length_is_refused_before_anything_is_read() {
        assert!(matches!(
            message_length([0xff; 4]),
            Err(BeaconError::TooLong(_))
        ));
    }
}
