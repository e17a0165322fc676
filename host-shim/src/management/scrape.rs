//! As much of HTTP/1.1 (RFC 9112) as a scraper of Prometheus text needs: one request a connection, GET of one path.
//! Who may ask, and what the page says, is the caller's matter.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

/// How long a scraper may take for its request, and for taking the answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// The longest head of a request.
const REQUEST_BYTES: usize = 8192;

/// Answers the one request that comes over `stream`. `page` is waited for only when it is asked for.
pub async fn answer<S>(mut stream: S, page: impl Future<Output = String>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let head = timeout(REQUEST_LIMIT, request(&mut stream)).await??;
    let (status, text) = match wanted(&head) {
        Wanted::Metrics => ("200 OK", page.await),
        Wanted::Nothing => ("404 Not Found", "there is only /metrics here\n".to_owned()),
        Wanted::Unknown => ("405 Method Not Allowed", "only GET is known\n".to_owned()),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    );
    timeout(REQUEST_LIMIT, stream.write_all(answer.as_bytes())).await??;
    stream.shutdown().await
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Metrics,
    Nothing,
    Unknown,
}

fn wanted(head: &str) -> Wanted {
    let mut words = head.split_ascii_whitespace();
    match (words.next(), words.next()) {
        (Some("GET"), Some(target)) => match target.split('?').next() {
            Some("/metrics") => Wanted::Metrics,
            _ => Wanted::Nothing,
        },
        _ => Wanted::Unknown,
    }
}

/// The head of a request, to the empty line behind it.
async fn request(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let count = stream.read(&mut part).await?;
        if count == 0 || head.len() + count > REQUEST_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.extend_from_slice(&part[..count]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_path_is_served() {
        assert_eq!(wanted("GET /metrics HTTP/1.1\r\n"), Wanted::Metrics);
        assert_eq!(wanted("GET /metrics?a=b HTTP/1.1\r\n"), Wanted::Metrics);
        assert_eq!(wanted("GET /metricsx HTTP/1.1\r\n"), Wanted::Nothing);
        assert_eq!(wanted("POST /metrics HTTP/1.1\r\n"), Wanted::Unknown);
        assert_eq!(wanted("\r\n\r\n"), Wanted::Unknown);
    }
}
