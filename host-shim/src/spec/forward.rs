//! A port of the host that leads into a guest with user-mode network: `[ADDRESS:]HOSTPORT:GUESTPORT[/udp]`.

use std::{fmt, net::Ipv4Addr, str::FromStr};

/// Where the host listens when no address is said: for itself alone.
const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// What is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// One forwarded port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    carried: Carried,
    address: Ipv4Addr,
    host_port: u16,
    guest_port: u16,
}

impl Forward {
    /// QEMU's `hostfwd=` (qemu(1), `-netdev user`).
    pub fn hostfwd(&self) -> String {
        let carried = self.word();
        format!(
            "hostfwd={carried}:{}:{}-:{}",
            self.address, self.host_port, self.guest_port
        )
    }

    /// Where the host listens.
    pub fn host_port(&self) -> u16 {
        self.host_port
    }

    fn word(&self) -> &'static str {
        match self.carried {
            Carried::Tcp => "tcp",
            Carried::Udp => "udp",
        }
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, host, guest) = (self.address, self.host_port, self.guest_port);
        write!(f, "{address}:{host}:{guest}/{}", self.word())
    }
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (ports, carried) = match text.split_once('/') {
            None => (text, Carried::Tcp),
            Some((ports, "tcp")) => (ports, Carried::Tcp),
            Some((ports, "udp")) => (ports, Carried::Udp),
            Some((_, other)) => return Err(format!("{other:?} is neither tcp nor udp")),
        };
        let parts: Vec<&str> = ports.split(':').collect();
        let (address, host, guest) = match parts[..] {
            [host, guest] => (LOCAL, host, guest),
            [address, host, guest] => {
                let parsed = address.parse();
                let address = parsed.map_err(|_| format!("{address:?} is no IPv4 address"))?;
                (address, host, guest)
            }
            _ => return Err("write [ADDRESS:]HOSTPORT:GUESTPORT[/udp]".to_owned()),
        };
        Ok(Self {
            carried,
            address,
            host_port: port(host)?,
            guest_port: port(guest)?,
        })
    }
}

fn port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| format!("{text:?} is no port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_address_only_the_host_itself_reaches_it() {
        let forward: Forward = "8080:80".parse().unwrap();
        assert_eq!(forward.hostfwd(), "hostfwd=tcp:127.0.0.1:8080-:80");
        let forward: Forward = "0.0.0.0:53:5353/udp".parse().unwrap();
        assert_eq!(forward.hostfwd(), "hostfwd=udp:0.0.0.0:53-:5353");
        assert_eq!(forward.to_string().parse(), Ok(forward));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in [
            "80",
            "0:80",
            "80:70000",
            "a:1:2",
            "1:2:3:4",
            "80:80/sctp",
            "1,x:2",
        ] {
            assert!(text.parse::<Forward>().is_err(), "{text}");
        }
    }
}
