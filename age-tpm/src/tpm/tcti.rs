//! Which TPM to talk to, and the byte transport to it.
//!
//! Owns the `AGE_TPM_TCTI` syntax and three transports: a character device of the kernel
//! (normally the resource-managed `/dev/tpmrm0`), and swtpm's data channel over a Unix or a TCP
//! socket (for tests and emulators). It never looks inside a command beyond the size field.
//! A device answers one `read` per command; swtpm sends the bare response on a stream
//! (swtpm(8), `--server`).

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Environment variable that selects the TPM.
pub const TCTI_ENV: &str = "AGE_TPM_TCTI";
/// The kernel's resource-managed TPM device.
pub const DEFAULT_DEVICE: &str = "/dev/tpmrm0";
/// Longest wait for one answer on a socket. A device needs none: the kernel has its own limits.
pub const SOCKET_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest response that is read; TPM2 implementations use 4,096 byte buffers.
pub const MAX_RESPONSE_BYTES: usize = 4096;
/// Tag (2), size (4) and code (4) that open every command and response.
pub(crate) const HEADER_BYTES: usize = 10;
/// swtpm's default TCP port.
const SWTPM_PORT: u16 = 2321;

/// An address of a TPM, as written in `AGE_TPM_TCTI` or after `--tcti`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tcti {
    /// A character device.
    Device(PathBuf),
    /// swtpm listening on a Unix socket.
    SwtpmUnix(PathBuf),
    /// swtpm listening on TCP.
    SwtpmTcp {
        /// Host name or address.
        host: String,
        /// Port of the data channel.
        port: u16,
    },
}

impl Default for Tcti {
    fn default() -> Self {
        Self::Device(PathBuf::from(DEFAULT_DEVICE))
    }
}

impl fmt::Display for Tcti {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(path) => write!(f, "{}", path.display()),
            Self::SwtpmUnix(path) => write!(f, "swtpm:path={}", path.display()),
            Self::SwtpmTcp { host, port } => write!(f, "swtpm:host={host},port={port}"),
        }
    }
}

/// Why an address could not be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TctiError {
    /// The text follows none of the known forms.
    #[error("unknown TPM address {text:?}: {reason}")]
    Syntax {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl FromStr for Tcti {
    type Err = TctiError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |reason| TctiError::Syntax {
            text: text.to_owned(),
            reason,
        };
        if let Some(path) = text.strip_prefix("device:") {
            return if path.starts_with('/') {
                Ok(Self::Device(path.into()))
            } else {
                Err(bad("the device path is not absolute"))
            };
        }
        let options = match text.strip_prefix("swtpm") {
            Some("") => "",
            Some(rest) => rest
                .strip_prefix(':')
                .ok_or_else(|| bad("expected swtpm:path=.. or swtpm:host=..,port=.."))?,
            None if text.starts_with('/') => return Ok(Self::Device(text.into())),
            None => return Err(bad("expected /dev/.., device:/dev/.., or swtpm:..")),
        };
        let (mut path, mut host, mut port) = (None, None, None);
        for option in options.split(',').filter(|o| !o.is_empty()) {
            match option.split_once('=') {
                Some(("path", value)) if !value.is_empty() => path = Some(PathBuf::from(value)),
                Some(("host", value)) if !value.is_empty() => host = Some(value.to_owned()),
                Some(("port", value)) => {
                    port = Some(value.parse().map_err(|_| bad("the port is not a number"))?);
                }
                _ => return Err(bad("swtpm knows path=, host= and port=")),
            }
        }
        match (path, host, port) {
            (Some(path), None, None) => Ok(Self::SwtpmUnix(path)),
            (Some(_), _, _) => Err(bad("path= goes with neither host= nor port=")),
            (None, host, port) => Ok(Self::SwtpmTcp {
                host: host.unwrap_or_else(|| "localhost".to_owned()),
                port: port.unwrap_or(SWTPM_PORT),
            }),
        }
    }
}

impl Tcti {
    /// Reads `AGE_TPM_TCTI`; unset or empty means [`DEFAULT_DEVICE`].
    ///
    /// # Errors
    ///
    /// The variable holds text that is no address.
    pub fn from_env() -> Result<Self, TctiError> {
        match std::env::var(TCTI_ENV) {
            Ok(text) if !text.is_empty() => text.parse(),
            Ok(_) | Err(std::env::VarError::NotPresent) => Ok(Self::default()),
            Err(std::env::VarError::NotUnicode(text)) => Err(TctiError::Syntax {
                text: text.to_string_lossy().into_owned(),
                reason: "it is not UTF-8",
            }),
        }
    }

