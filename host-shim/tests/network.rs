//! The wires of a pod, in a network namespace of the test's own: what the shim reads of its links, routes and
//! neighbours, and what it makes and takes away, as ip(8) and tc(8) see it. Root alone can make such a namespace.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod netns;

use std::{
    fs,
    io::{self, Write},
    net::TcpStream,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::Path,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use netns::Network;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use seed_shim::{
    config::Config,
    names::{ContainerId, Namespace},
    net::{self, Loopback, LoopbackError, NetError, Nic, Route, Wires, mac_text},
    shim::{cli::Target, delete, state_file::StateFile},
};
use serde_json::json;

/// Far more than anything takes that shall happen, also on a machine that is busy with other things.
const LIMIT: Duration = Duration::from_secs(60);

/// A pair of links, of which one is `name` with this hardware address.
fn add_link(network: &Network, name: &str, mac: &str) {
    network.run(&format!(
        "ip link add {name} type veth peer name {name}-far"
    ));
    network.run(&format!("ip link set {name} address {mac} up"));
    network.run(&format!(
        "ip link set {name}-far address 02:00:00:00:ff:ff up"
    ));
}

/// The wires of a machine in this network.
fn wire(network: &Network) -> Result<Wires, NetError> {
    let host = net::Network::own().unwrap();
    let wires = network.inside(|| Wires::in_pod(&network.path(), host));
    wires.map(|wires| wires.expect("it is not the host's"))
}

fn named<'a>(nics: &'a [Nic], name: &str) -> &'a Nic {
    nics.iter().find(|nic| nic.name == name).unwrap()
}

fn to<'a>(nic: &'a Nic, destination: &str) -> &'a Route {
    let text = |route: &Route| match route.destination {
        Some((address, prefix)) => format!("{address}/{prefix}"),
        None if route.six => "default6".to_owned(),
        None => "default".to_owned(),
    };
    let found = nic.routes.iter().find(|route| text(route) == destination);
    found.unwrap_or_else(|| panic!("no route to {destination} in {nic:?}"))
}

