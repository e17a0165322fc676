//! Links, routes and neighbours over the API, on a pair of virtual links in namespaces of their own. What
//! the kernel then has is asked of `ip(8)`, not of our own code.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails here fails the test"
)]

mod common;

use common::{Agent, in_namespaces, limit, refusal, run};
use seed_protocol::kata::{
    agent::*,
    types::{ARPNeighbor, IPAddress, IPFamily, Interface, Route},
};
use ttrpc::Code;

const HARDWARE: &str = "02:5e:ed:00:00:01";

fn address(family: IPFamily, address: &str, mask: &str) -> IPAddress {
    IPAddress {
        family: family.into(),
        address: address.into(),
        mask: mask.into(),
        ..Default::default()
    }
}

fn interface(name: &str) -> Interface {
    Interface {
        device: name.into(),
        name: name.into(),
        IPAddresses: vec![
            address(IPFamily::v4, "192.0.2.7", "24"),
            address(IPFamily::v6, "2001:db8::7", "64"),
        ],
        mtu: 1400,
        hwAddr: HARDWARE.into(),
        ..Default::default()
    }
}

async fn update(agent: &Agent, interface: Interface) -> ttrpc::Result<Interface> {
    let request = UpdateInterfaceRequest {
        interface: Some(interface).into(),
        ..Default::default()
    };
    agent.kata().update_interface(limit(), &request).await
}

async fn set_routes(agent: &Agent, routes: Vec<Route>) -> ttrpc::Result<Routes> {
    let routes = Routes {
        Routes: routes,
        ..Default::default()
    };
    let request = UpdateRoutesRequest {
        routes: Some(routes).into(),
        ..Default::default()
    };
    agent.kata().update_routes(limit(), &request).await
}

async fn add_neighbour(agent: &Agent, neighbour: ARPNeighbor) -> ttrpc::Result<()> {
    let neighbors = ARPNeighbors {
        ARPNeighbors: vec![neighbour],
        ..Default::default()
    };
    let request = AddARPNeighborsRequest {
        neighbors: Some(neighbors).into(),
        ..Default::default()
    };
    let done = agent.kata().add_arp_neighbors(limit(), &request).await;
    done.map(drop)
}

fn pair() {
    run("ip link add veth-a type veth peer name veth-b");
    run(&format!("ip link set veth-a address {HARDWARE}"));
    run("ip link set veth-b up");
}

#[tokio::test]
async fn a_link_gets_name_addresses_routes_and_neighbours_as_the_host_says() {
    if !in_namespaces("a_link_gets_name_addresses_routes_and_neighbours_as_the_host_says") {
        return;
    }
    pair();
    let agent = Agent::start().await;
    let now = update(&agent, interface("eth0")).await.unwrap();
    assert_eq!(
        (now.name.as_str(), now.mtu, now.type_.as_str()),
        ("eth0", 1400, "veth")
    );
    let shown = run("ip -o addr show dev eth0");
    for wanted in ["192.0.2.7/24 brd 192.0.2.255", "2001:db8::7/64"] {
        assert!(shown.contains(wanted), "{shown}");
    }
    assert!(!shown.contains("tentative dadfailed"), "{shown}");
    let shown = run("ip -o link show dev eth0");
    assert!(
        shown.contains("mtu 1400") && shown.contains(",UP"),
        "{shown}"
    );

    // The one with a gateway comes first here, and is reached through the other.
    let gateway = |gateway: &str, family: IPFamily| Route {
        gateway: gateway.into(),
        device: "eth0".into(),
        family: family.into(),
        ..Default::default()
    };
    let routes = vec![
        gateway("203.0.113.1", IPFamily::v4),
        gateway("2001:db8:0:1::1", IPFamily::v6),
        Route {
            dest: "203.0.113.0/24".into(),
            device: "eth0".into(),
            source: "192.0.2.7".into(),
            scope: 253,
            mtu: 1300,
            ..Default::default()
        },
        Route {
            dest: "2001:db8:0:1::/64".into(),
            device: "eth0".into(),
            family: IPFamily::v6.into(),
            ..Default::default()
        },
    ];
    let all = set_routes(&agent, routes.clone()).await.unwrap();
    let shown = run("ip route");
    assert!(
        shown.contains("default via 203.0.113.1 dev eth0"),
        "{shown}"
    );
    assert!(
        shown.contains("203.0.113.0/24 dev eth0 proto static scope link src 192.0.2.7 mtu 1300"),
        "{shown}"
    );
    let shown = run("ip -6 route");
    assert!(
        shown.contains("default via 2001:db8:0:1::1 dev eth0"),
        "{shown}"
    );
    assert!(all.Routes.iter().any(|route| {
        route.dest.is_empty() && route.gateway == "203.0.113.1" && route.device == "eth0"
    }));
    // Another to the same place stands beside it, behind it for its metric.
    let spare = Route {
        metric: 500,
        ..gateway("203.0.113.9", IPFamily::v4)
    };
    let all = set_routes(&agent, vec![spare]).await.unwrap();
    let shown = run("ip route");
    assert!(
        shown.contains("default via 203.0.113.1 dev eth0")
            && shown.contains("default via 203.0.113.9 dev eth0 proto static metric 500"),
        "{shown}"
    );
    assert!(all.Routes.iter().any(|route| route.metric == 500));
    // Again is fine, and a new gateway takes the place of the old one.
    set_routes(&agent, routes).await.unwrap();
    set_routes(&agent, vec![gateway("203.0.113.2", IPFamily::v4)])
        .await
        .unwrap();
    let shown = run("ip route show default");
    assert_eq!(shown.lines().count(), 2, "{shown}");
    assert!(
        shown.contains("203.0.113.2") && !shown.contains("203.0.113.1 "),
        "{shown}"
    );
    let listed = agent
        .kata()
        .list_routes(limit(), &ListRoutesRequest::new())
        .await;
    let listed = listed.unwrap().Routes;
    assert!(listed.iter().any(|route| route.dest == "192.0.2.0/24"));
    assert!(listed.iter().any(|route| route.dest == "2001:db8:0:1::/64"));

    for (to, family) in [
        ("192.0.2.1", IPFamily::v4),
        ("2001:db8::1/64", IPFamily::v6),
    ] {
        let neighbour = ARPNeighbor {
            toIPAddress: Some(address(family, to, "")).into(),
            device: "eth0".into(),
            lladdr: "02:5e:ed:00:00:99".into(),
            state: 0x80,
            ..Default::default()
        };
        add_neighbour(&agent, neighbour.clone()).await.unwrap();
        add_neighbour(&agent, neighbour).await.unwrap();
    }
    let shown = run("ip neigh show dev eth0");
    for wanted in ["192.0.2.1", "2001:db8::1"] {
        let line = format!("{wanted} lladdr 02:5e:ed:00:00:99 PERMANENT");
        assert!(shown.contains(&line), "{shown}");
    }
    let listed = agent
        .kata()
        .list_interfaces(limit(), &ListInterfacesRequest::new())
        .await
        .unwrap()
        .Interfaces;
    let eth0 = listed.iter().find(|link| link.name == "eth0").unwrap();
    assert_eq!(eth0.hwAddr, HARDWARE);
    assert!(
        eth0.IPAddresses
            .iter()
            .any(|a| a.address == "192.0.2.7" && a.mask == "24")
    );
    assert!(eth0.IPAddresses.iter().any(|a| a.address == "2001:db8::7"));
}

