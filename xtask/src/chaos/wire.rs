//! A pod's network as CNI would make it: a namespace, and a link in it with an address; the other end is the host's.

use std::{
    io::Read,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::mpsc,
    thread,
};

use anyhow::{Context, Result, ensure};

use crate::{
    lab::{self, COMMAND, Lab, until},
    util,
};

/// A namespace and its link.
#[derive(Debug)]
pub(super) struct Wire {
    namespace: String,
    /// The host's end: at most 15 bytes.
    link: String,
    /// All but the last number of its addresses.
    network: String,
    /// What is in the namespace without a machine.
    links: String,
}

impl Wire {
    /// Lays it for an instance, whose name is one letter.
    pub(super) fn lay(lab: &Lab, name: &str) -> Result<Self> {
        let number = process::id();
        let letter = name.bytes().next().unwrap_or_default();
        let lab = lab.dir().file_name().context("the lab has no name")?;
        let mut wire = Self {
            // The lab's guard removes namespaces with the lab's name.
            namespace: format!("{}-{name}", lab.to_string_lossy()),
            link: format!("sd{number}{name}"),
            network: format!(
                "10.{}.{}",
                128 + (number + u32::from(letter)) % 128,
                number / 128 % 256
            ),
            links: String::new(),
        };
        let Self {
            namespace,
            link,
            network,
            ..
        } = &wire;
        for line in [
            format!("netns add {namespace}"),
            format!("link add {link} type veth peer name eth0 netns {namespace}"),
            format!("addr add {network}.1/24 dev {link}"),
            format!("link set {link} up"),
            format!("-n {namespace} addr add {network}.2/24 dev eth0"),
            format!("-n {namespace} link set eth0 up"),
        ] {
            ip(&line)?;
        }
        wire.links = wire.names()?;
        Ok(wire)
    }

    /// Where the namespace is bound, ip-netns(8).
    pub(super) fn namespace(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }

    /// Nothing is left in it of a machine that has ended: no tap device, no redirection.
    pub(super) fn is_bare(&self) -> Result<()> {
        let mut links = String::new();
        let mut rules = String::new();
        let bare = until("a namespace without a tap device", COMMAND, || {
            links = self.names()?;
            let mut tc = Command::new("tc");
            tc.args(["-n", &self.namespace, "qdisc", "show", "dev", "eth0"]);
            rules = util::read(&mut tc)?;
            let is_bare = links == self.links && !rules.contains("ingress");
            Ok(is_bare.then_some(()))
        });
        bare.with_context(|| format!("left in {}: {links}{rules}", self.namespace))
    }

    /// The links in it, by name: the loopback, ours, and what the kernel gives each namespace, such as tunnels.
    fn names(&self) -> Result<String> {
        let all = ip(&format!("-n {} -o link show", self.namespace))?;
        let mut names: Vec<_> = all
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .collect();
        names.sort_unstable();
        Ok(names.concat())
    }

    /// The guest has the link's address and reaches the host's end with it. `inside` runs a command in it.
    pub(super) fn carries(&self, mut inside: Command) -> Result<()> {
        let gateway = format!("{}.1", self.network);
        let listener = TcpListener::bind((gateway.as_str(), 0)).context("listen on the wire")?;
        let port = listener.local_addr()?.port();
        let (tell, told) = mpsc::channel();
        // Ends with the connection, or with us.
        thread::spawn(move || -> Result<()> {
            let (mut stream, peer) = listener.accept()?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            tell.send((text, peer.ip().to_string()))?;
            Ok(())
        });
        let line = format!("echo over the wire > /dev/tcp/{gateway}/{port}");
        inside.args(["/bin/bash", "-c", &line]);
        lab::succeeded(&line, lab::run(&mut inside, &[], COMMAND, None)?)?;
        let heard = told.recv_timeout(COMMAND).context("nothing came")?;
        let expected = ("over the wire\n".to_owned(), format!("{}.2", self.network));
        ensure!(heard == expected, "over the wire came {heard:?}");
        Ok(())
    }

    /// Takes its carrier, or gives it back; addresses stay.
    pub(super) fn cut(&self, cut: bool) -> Result<()> {
        let state = if cut { "down" } else { "up" };
        ip(&format!("link set {} {state}", self.link)).map(drop)
    }

    /// Removes it.
    pub(super) fn take_away(&self) -> Result<()> {
        // The link goes with its other end.
        ip(&format!("netns delete {}", self.namespace)).map(drop)
    }
}

fn ip(line: &str) -> Result<String> {
    util::read(Command::new("ip").args(line.split(' ')))
}