#[test]
fn every_card_of_a_pod_is_wired_and_known_with_all_that_its_plugin_left() {
    let Some(network) = Network::make("cards") else {
        return;
    };
    add_link(&network, "eth0", "02:00:00:00:00:01");
    add_link(&network, "net1", "02:00:00:00:00:02");
    for line in [
        "ip link set eth0 mtu 1400",
        "ip addr add 10.1.0.2/24 dev eth0",
        "ip addr add 2001:db8:1::2/64 dev eth0 nodad",
        "ip route add default via 169.254.1.1 dev eth0 onlink metric 100",
        "ip -6 route add default via 2001:db8:1::1 dev eth0 metric 50",
        "ip neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent",
        "ip -6 neigh add 2001:db8:1::1 lladdr ee:ee:ee:ee:ee:01 dev eth0 nud permanent",
        "ip neigh add 10.1.0.77 lladdr ee:ee:ee:ee:ee:77 dev eth0 nud stale",
        "ip addr add 10.2.0.2/24 dev net1",
        "ip route add default via 10.2.0.1 dev net1 metric 200",
        "ip route add 10.9.0.0/16 via 10.2.0.1 dev net1 mtu 1200",
    ] {
        network.run(line);
    }
    let wires = wire(&network).unwrap();
    let nics = wires.nics();
    // The far ends are links of this namespace as well.
    assert_eq!(nics.len(), 4);
    let (eth0, net1) = (named(nics, "eth0"), named(nics, "net1"));
    assert_eq!((eth0.mac.as_str(), eth0.mtu), ("02:00:00:00:00:01", 1400));
    assert_eq!(eth0.addresses.len(), 2, "{:?}", eth0.addresses);
    let default = to(eth0, "default");
    assert_eq!(default.gateway, Some("169.254.1.1".parse().unwrap()));
    // RTNH_F_ONLINK.
    assert_eq!((default.metric, default.flags), (100, 4));
    assert_eq!(to(eth0, "default6").metric, 50);
    let mut lasting: Vec<String> = eth0
        .neighbours
        .iter()
        .map(|one| format!("{} {}", one.address, mac_text(&one.mac)))
        .collect();
    lasting.sort();
    assert_eq!(
        lasting,
        [
            "169.254.1.1 ee:ee:ee:ee:ee:ee",
            "2001:db8:1::1 ee:ee:ee:ee:ee:01"
        ]
    );
    assert_eq!(to(net1, "default").metric, 200);
    assert_eq!(to(net1, "10.9.0.0/16").mtu, 1200);
    assert!(net1.neighbours.is_empty(), "{:?}", net1.neighbours);

    let filters = network.run("tc filter show dev eth0 ingress");
    assert!(
        filters.contains("mirred (Egress Redirect to device seedtap"),
        "{filters}"
    );
    // As every frame does that arrives at a card: one to the tap, and one back.
    let taps = network.run("ip -o link show type tun");
    assert_eq!(taps.lines().count(), 4, "{taps}");
    assert!(taps.lines().all(|tap| tap.contains(",UP")), "{taps}");
    assert_eq!(taps.matches("mtu 1400").count(), 1, "{taps}");
    network.inside(move || drop(wires));
    assert!(network.run("tc filter show dev eth0 ingress").is_empty());
    // Their files are closed; a child that another test is just starting may have copies.
    let begin = Instant::now();
    while !network.run("ip -o link show type tun").is_empty() {
        assert!(begin.elapsed() < LIMIT, "taps are left");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn every_port_of_a_loopback_is_taken_for_as_long_as_it_is_held() {
    let Some(network) = Network::make("loopback") else {
        return;
    };
    network.run("ip link set lo up");
    let host = net::Network::own().unwrap();
    network.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let refused = || TcpStream::connect(("127.0.0.1", 80)).unwrap_err().kind();
            assert_eq!(refused(), io::ErrorKind::ConnectionRefused);
            let loopback = Loopback::take(host).unwrap();
            for (address, port) in [("127.0.0.1", 1), ("127.0.0.53", 80), ("127.0.0.1", 65_535)] {
                let mut client = TcpStream::connect((address, port)).unwrap();
                let (taken, asked) = loopback.accept().await.unwrap();
                assert_eq!(asked, port);
                client.write_all(b"through").unwrap();
                taken.readable().await.unwrap();
                let mut bytes = [0; 7];
                assert_eq!(taken.try_read(&mut bytes).unwrap(), 7);
                assert_eq!(&bytes, b"through");
            }
            // Who comes second has nothing while the first is there.
            let second = Loopback::take(host).unwrap();
            let _client = TcpStream::connect(("127.0.0.1", 80)).unwrap();
            assert_eq!(loopback.accept().await.unwrap().1, 80);
            // As a child has them that was forked and has not come to its exec.
            let copies = copies_of_links();
            assert!(!copies.is_empty());
            drop(loopback);
            let _client = TcpStream::connect(("127.0.0.1", 81)).unwrap();
            assert_eq!(second.accept().await.unwrap().1, 81);
            drop(second);
            assert_eq!(refused(), io::ErrorKind::ConnectionRefused);
        });
    });
}

/// Copies of what this process holds by `bpf_link`s.
fn copies_of_links() -> Vec<OwnedFd> {
    let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
    open.filter(|entry| {
        fs::read_link(entry.path()).is_ok_and(|what| what.as_os_str() == "anon_inode:bpf_link")
    })
    .map(|entry| {
        let number = entry.file_name().to_str().unwrap().parse().unwrap();
        pidfd_getfd(&own, number, PidfdGetfdFlags::empty()).unwrap()
    })
    .collect()
}

#[test]
fn what_the_kernel_has_for_pods_is_tried_in_a_network_that_goes_again() {
    let Some(network) = Network::make("tried") else {
        return;
    };
    let links = || network.run("ip -o link").lines().count();
    let before = links();
    network.inside(|| {
        let own = net::Network::own().unwrap();
        net::try_wire().unwrap();
        net::try_loopback().unwrap();
        assert_eq!(net::Network::own().unwrap(), own);
        assert!(copies_of_links().is_empty());
    });
    assert_eq!(links(), before);
}

