//! The host's words for addresses and names, checked: text in, values out.

use std::net::IpAddr;

use super::NetworkError;

/// The longest name of a link, `IFNAMSIZ` of `linux/if.h` less the terminating zero.
const MAX_NAME_BYTES: usize = 15;

/// The bytes of an Ethernet address.
pub const HARDWARE_BYTES: usize = 6;

/// An address and the length of its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The address, with the host's part.
    pub address: IpAddr,
    /// Leading bits of the network.
    pub prefix: u8,
}

impl Network {
    /// `192.0.2.1` and `24`, as two words. No length means the address alone.
    pub fn new(address: &str, prefix: &str) -> Result<Self, NetworkError> {
        let address = ip(address)?;
        let most = bits(address);
        let prefix = if prefix.is_empty() {
            most
        } else {
            let number = prefix.parse().ok().filter(|length| *length <= most);
            number.ok_or_else(|| value("prefix length", prefix))?
        };
        Ok(Self { address, prefix })
    }

    /// `192.0.2.0/24`, or an address alone.
    pub fn parse(text: &str) -> Result<Self, NetworkError> {
        match text.split_once('/') {
            Some((_, "")) => Err(value("network", text)),
            Some((address, prefix)) => Self::new(address, prefix),
            None => Self::new(text, ""),
        }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The length of a whole address.
pub fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// An address.
pub fn ip(text: &str) -> Result<IpAddr, NetworkError> {
    text.parse().map_err(|_| value("IP address", text))
}

/// A name that the kernel takes for a link (`dev_valid_name` in `net/core/dev.c`).
pub fn link_name(text: &str) -> Result<String, NetworkError> {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
    if text.is_empty() || text.len() > MAX_NAME_BYTES || !plain || text == "." || text == ".." {
        return Err(value("name for a link", text));
    }
    Ok(text.to_owned())
}

/// `02:00:00:00:00:01`.
pub fn hardware(text: &str) -> Result<[u8; HARDWARE_BYTES], NetworkError> {
    let mut bytes = [0; HARDWARE_BYTES];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts
            .next()
            .filter(|part| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let number = part.and_then(|part| u8::from_str_radix(part, 16).ok());
        *byte = number.ok_or_else(|| value("hardware address", text))?;
    }
    match parts.next() {
        None => Ok(bytes),
        Some(_) => Err(value("hardware address", text)),
    }
}

/// The other way.
pub fn hardware_text(bytes: &[u8]) -> String {
    let parts: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.join(":")
}

/// A refusal; what came is cut, for it may be long.
pub fn value(what: &'static str, text: &str) -> NetworkError {
    NetworkError::Value {
        what,
        value: text.chars().take(64).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_have_a_length_that_fits() {
        let four = Network::new("192.0.2.7", "24").unwrap();
        assert_eq!(four.to_string(), "192.0.2.7/24");
        let six = Network::parse("2001:db8::/64").unwrap();
        assert_eq!(six.to_string(), "2001:db8::/64");
        assert_eq!(Network::parse("::1").unwrap().prefix, 128);
        for text in [
            "",
            "1.2.3",
            "1.2.3.4/33",
            "::1/129",
            "1.2.3.4/",
            "1.2.3.4/-1",
            "x/8",
        ] {
            assert!(Network::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_and_hardware_addresses_are_those_of_the_kernel() {
        assert!(link_name("eth0.1@x").is_ok());
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a:1",
            "a b",
            "a\n",
            "sixteen-letters!",
        ] {
            assert!(link_name(name).is_err(), "{name:?}");
        }
        let bytes = hardware("02:00:5e:10:00:Ff").unwrap();
        assert_eq!(hardware_text(&bytes), "02:00:5e:10:00:ff");
        for text in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:ff:00",
            "2:0:5e:10:0:f",
            "02-00-5e-10-00-ff",
        ] {
            assert!(hardware(text).is_err(), "{text:?}");
        }
    }
}
