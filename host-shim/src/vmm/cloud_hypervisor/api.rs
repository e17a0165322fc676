//! A client of Cloud Hypervisor's API (its `vmm/src/api/openapi/cloud-hypervisor.yaml`, version 0.3.0): one HTTP/1.1
//! request with a connection of its own for each call, on a Unix socket. Answers are bounded, and each has a limit.

use std::{io, path::PathBuf, time::Duration};

use serde_json::{Value, json};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

/// How long one call may take. A pause waits for the processors.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The longest answer that is taken: `vm.info` has about 10 KiB.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// How much of a refusal goes into a message.
const SAID_BYTES: usize = 400;

/// Why the API did not do it.
#[derive(Debug, Error)]
pub enum ApiError {
    /// The socket.
    #[error("API call {call} failed")]
    Io {
        /// Which.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It said nothing in time.
    #[error("API call {call} was not answered within {} s", ANSWER_LIMIT.as_secs())]
    NoAnswer {
        /// Which.
        call: &'static str,
    },
    /// What it said is no HTTP.
    #[error("API call {call} was answered with something else than HTTP")]
    Answer {
        /// Which.
        call: &'static str,
    },
    /// The machine is not there, or not in the state for it.
    #[error("API call {call} comes at the wrong time ({status}): {said}")]
    State {
        /// Which.
        call: &'static str,
        /// 404: no machine. 405: not in that state. 429: another is under way.
        status: u16,
        /// In its own words.
        said: String,
    },
    /// It refused, or failed.
    #[error("API call {call} was refused ({status}): {said}")]
    Refused {
        /// Which.
        call: &'static str,
        /// The HTTP status.
        status: u16,
        /// In its own words.
        said: String,
    },
}

/// The API behind one socket.
#[derive(Debug, Clone)]
pub struct Api {
    socket: PathBuf,
}

impl Api {
    /// At this socket. Nothing is connected yet.
    pub fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Its version.
    pub async fn ping(&self) -> Result<String, ApiError> {
        const CALL: &str = "vmm.ping";
        let answer = self.call(CALL, None).await?;
        let version = answer.get("version").and_then(Value::as_str);
        let version = version.ok_or(ApiError::Answer { call: CALL })?;
        Ok(version.chars().filter(|c| c.is_ascii_graphic()).collect())
    }

    /// Stops the processors, and returns when they stand.
    pub async fn pause(&self) -> Result<(), ApiError> {
        self.put("vm.pause").await
    }

    /// Lets them run on.
    pub async fn resume(&self) -> Result<(), ApiError> {
        self.put("vm.resume").await
    }

    /// Presses the power button.
    pub async fn power_button(&self) -> Result<(), ApiError> {
        self.put("vm.power-button").await
    }

    /// Makes it this large. The guest may still have to bring it online.
    pub async fn resize(&self, vcpus: u32, memory_mib: u32) -> Result<(), ApiError> {
        let size = json!({
            "desired_vcpus": vcpus,
            "desired_ram": u64::from(memory_mib) << 20,
        });
        self.call("vm.resize", Some(size)).await.map(drop)
    }

    async fn put(&self, call: &'static str) -> Result<(), ApiError> {
        self.call(call, Some(Value::Null)).await.map(drop)
    }

    /// A PUT of this body; null is none. A GET without.
    async fn call(&self, call: &'static str, body: Option<Value>) -> Result<Value, ApiError> {
        match timeout(ANSWER_LIMIT, self.exchange(call, body)).await {
            Ok(Ok((204, _))) => Ok(Value::Null),
            Ok(Ok((200..=299, body))) => {
                serde_json::from_slice(&body).map_err(|_| ApiError::Answer { call })
            }
            Ok(Ok((status, body))) => {
                let said = said(&body);
                Err(match status {
                    404 | 405 | 429 => ApiError::State { call, status, said },
                    _ => ApiError::Refused { call, status, said },
                })
            }
            Ok(Err(source)) if source.kind() == io::ErrorKind::InvalidData => {
                Err(ApiError::Answer { call })
            }
            Ok(Err(source)) => Err(ApiError::Io { call, source }),
            Err(_) => Err(ApiError::NoAnswer { call }),
        }
    }

    async fn exchange(&self, call: &str, body: Option<Value>) -> io::Result<(u16, Vec<u8>)> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        let (method, body) = match body {
            None => ("GET", String::new()),
            Some(Value::Null) => ("PUT", String::new()),
            Some(body) => ("PUT", body.to_string()),
        };
        let mut request = format!(
            "{method} /api/v1/{call} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
        );
        if !body.is_empty() {
            let length = body.len();
            request.push_str("Content-Type: application/json\r\n");
            request.push_str(&format!("Content-Length: {length}\r\n"));
        }
        request.push_str("\r\n");
        request.push_str(&body);
        stream.write_all(request.as_bytes()).await?;
        answer(&mut stream).await
    }
}

/// Reads one answer: the connection stays open behind it, so its length counts.
async fn answer(stream: &mut UnixStream) -> io::Result<(u16, Vec<u8>)> {
    let mut stream = stream.take(MAX_ANSWER_BYTES);
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(malformed());
        }
    };
    let body = bytes.split_off(head + 4);
    let head = std::str::from_utf8(&bytes).map_err(|_| malformed())?;
    let (status, length) = read_head(head).ok_or_else(malformed)?;
    let (mut bytes, length) = (body, usize::try_from(length).map_err(|_| malformed())?);
    while bytes.len() < length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(malformed());
        }
    }
    bytes.truncate(length);
    Ok((status, bytes))
}

/// The status, and how many bytes follow.
fn read_head(head: &str) -> Option<(u16, u64)> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    words
        .next()
        .filter(|version| version.starts_with("HTTP/1."))?;
    let status = words.next()?.parse().ok()?;
    let mut length = 0;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
    }
    Some((status, length))
}

/// A refusal in its own words: a list of causes, the outermost first, or plain text.
fn said(body: &[u8]) -> String {
    let text = match serde_json::from_slice(body) {
        Ok(Value::Array(causes)) => {
            let causes: Vec<&str> = causes.iter().filter_map(Value::as_str).collect();
            causes.join(": ")
        }
        Ok(Value::String(text)) => text,
        _ => String::from_utf8_lossy(body).into_owned(),
    };
    let plain = crate::vmm::console::plain(&text);
    match plain.trim() {
        "" => "without a word".to_owned(),
        said => said.chars().take(SAID_BYTES).collect(),
    }
}

fn malformed() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_length_are_read_whatever_else_is_said() {
        let head = "HTTP/1.1 200 \r\nServer: Cloud Hypervisor API\r\ncontent-length: 42\r\n";
        assert_eq!(read_head(head), Some((200, 42)));
        assert_eq!(read_head("HTTP/1.1 204 \r\n"), Some((204, 0)));
        for bad in [
            "",
            "SSH-2.0-x",
            "HTTP/1.1 ok",
            "HTTP/1.1 200 \r\nContent-Length: -1",
        ] {
            assert_eq!(read_head(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_refusal_is_one_line_of_its_causes() {
        let body = br#"["Error from API", "The VM could not boot", "no \u001b[2Jkernel"]"#;
        assert_eq!(
            said(body),
            "Error from API: The VM could not boot: no kernel"
        );
        assert_eq!(said(b""), "without a word");
        assert_eq!(said(&[b'x'; 1000]).len(), SAID_BYTES);
    }
}