#[test]
fn the_hosts_loopback_is_never_taken() {
    let refused = Loopback::take(net::Network::own().unwrap()).unwrap_err();
    assert!(matches!(refused, LoopbackError::Host), "{refused:?}");
}

#[test]
fn what_a_killed_shim_left_is_swept_and_a_machines_wire_is_not() {
    let Some(network) = Network::make("swept") else {
        return;
    };
    add_link(&network, "eth0", "02:00:00:00:00:01");
    let is_redirected = || network.run("tc qdisc show dev eth0").contains("ingress");
    network.run("ip tuntap add dev gone mode tap");
    network.run("tc qdisc add dev eth0 ingress");
    network.run(
        "tc filter add dev eth0 parent ffff: protocol all u32 match u8 0 0 action mirred egress redirect dev gone",
    );
    network.run("ip link delete gone");
    let sweep = |network: &Path| net::sweep(network, Instant::now());
    network.inside(|| sweep(Path::new("/proc/thread-self/ns/net")).unwrap());
    assert!(is_redirected(), "it is the caller's own network");

    for _ in 0..2 {
        sweep(&network.path()).unwrap();
        assert!(!is_redirected());
    }
    let wires = wire(&network).unwrap();
    sweep(&network.path()).unwrap();
    assert!(is_redirected(), "there is a machine");
    network.inside(move || drop(wires));

    let error = sweep(Path::new("/nonexistent/netns")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/netns"), "{error}");
}

#[test]
fn the_end_of_a_killed_shim_takes_its_redirections_along() {
    let Some(network) = Network::make("deleted") else {
        return;
    };
    add_link(&network, "eth0", "02:00:00:00:00:01");
    let bundle = tempfile::tempdir().unwrap();
    let namespaces = json!([{"type": "network", "path": network.path()}]);
    let document = json!({"linux": {"namespaces": namespaces}}).to_string();
    fs::write(bundle.path().join("config.json"), document).unwrap();
    let socket = bundle.path().join("task.sock");
    let config = Config {
        run_dir: bundle.path().join("run"),
        state_dir: bundle.path().join("state"),
        ..Config::default()
    };
    let state = StateFile {
        config,
        socket: socket.clone(),
        member: None,
    };
    state.write(bundle.path()).unwrap();
    let target = Target {
        namespace: Namespace::try_from("default").unwrap(),
        id: ContainerId::try_from("demo").unwrap(),
        address: String::new(),
        bundle: Some(bundle.path().to_owned()),
        debug: false,
    };
    network.run("tc qdisc add dev eth0 ingress");
    let shim = UnixListener::bind(&socket).unwrap();
    delete::run(&target).unwrap();
    let qdiscs = network.run("tc qdisc show dev eth0");
    assert!(qdiscs.contains("ingress"), "its shim lives: {qdiscs}");

    // A child that another test is just starting may have a copy of the listener.
    rustix::net::shutdown(&shim, rustix::net::Shutdown::Both).unwrap();
    for _ in 0..2 {
        delete::run(&target).unwrap();
        let qdiscs = network.run("tc qdisc show dev eth0");
        assert!(!qdiscs.contains("ingress"), "{qdiscs}");
    }
}

#[test]
fn the_hosts_own_network_is_not_wired() {
    let Some(host) = Network::make("host") else {
        return;
    };
    let Some(pod) = Network::make("pod") else {
        return;
    };
    for network in [&host, &pod] {
        add_link(network, "eth0", "02:00:00:00:00:01");
    }
    let wired = |network: &Network| {
        let path = network.path();
        host.inside(|| Wires::in_pod(&path, net::Network::own().unwrap()).unwrap())
    };
    // What containerd names for a container of a pod with hostNetwork.
    assert!(wired(&host).is_none());
    assert!(!host.run("tc qdisc show dev eth0").contains("ingress"));
    assert!(host.run("ip -o link show type tun").is_empty());

    let wires = wired(&pod).unwrap();
    assert_eq!(named(wires.nics(), "eth0").mac, "02:00:00:00:00:01");
    assert!(pod.run("tc qdisc show dev eth0").contains("ingress"));
    pod.inside(move || drop(wires));
}

#[test]
fn what_an_earlier_machine_left_is_taken_over() {
    let Some(network) = Network::make("again") else {
        return;
    };
    add_link(&network, "eth0", "02:00:00:00:00:01");
    network.run("tc qdisc add dev eth0 ingress");
    for _ in 0..2 {
        let wires = wire(&network).unwrap();
        let qdiscs = network.run("tc qdisc show dev eth0");
        assert_eq!(qdiscs.matches("ingress").count(), 1, "{qdiscs}");
        network.inside(move || drop(wires));
    }
}

#[test]
fn a_network_is_one_machines_and_the_next_one_is_told_whose() {
    let Some(network) = Network::make("held") else {
        return;
    };
    add_link(&network, "eth0", "02:00:00:00:00:01");
    let wires = wire(&network).unwrap();
    let looks = ["tc qdisc show", "tc filter show dev eth0 ingress"];
    let before = looks.map(|look| network.run(look));
    let refused = wire(&network).unwrap_err().to_string();
    let (path, pid) = (network.path(), std::process::id());
    let wanted = format!(
        "network namespace {} is wired to the machine of process {pid}, and serves one at a time: \
         end that one first, or give this one a namespace of its own",
        path.display()
    );
    assert_eq!(refused, wanted);
    assert_eq!(looks.map(|look| network.run(look)), before);
    network.inside(move || drop(wires));
    let wires = wire(&network).unwrap();
    network.inside(move || drop(wires));
}

/// A process that has a network, and is killed when this is dropped.
struct Holding(Child);

impl Holding {
    /// Runs these words, and returns when it sleeps: then it has the lock.
    fn start(words: &[&str]) -> Self {
        let child = Command::new(words[0]).args(&words[1..]).spawn().unwrap();
        let comm = format!("/proc/{}/comm", child.id());
        let holding = Self(child);
        let begun = Instant::now();
        while fs::read_to_string(&comm).unwrap() != "sleep\n" {
            assert!(
                begun.elapsed() < LIMIT,
                "{words:?} does not come to its sleep"
            );
            thread::sleep(Duration::from_millis(5));
        }
        holding
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_network_is_free_when_its_holder_was_killed_and_not_before() {
    let Some(network) = Network::make("killed") else {
        return;
    };
    add_link(&network, "eth0", "02:00:00:00:00:01");
    let path = network.path();
    let path = path.to_str().unwrap();
    network.run("tc qdisc add dev eth0 ingress");
    let is_redirected = || network.run("tc qdisc show dev eth0").contains("ingress");
    // Longer than this test may take: what is waited for comes, or is not waited for.
    let sweep = || net::sweep(&network.path(), Instant::now() + 60 * LIMIT).unwrap();

    let holding = Holding::start(&["flock", "--no-fork", path, "sleep", "1000"]);
    let refused = wire(&network).unwrap_err().to_string();
    let process = format!("process {}, ", holding.0.id());
    assert!(refused.contains(&process), "{refused}");
    sweep();
    assert!(is_redirected(), "its holder goes on");
    drop(holding);
    let wires = wire(&network).unwrap();
    network.inside(move || drop(wires));

    // Who took it has ended, and the last that has it open is about to.
    network.run("tc qdisc add dev eth0 ingress");
    let holding = Holding::start(&["sh", "-c", "exec 9<$0 && flock 9 && exec sleep 1000", path]);
    thread::scope(|scope| {
        scope.spawn(sweep);
        thread::sleep(Duration::from_millis(100));
        drop(holding);
    });
    assert!(!is_redirected());
}
