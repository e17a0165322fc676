//! Peers that are no program of the guest: libsystemd itself, by a few lines of C that are compiled against the guest's own
//! library, and systemd-journal-gatewayd of this machine, which answers over HTTP. Both read the same files as ours.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use seed_container::{Container, wait_for};
use serde_json::Value;

use super::{Background, MACHINE_ID};
use crate::{cpu, util};

const SOURCE: &str = include_str!("libsystemd.c");

/// Where Debian keeps them.
const LIBSYSTEMD: &str = "usr/lib/x86_64-linux-gnu/libsystemd.so.0";
const GATEWAYD: &str = "/usr/lib/systemd/systemd-journal-gatewayd";

/// How long gatewayd may take to listen, and to send the next bytes.
const LISTEN_LIMIT: Duration = Duration::from_secs(20);
const READ_LIMIT: Duration = Duration::from_secs(60);

/// Compiles the reader into a folder; its name there.
pub(super) fn build_libsystemd(guest: &Path, folder: &Path) -> Result<String> {
    let name = "libsystemd-reader";
    let source = folder.join("libsystemd.c");
    fs::write(&source, SOURCE).with_context(|| format!("write {}", source.display()))?;
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-Wall", "-o"]).arg(folder.join(name));
    compiler.arg(&source).arg(guest.join(LIBSYSTEMD));
    // The guest's library may want a newer C library than this machine has; the guest has it.
    compiler.arg("-Wl,--unresolved-symbols=ignore-in-shared-libs");
    util::read(&mut compiler)?;
    Ok(name.to_owned())
}

/// CPU microseconds for each entry.
pub(super) fn libsystemd(container: &Container, program: &str) -> Result<f64> {
    let folder = format!("/var/log/journal/{MACHINE_ID}");
    let text = container.run(&[&format!("/opt/more/{program}"), &folder])?;
    let found: Value = serde_json::from_str(&text).context("read what libsystemd's reader said")?;
    let number = |name: &str| {
        found[name]
            .as_f64()
            .with_context(|| format!("no {name} in {text}"))
    };
    Ok(1e6 * number("cpu_s")? / number("entries")?)
}

/// CPU microseconds of the server for each entry of all, in the export form.
pub(super) fn gatewayd(files: &Path, scratch: &Path) -> Result<f64> {
    // A port that was free a moment ago.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .context("find a free port")?
        .port();
    let log = fs::File::create(scratch.join("gatewayd.log")).context("make gatewayd's log")?;
    let child = Command::new("systemd-socket-activate")
        .arg(format!("--listen=127.0.0.1:{port}"))
        .arg(GATEWAYD)
        .arg(directory(files))
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .context("start systemd-socket-activate")?;
    let mut server = Background(child);
    let mut stream = None;
    wait_for("systemd-journal-gatewayd", LISTEN_LIMIT, || {
        ensure!(server.0.try_wait()?.is_none(), "gatewayd ended early");
        stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok();
        Ok(stream.is_some())
    })?;
    let mut stream = stream.context("no connection")?;
    stream.set_read_timeout(Some(READ_LIMIT))?;
    stream.write_all(
        b"GET /entries HTTP/1.0\r\nAccept: application/vnd.fdo.journal\r\nConnection: close\r\n\r\n",
    )?;
    let entries = count(&mut BufReader::with_capacity(1 << 20, stream))?;
    let cpu = cpu::of(&server.0)?.as_secs_f64();
    ensure!(entries > 0, "gatewayd sent no entry");
    Ok(1e6 * cpu / f64::from(u32::try_from(entries)?))
}

fn directory(files: &Path) -> PathBuf {
    let mut option = std::ffi::OsString::from("--directory=");
    option.push(files);
    option.into()
}

/// Entries end with an empty line; the answer's head with the first one.
fn count(answer: &mut impl BufRead) -> Result<u64> {
    let mut line = Vec::new();
    answer.read_until(b'\n', &mut line)?;
    let status = String::from_utf8_lossy(&line).trim().to_owned();
    ensure!(status.contains(" 200 "), "gatewayd said {status:?}");
    let mut empty: u64 = 0;
    loop {
        line.clear();
        if answer.read_until(b'\n', &mut line)? == 0 {
            return Ok(empty.saturating_sub(1));
        }
        empty += u64::from(line == b"\n" || line == b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_counted_behind_the_head() {
        let answer = b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n__CURSOR=1\nM=a\n\n__CURSOR=2\nM=b\n\n";
        assert_eq!(count(&mut answer.as_slice()).unwrap(), 2);
        assert!(count(&mut b"HTTP/1.0 404 Not Found\r\n\r\n".as_slice()).is_err());
    }
}
