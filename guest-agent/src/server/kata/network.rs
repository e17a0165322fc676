//! Links, routes and neighbours: the host's messages become checked orders here, and what the kernel says
//! becomes messages again.

use std::sync::Arc;

use seed_protocol::kata::{
    agent::*,
    empty::Empty,
    types::{self, IPFamily},
};
use tokio::task;

use crate::{
    agent::Context,
    network::{
        self, Interface, InterfaceOrder, Neighbour, NetworkError, Route,
        words::{self, Network},
    },
    sandbox::State,
    server::error::RequestError,
    sys::pci::PciPath,
};

/// More than any guest has.
const MAX_ENTRIES: usize = 4096;

/// `IFF_NOARP` of `linux/if.h`: the one flag of a link that the host has a say in.
const NOARP: u32 = 0x80;

pub(super) async fn update_interface(
    ctx: &Arc<Context>,
    request: UpdateInterfaceRequest,
) -> Result<types::Interface, RequestError> {
    let interface = request.interface.into_option();
    let interface = interface.ok_or_else(|| missing("interface"))?;
    let order = interface_order(interface)?;
    let sys = ctx.config.paths.sys_devices();
    let limit = match ctx.sandbox.state() {
        State::Started(_) | State::Alone => ctx.config.hotplug_limit,
        _ => ctx.config.hotplug_limit.max(ctx.config.link_limit),
    };
    let now = blocking(move || network::update_interface(&order, &sys, limit)).await?;
    Ok(interface_message(now))
}

pub(super) async fn list_interfaces(
    _: &Arc<Context>,
    _: ListInterfacesRequest,
) -> Result<Interfaces, RequestError> {
    let all = blocking(network::interfaces).await?;
    Ok(Interfaces {
        Interfaces: all.into_iter().map(interface_message).collect(),
        ..Default::default()
    })
}

pub(super) async fn update_routes(
    _: &Arc<Context>,
    request: UpdateRoutesRequest,
) -> Result<Routes, RequestError> {
    let routes = request.routes.into_option();
    let routes = routes.ok_or_else(|| missing("routes"))?.Routes;
    bounded(routes.len())?;
    let routes: Result<Vec<_>, _> = routes.into_iter().map(route).collect();
    let routes = routes?;
    let all = blocking(move || network::update_routes(routes)).await?;
    Ok(routes_message(all))
}

pub(super) async fn list_routes(
    _: &Arc<Context>,
    _: ListRoutesRequest,
) -> Result<Routes, RequestError> {
    Ok(routes_message(blocking(network::routes).await?))
}

pub(super) async fn add_arp_neighbors(
    _: &Arc<Context>,
    request: AddARPNeighborsRequest,
) -> Result<Empty, RequestError> {
    let neighbours = request.neighbors.into_option();
    let neighbours = neighbours.ok_or_else(|| missing("neighbors"))?.ARPNeighbors;
    bounded(neighbours.len())?;
    let neighbours: Result<Vec<_>, _> = neighbours.into_iter().map(neighbour).collect();
    let neighbours = neighbours?;
    blocking(move || network::add_neighbour(&neighbours)).await?;
    Ok(Empty::default())
}

/// The kernel is asked on a thread of its own: it has locks that others may hold.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, RequestError> {
    let done = task::spawn_blocking(work).await;
    let done = done.map_err(|error| {
        RequestError::internal("the network's thread ended early", error.into())
    })?;
    Ok(done?)
}

fn missing(what: &str) -> RequestError {
    RequestError::Invalid(format!("no {what}"))
}

fn bounded(entries: usize) -> Result<(), NetworkError> {
    if entries > MAX_ENTRIES {
        return Err(NetworkError::TooMany(entries));
    }
    Ok(())
}

pub(super) fn interface_order(interface: types::Interface) -> Result<InterfaceOrder, NetworkError> {
    let types::Interface {
        device,
        name,
        IPAddresses: addresses,
        mtu,
        hwAddr: hardware,
        devicePath: path,
        type_: _,
        raw_flags,
        special_fields: _,
    } = interface;
    bounded(addresses.len())?;
    let name = if name.is_empty() { device } else { name };
    let mtu = match mtu {
        0 => None,
        mtu => {
            let number = u32::try_from(mtu);
            Some(number.map_err(|_| words::value("MTU", &mtu.to_string()))?)
        }
    };
    let device = match path.as_str() {
        "" => None,
        path => Some(PciPath::parse(path).ok_or_else(|| words::value("PCI path", path))?),
    };
    let hardware = match hardware.as_str() {
        "" => None,
        hardware => Some(words::hardware(hardware)?),
    };
    Ok(InterfaceOrder {
        name: words::link_name(&name)?,
        hardware,
        device,
        addresses: addresses
            .iter()
            .map(|address| Network::new(&address.address, &address.mask))
            .collect::<Result<_, _>>()?,
        mtu,
        no_arp: raw_flags & NOARP != 0,
    })
}

