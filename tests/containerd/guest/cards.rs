//! A pod with two cards: CNI's, and a second one, as a meta-plugin adds it. Both are the guest's, with all that they are in the
//! pod's network, and TCP goes over each of them, by IPv4 and IPv6, both ways.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, Shutdown, TcpListener, TcpStream},
    process::{self, Command},
    thread,
};

use anyhow::{Context, Result, ensure};
use seed_tests::{Containerd, lab::output, limit};
use serde_json::Value;

use crate::bench;

/// The port of the guest that gives back what it gets.
const ECHO_PORT: u16 = 7009;

/// What is routed over the second card alone.
const ROUTED: [&str; 2] = ["192.0.2.0/24", "2001:db8:5f::/48"];

/// A card, as `ip` tells it: name, hardware address, MTU, and addresses with their prefixes.
type Card = (String, String, u64, BTreeSet<(IpAddr, u64)>);

/// A route that goes over somebody: where to, over whom, by which card.
type Route = (String, IpAddr, String);

/// What the pod's network was before the guest had it.
pub(super) struct Cards {
    /// The second card's other end, until this is dropped.
    host_end: String,
    all: Vec<Card>,
    routes: BTreeSet<Route>,
    /// Addresses of the host, each in the network of a card.
    hosts: Vec<IpAddr>,
}

impl Cards {
    /// Adds the second one to a pod.
    pub(super) fn add(containerd: &Containerd, pod: &str) -> Result<Self> {
        let network = bench::network(containerd, pod)?;
        let number = process::id();
        let mut cards = Self {
            host_end: format!("sdtwo{:x}", number & 0xff_ffff),
            all: Vec::new(),
            routes: BTreeSet::new(),
            hosts: Vec::new(),
        };
        let (four, six) = (
            format!("10.{}.{}", 128 + (number >> 8) % 64, number % 256),
            format!("fd5f:{:x}:{:x}:", number >> 16, number & 0xffff),
        );
        let end = &cards.host_end;
        ip(&format!(
            "link add {end} mtu 1400 type veth peer name eth1 netns {network}"
        ))?;
        for line in [
            format!("address add {four}.1/24 dev {end}"),
            format!("address add {six}:1/64 dev {end} nodad"),
            format!("link set {end} up"),
            format!("-n {network} address add {four}.2/24 dev eth1"),
            format!("-n {network} address add {six}:2/64 dev eth1 nodad"),
            format!("-n {network} link set eth1 mtu 1400 up"),
            format!("-n {network} route add {} via {four}.1 dev eth1", ROUTED[0]),
            format!("-n {network} route add {} via {six}:1 dev eth1", ROUTED[1]),
        ] {
            ip(&line)?;
        }
        let ask = |question: &str| ip(&format!("-n {network} {question}"));
        cards.all = told(&ask)?;
        cards.routes = routes(&ask)?;
        let names: Vec<_> = cards.all.iter().map(|card| card.0.as_str()).collect();
        ensure!(
            names == ["eth0", "eth1"],
            "the pod's cards: {:?}",
            cards.all
        );
        let hosts = cards.routes.iter().map(|route| route.1);
        cards.hosts = hosts.collect::<BTreeSet<_>>().into_iter().collect();
        ensure!(cards.hosts.len() == 4, "the ways out: {:?}", cards.routes);
        Ok(cards)
    }

    /// The guest has both as they were, and uses them.
    pub(super) fn are_the_guests(&self, sh: impl Fn(&str) -> Result<String>) -> Result<()> {
        let ask = |question: &str| sh(&format!("ip {question}"));
        let own = told(&ask)?;
        ensure!(own == self.all, "the guest has {own:?}\nof {:?}", self.all);
        let own = routes(&ask)?;
        ensure!(
            own == self.routes,
            "the guest goes {own:?}\nfor {:?}",
            self.routes
        );
        for host in &self.hosts {
            let guest = self.beside(*host)?;
            out_of_the_guest(&sh, *host, guest).with_context(|| format!("to {host}"))?;
        }
        let listen =
            format!("systemd-socket-activate --accept --inetd --listen=[::]:{ECHO_PORT} cat");
        sh(&format!("systemd-run --quiet {listen}"))?;
        for host in &self.hosts {
            let guest = self.beside(*host)?;
            limit::until(&format!("an echo of {guest}"), limit::COMMAND, || {
                Ok(into_the_guest(guest).ok())
            })?;
        }
        Ok(())
    }