    /// Opens the transport. Blocks at most for a connection attempt.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says about the path or address.
    pub fn connect(&self) -> io::Result<Box<dyn Transport>> {
        match self {
            Self::Device(path) => {
                let file = File::options().read(true).write(true).open(path)?;
                Ok(Box::new(Stream(file)))
            }
            Self::SwtpmUnix(path) => {
                let socket = UnixStream::connect(path)?;
                socket.set_read_timeout(Some(SOCKET_TIMEOUT))?;
                socket.set_write_timeout(Some(SOCKET_TIMEOUT))?;
                Ok(Box::new(Stream(socket)))
            }
            Self::SwtpmTcp { host, port } => {
                let socket = TcpStream::connect((host.as_str(), *port))?;
                socket.set_nodelay(true)?;
                socket.set_read_timeout(Some(SOCKET_TIMEOUT))?;
                socket.set_write_timeout(Some(SOCKET_TIMEOUT))?;
                Ok(Box::new(Stream(socket)))
            }
        }
    }
}

/// Carries one command to a TPM and brings the response back. Blocking.
pub trait Transport: Send {
    /// Sends `command` whole and returns the whole response.
    ///
    /// # Errors
    ///
    /// The transport broke; nothing is known about whether the TPM ran the command.
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>>;
}

struct Stream<S>(S);

impl<S: Read + Write + Send> Transport for Stream<S> {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        // One write: the kernel's TPM device takes a command only whole.
        self.0.write_all(command)?;
        let mut response = vec![0; MAX_RESPONSE_BYTES];
        let mut filled = 0;
        let mut expected = HEADER_BYTES;
        while filled < expected {
            let got = match self.0.read(&mut response[filled..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // What a socket says when its time is up, in words that help nobody.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let text = format!("no answer within {} s", SOCKET_TIMEOUT.as_secs());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
                other => other?,
            };
            if got == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the TPM closed the connection before it answered",
                ));
            }
            filled += got;
            if filled >= HEADER_BYTES {
                let size = [response[2], response[3], response[4], response[5]];
                expected = usize::try_from(u32::from_be_bytes(size)).unwrap_or(usize::MAX);
                if !(HEADER_BYTES..=MAX_RESPONSE_BYTES).contains(&expected) || filled > expected {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("the TPM sent a response of impossible size {expected}"),
                    ));
                }
            }
        }
        response.truncate(filled);
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_each_form() {
        let unix = Tcti::SwtpmUnix("/s".into());
        assert_eq!("swtpm:path=/s".parse(), Ok(unix.clone()));
        assert_eq!(unix.to_string(), "swtpm:path=/s");
        assert_eq!("/dev/tpm1".parse(), Ok(Tcti::Device("/dev/tpm1".into())));
        assert_eq!(
            "device:/dev/tpm1".parse(),
            Ok(Tcti::Device("/dev/tpm1".into()))
        );
        let tcp = |host: &str, port| Tcti::SwtpmTcp {
            host: host.into(),
            port,
        };
        assert_eq!("swtpm".parse(), Ok(tcp("localhost", 2321)));
        assert_eq!("swtpm:host=h,port=9".parse(), Ok(tcp("h", 9)));
    }

    #[test]
    fn other_texts_are_refused_with_the_reason() {
        for text in [
            "",
            "mssim",
            "swtpm:port=x",
            "swtpm:path=",
            "swtpm:path=/a,port=1",
            "device:",
        ] {
            assert!(text.parse::<Tcti>().is_err(), "{text}");
        }
    }

    /// Answers reads in the given pieces.
    struct Pieces(Vec<Vec<u8>>);

    impl Read for Pieces {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let piece = self.0.remove(0);
            buf[..piece.len()].copy_from_slice(&piece);
            Ok(piece.len())
        }
    }

    impl Write for Pieces {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_response_in_pieces_is_put_together_and_bad_sizes_are_refused() {
        let ok = [0x80, 1, 0, 0, 0, 12, 0, 0, 0, 0, 7, 8];
        let mut pieces = Stream(Pieces(vec![
            ok[..3].into(),
            ok[3..11].into(),
            ok[11..].into(),
        ]));
        assert_eq!(pieces.transact(b"x").unwrap(), ok);
        let short = Stream(Pieces(vec![ok[..11].into()]))
            .transact(b"x")
            .unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
        for size in [9_u32, 4097, u32::MAX] {
            let mut lie = ok;
            lie[2..6].copy_from_slice(&size.to_be_bytes());
            let e = Stream(Pieces(vec![lie.into()])).transact(b"x").unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::InvalidData);
        }
    }
}