#[tokio::test]
async fn a_name_that_is_taken_is_swapped_and_again_changes_nothing() {
    if !in_namespaces("a_name_that_is_taken_is_swapped_and_again_changes_nothing") {
        return;
    }
    pair();
    run("ip link add eth0 type veth peer name veth-c");
    run("ip link set eth0 address 02:5e:ed:00:00:03");
    run("ip link set eth0 up");
    let agent = Agent::start().await;
    for _ in 0..2 {
        let now = update(&agent, interface("eth0")).await.unwrap();
        assert_eq!(now.hwAddr, HARDWARE);
        let other = run("ip -o link show dev veth-a");
        assert!(
            other.contains("02:5e:ed:00:00:03") && other.contains(",UP"),
            "{other}"
        );
    }
    // By name alone: it gets the address that the host wants.
    let other = Interface {
        hwAddr: "02:5e:ed:00:00:02".into(),
        IPAddresses: vec![],
        mtu: 0,
        ..interface("veth-a")
    };
    update(&agent, other).await.unwrap();
    assert!(run("ip link show dev veth-a").contains("02:5e:ed:00:00:02"));
}

#[tokio::test]
async fn a_link_whose_driver_comes_later_is_waited_for() {
    if !in_namespaces("a_link_whose_driver_comes_later_is_waited_for") {
        return;
    }
    let agent = Agent::start().await;
    let late = std::thread::spawn(|| {
        std::thread::sleep(std::time::Duration::from_millis(300));
        pair();
    });
    let now = update(&agent, interface("eth0")).await.unwrap();
    assert_eq!(now.hwAddr, HARDWARE);
    late.join().unwrap();
}

#[tokio::test]
async fn what_cannot_be_done_is_told_apart() {
    if !in_namespaces("what_cannot_be_done_is_told_apart") {
        return;
    }
    pair();
    let agent = Agent::start_with(
        tempfile::tempdir().unwrap(),
        seed_agent::config::Instance::default(),
        |config| {
            config.hotplug_limit = std::time::Duration::from_millis(50);
            config.link_limit = std::time::Duration::from_millis(50);
        },
    )
    .await;
    let nobody = Interface {
        hwAddr: "02:5e:ed:00:00:77".into(),
        ..interface("eth7")
    };
    let (code, message) = refusal(update(&agent, nobody).await);
    // A Kata shim tries again when it reads these words.
    assert!(
        code == Code::NOT_FOUND && message.contains("Link not found"),
        "{message}"
    );
    let absent = Interface {
        devicePath: "1f/1f".into(),
        ..interface("eth0")
    };
    assert_eq!(refusal(update(&agent, absent).await).0, Code::NOT_FOUND);
    let hostile = interface("../../etc/x");
    assert_eq!(
        refusal(update(&agent, hostile).await).0,
        Code::INVALID_ARGUMENT
    );
    let empty = agent
        .kata()
        .update_interface(limit(), &UpdateInterfaceRequest::new())
        .await;
    assert_eq!(refusal(empty).0, Code::INVALID_ARGUMENT);
    let unreachable = Route {
        gateway: "198.51.100.1".into(),
        device: "veth-b".into(),
        ..Default::default()
    };
    let (code, message) = refusal(set_routes(&agent, vec![unreachable]).await);
    assert_eq!(code, Code::FAILED_PRECONDITION, "{message}");
    assert!(
        message.starts_with("set the route to everywhere"),
        "{message}"
    );
    let unknown = ARPNeighbor {
        toIPAddress: Some(address(IPFamily::v4, "192.0.2.1", "")).into(),
        device: "eth9".into(),
        ..Default::default()
    };
    assert_eq!(
        refusal(add_neighbour(&agent, unknown).await).0,
        Code::NOT_FOUND
    );
}