    /// The guest's address in the network of a host's.
    fn beside(&self, host: IpAddr) -> Result<IpAddr> {
        let mut all = self.all.iter().flat_map(|card| &card.3);
        let found = all.find(|(address, prefix)| in_one(*address, host, *prefix));
        Ok(found.context(format!("no card for {host}"))?.0)
    }
}

impl Drop for Cards {
    fn drop(&mut self) {
        // With it the other end goes. The pod's network may have gone before.
        let _ = ip(&format!("link delete {}", self.host_end));
    }
}

/// What the guest writes is what the host reads, from the card's address.
fn out_of_the_guest(
    sh: impl Fn(&str) -> Result<String>,
    host: IpAddr,
    guest: IpAddr,
) -> Result<()> {
    let listener = TcpListener::bind((host, 0))?;
    let port = listener.local_addr()?.port();
    let heard = thread::spawn(move || {
        let mut text = String::new();
        let (mut stream, peer) = listener.accept()?;
        stream.set_read_timeout(Some(limit::COMMAND))?;
        stream.read_to_string(&mut text)?;
        std::io::Result::Ok((text, peer.ip()))
    });
    sh(&format!("echo over the wire > /dev/tcp/{host}/{port}"))?;
    let (text, peer) = heard.join().ok().context("the listener failed")??;
    ensure!(
        text == "over the wire\n" && peer == guest,
        "{text:?} from {peer}"
    );
    Ok(())
}

/// What the host says comes back.
fn into_the_guest(guest: IpAddr) -> Result<()> {
    let address = (guest, ECHO_PORT).into();
    let mut stream = TcpStream::connect_timeout(&address, limit::COMMAND)?;
    stream.set_read_timeout(Some(limit::COMMAND))?;
    stream.write_all(b"to and fro\n")?;
    stream.shutdown(Shutdown::Write)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    ensure!(text == "to and fro\n", "{text:?}");
    Ok(())
}

/// The host's `ip`.
fn ip(line: &str) -> Result<String> {
    let mut command = Command::new("ip");
    command.args(line.split(' '));
    let result = output(command, limit::COMMAND)?;
    let said = String::from_utf8_lossy(&result.stderr);
    ensure!(result.status.success(), "ip {line}: {said}");
    Ok(String::from_utf8(result.stdout)?)
}

/// All cards that have one of the names that pods give.
fn told(ask: &impl Fn(&str) -> Result<String>) -> Result<Vec<Card>> {
    let all: Vec<Value> = serde_json::from_str(&ask("-json address show")?)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let card = |link: &Value| -> Result<Card> {
        let mut addresses = BTreeSet::new();
        for one in link["addr_info"].as_array().into_iter().flatten() {
            if one["scope"] == "global" {
                let prefix = one["prefixlen"].as_u64().context("no prefix")?;
                addresses.insert((text(&one["local"]).parse()?, prefix));
            }
        }
        let mtu = link["mtu"].as_u64().context("no MTU")?;
        Ok((
            text(&link["ifname"]),
            text(&link["address"]),
            mtu,
            addresses,
        ))
    };
    let of_pods = |link: &&Value| text(&link["ifname"]).starts_with("eth");
    let cards: Result<Vec<_>> = all.iter().filter(of_pods).map(card).collect();
    let mut cards = cards?;
    cards.sort();
    Ok(cards)
}

/// All routes that go over somebody.
fn routes(ask: &impl Fn(&str) -> Result<String>) -> Result<BTreeSet<Route>> {
    let mut found = BTreeSet::new();
    for question in ["-json -4 route show", "-json -6 route show"] {
        let all: Vec<Value> = serde_json::from_str(&ask(question)?)?;
        for route in &all {
            let text = |key: &str| route[key].as_str().unwrap_or_default().to_owned();
            if let Some(gateway) = route["gateway"].as_str() {
                found.insert((text("dst"), gateway.parse()?, text("dev")));
            }
        }
    }
    Ok(found)
}

/// Whether two addresses are in one network.
fn in_one(one: IpAddr, other: IpAddr, prefix: u64) -> bool {
    let bits = |address| match address {
        IpAddr::V4(four) => (u128::from(u32::from(four)) << 96, 4),
        IpAddr::V6(six) => (u128::from(six), 6),
    };
    let ((one, kind), (other, others)) = (bits(one), bits(other));
    let kept = u128::MAX.checked_shl(128_u32.saturating_sub(u32::try_from(prefix).unwrap_or(0)));
    kind == others && (one ^ other) & kept.unwrap_or(0) == 0
}