fn interface_message(interface: Interface) -> types::Interface {
    let Interface {
        index: _,
        name,
        hardware,
        mtu,
        flags,
        kind,
        addresses,
    } = interface;
    let address = |network: Network| types::IPAddress {
        family: family(network.address.is_ipv6()).into(),
        address: network.address.to_string(),
        mask: network.prefix.to_string(),
        ..Default::default()
    };
    types::Interface {
        device: name.clone(),
        name,
        IPAddresses: addresses.into_iter().map(address).collect(),
        mtu: mtu.into(),
        hwAddr: words::hardware_text(&hardware),
        type_: kind,
        raw_flags: flags,
        ..Default::default()
    }
}

pub(super) fn route(route: types::Route) -> Result<Route, NetworkError> {
    let types::Route {
        dest,
        gateway,
        device,
        source,
        scope,
        family,
        flags,
        mtu,
        metric,
        special_fields: _,
    } = route;
    let optional = |text: &str| match text {
        "" => Ok(None),
        text => words::ip(text).map(Some),
    };
    let destination = match dest.as_str() {
        "" | "default" => None,
        dest => Some(Network::parse(dest)?),
    };
    // `0.0.0.0/0` and `::/0` are everywhere, too.
    let everywhere = |network: &Network| network.prefix == 0 && network.address.is_unspecified();
    let (gateway, source) = (optional(&gateway)?, optional(&source)?);
    let v6 = match destination.map(|network| network.address).or(gateway) {
        Some(address) => address.is_ipv6(),
        None => family == IPFamily::v6.into(),
    };
    for address in [gateway, source].into_iter().flatten() {
        if address.is_ipv6() != v6 {
            return Err(words::value(
                "address of the route's family",
                &address.to_string(),
            ));
        }
    }
    Ok(Route {
        destination: destination.filter(|network| !everywhere(network)),
        gateway,
        device: words::link_name(&device)?,
        source,
        scope: u8::try_from(scope).map_err(|_| words::value("scope", &scope.to_string()))?,
        v6,
        flags,
        mtu,
        metric,
    })
}

fn routes_message(routes: Vec<Route>) -> Routes {
    Routes {
        Routes: routes.into_iter().map(route_message).collect(),
        ..Default::default()
    }
}

fn route_message(route: Route) -> types::Route {
    let Route {
        destination,
        gateway,
        device,
        source,
        scope,
        v6,
        flags,
        mtu,
        metric,
    } = route;
    fn text<T: ToString>(value: Option<T>) -> String {
        value.map(|value| value.to_string()).unwrap_or_default()
    }
    types::Route {
        dest: text(destination),
        gateway: text(gateway),
        device,
        source: text(source),
        scope: scope.into(),
        family: family(v6).into(),
        flags,
        mtu,
        metric,
        ..Default::default()
    }
}

pub(super) fn neighbour(neighbour: types::ARPNeighbor) -> Result<Neighbour, NetworkError> {
    let types::ARPNeighbor {
        toIPAddress: to,
        device,
        lladdr,
        state,
        flags,
        special_fields: _,
    } = neighbour;
    let to = to.into_option().unwrap_or_default().address;
    // Some shims write the prefix length behind it.
    let address = Network::parse(&to)?.address;
    let hardware = match lladdr.as_str() {
        "" => None,
        lladdr => Some(words::hardware(lladdr)?),
    };
    Ok(Neighbour {
        address,
        device: words::link_name(&device)?,
        hardware,
        state: u16::try_from(state).map_err(|_| words::value("state", &state.to_string()))?,
        flags: u8::try_from(flags).map_err(|_| words::value("flags", &flags.to_string()))?,
    })
}

fn family(v6: bool) -> IPFamily {
    if v6 { IPFamily::v6 } else { IPFamily::v4 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_named_and_its_values_are_checked() {
        let order = interface_order(types::Interface {
            device: "tap0".into(),
            name: "eth0".into(),
            mtu: 1500,
            hwAddr: "02:00:00:00:00:01".into(),
            devicePath: "02/03".into(),
            raw_flags: NOARP,
            ..Default::default()
        })
        .unwrap();
        assert_eq!(order.name, "eth0");
        assert!(order.no_arp && order.device.is_some());
        for bad in [
            types::Interface {
                name: "../eth0".into(),
                ..Default::default()
            },
            types::Interface {
                name: "eth0".into(),
                mtu: u64::MAX,
                ..Default::default()
            },
            types::Interface {
                name: "eth0".into(),
                devicePath: "../../etc".into(),
                ..Default::default()
            },
        ] {
            assert!(matches!(
                interface_order(bad),
                Err(NetworkError::Value { .. })
            ));
        }
    }

    #[test]
    fn a_routes_family_is_its_addresses_and_otherwise_as_told() {
        let plain = |dest: &str, gateway: &str, family: IPFamily| {
            route(types::Route {
                dest: dest.into(),
                gateway: gateway.into(),
                device: "eth0".into(),
                family: family.into(),
                ..Default::default()
            })
        };
        let default = plain("", "2001:db8::1", IPFamily::v4).unwrap();
        assert!(default.v6 && default.destination.is_none());
        assert!(plain("", "", IPFamily::v6).unwrap().v6);
        assert_eq!(
            plain("0.0.0.0/0", "", IPFamily::v4).unwrap().destination,
            None
        );
        assert!(plain("::/0", "", IPFamily::v4).unwrap().v6);
        assert!(plain("192.0.2.0/24", "2001:db8::1", IPFamily::v4).is_err());
        assert!(plain("nowhere", "", IPFamily::v4).is_err());
    }
}
