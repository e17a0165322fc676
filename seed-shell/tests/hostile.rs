//! What a front door has to stand: connections that stall, packets that lie, clients that do not read, too many of
//! everything.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use common::{Host, RECIPIENT, finish, public, until};

fn connect(host: &Host) -> TcpStream {
    let address = SocketAddr::from(([127, 0, 0, 1], host.port));
    let stream = TcpStream::connect_timeout(&address, common::LIMIT).unwrap();
    stream.set_read_timeout(Some(common::LIMIT)).unwrap();
    stream
}

/// Reads until the server closes; how much came.
fn rest(stream: &mut TcpStream) -> usize {
    let mut bytes = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut bytes);
    bytes.len()
}

/// Resident memory in MiB.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}

#[test]
fn a_thousand_half_open_connections_shut_nobody_out() {
    let mut host = Host::with("[limits]\nlogin_seconds = 20\nnew_per_minute = 5000\n");
    let key = host.key("me", &["ed25519"]);
    let repo = host.plant("app", &public(&key), &["web"]);
    host.run(&repo, "web");
    let mut open: Vec<_> = (0..1000).map(|_| connect(&host)).collect();
    for (at, stream) in open.iter_mut().enumerate() {
        // Some say a word, some nothing.
        if at % 2 == 0 {
            let _ = stream.write_all(b"SSH-2.0-slow\r\n");
        }
    }
    // From another address, for one address has its share.
    let mut ssh = host.client(&key);
    ssh.args(["-b", "127.0.0.2", "127.0.0.1", "keys web"]);
    let output = finish(ssh.spawn().unwrap());
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("{RECIPIENT}\n"),
        "{output:?}"
    );
    // All are closed: most at once, the others when their time is over. From here it works again then.
    open.iter_mut().for_each(|stream| {
        rest(stream);
    });
    until("this address is let in again", || {
        host.ssh(&key, "keys web").status == 0
    });
    assert!(memory(host.pid()) < 100, "{} MiB", memory(host.pid()));
}

#[test]
fn packets_that_lie_end_their_connection_and_nothing_else() {
    let mut host = Host::start();
    let key = host.key("me", &["ed25519"]);
    let repo = host.plant("app", &public(&key), &["web"]);
    host.run(&repo, "web");
    let packet = |length: u32, body: &[u8]| {
        let mut bytes = b"SSH-2.0-test\r\n".to_vec();
        bytes.extend(length.to_be_bytes());
        bytes.extend(body);
        bytes
    };
    for bytes in [
        packet(u32::MAX, &[4; 64]),
        packet(1 << 20, &[4; 4096]),
        packet(0, &[]),
        packet(12, &[255; 12]),
        vec![b'A'; 100_000],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        [b"SSH-2.0-".to_vec(), vec![b'x'; 5000], b"\r\n".to_vec()].concat(),
        (0..10_000u32)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
            .collect(),
    ] {
        let mut stream = connect(&host);
        // The server may close before all is sent.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        assert!(rest(&mut stream) < 100_000);
    }
    assert_eq!(host.ssh(&key, "keys web").good(), format!("{RECIPIENT}\n"));
    // A command line of no sensible length.
    let answer = host.ssh(&key, &format!("status {}", "x".repeat(20_000)));
    assert_ne!(answer.status, 0);
    assert_eq!(host.ssh(&key, "keys web").good(), format!("{RECIPIENT}\n"));
}

#[test]
fn a_client_that_does_not_read_costs_no_memory() {
    let host = Host::start();
    let key = host.key("me", &["ed25519"]);
    let repo = host.plant("app", &public(&key), &["web"]);
    let mut log = host.log(&repo, "web");
    let line = "x".repeat(1000);
    for _ in 0..100 {
        log.add((0..500).map(|_| &line));
    }
    host.ssh(&key, "help").good();
    let before = memory(host.pid());
    let mut ssh = host.client(&key);
    let mut children: Vec<_> = (0..4)
        .map(|_| {
            ssh.args(["127.0.0.1", "logs web --lines 1000000"]);
            ssh.spawn().unwrap()
        })
        .collect();
    // As long as it takes to send all of it to somebody who reads.
    let whole = host.ssh(&key, "logs web --lines 1000000").good();
    assert_eq!(whole.lines().count(), 50_000);
    thread::sleep(Duration::from_secs(1));
    let grown = memory(host.pid()).saturating_sub(before);
    children.iter_mut().for_each(|child| {
        child.kill().unwrap();
        child.wait().unwrap();
    });
    assert!(grown < 60, "{grown} MiB more");
}

#[test]
fn limits_on_connections_and_channels_hold() {
    let host =
        Host::with("[limits]\nconnections_per_address = 3\nchannels = 2\nidle_seconds = 20\n");
    let key = host.key("me", &["ed25519"]);
    let repo = host.plant("app", &public(&key), &["web"]);
    host.log(&repo, "web").add(["one"]);
    let follow = |host: &Host| {
        let mut ssh = host.client(&key);
        ssh.args(["127.0.0.1", "logs web -f"]);
        let mut child = ssh.spawn().unwrap();
        let mut first = [0; 1];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut first)
            .unwrap();
        child
    };
    let mut held: Vec<_> = (0..3).map(|_| follow(&host)).collect();
    assert_eq!(host.ssh(&key, "help").status, 255);
    for child in &mut held {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    until("there is room again", || host.ssh(&key, "help").status == 0);
    // Channels of one connection.
    let socket = host.path("mux");
    let control = format!("ControlPath={}", socket.display());
    let begin = || {
        let mut ssh = host.client(&key);
        ssh.args(["-M", "-N", "-o", &control, "127.0.0.1"]);
        ssh.spawn().unwrap()
    };
    let mut master = begin();
    until("the master listens", || {
        // The server may not have noticed yet that those before it have gone, and refuse it.
        if master.try_wait().unwrap().is_some() {
            master = begin();
        }
        socket.exists()
    });
    let channel = || {
        let mut ssh = host.client(&key);
        // What the master cannot have is not to be had by a connection of its own.
        ssh.args(["-o", &control, "-o", "ProxyCommand=false"]);
        ssh.args(["127.0.0.1", "logs web -f"]);
        ssh.spawn().unwrap()
    };
    let mut two: Vec<_> = (0..2).map(|_| channel()).collect();
    for child in &mut two {
        let mut first = [0; 1];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut first)
            .unwrap();
    }
    let third = finish(channel());
    assert!(!third.status.success(), "{third:?}");
    for child in &mut two {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // Nothing is asked for any more: the connection ends by itself.
    let status = master.wait().unwrap();
    assert!(!status.success());
}

#[test]
fn an_address_that_comes_too_fast_waits() {
    let host = Host::with("[limits]\nnew_per_minute = 5\n");
    let key = host.key("me", &["ed25519"]);
    let answers: Vec<_> = (0..5).map(|_| host.ssh(&key, "help").status).collect();
    assert_eq!(answers, [0; 5]);
    // One more may come every 12 s. Who comes faster is refused before long, how slow the machine may be.
    until("one is refused", || host.ssh(&key, "help").status == 255);
}
