//! Routes of the main table. Those without a gateway come first, for the others are reached through them;
//! a route that is there already is replaced, and none is taken away.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
        RouteProtocol, RouteScope, RouteType,
    },
};

use seed_netlink::Conversation;

use super::{NetworkError, converse, failed, link, words::Network};

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to; `None` is everywhere.
    pub destination: Option<Network>,
    /// Over whom.
    pub gateway: Option<IpAddr>,
    /// Over which link, by its name.
    pub device: String,
    /// Our own address on the way.
    pub source: Option<IpAddr>,
    /// How far its destinations are, `RT_SCOPE_*`; only IPv4 knows it.
    pub scope: u8,
    /// IPv6, for a route to everywhere.
    pub v6: bool,
    /// `RTNH_F_*`.
    pub flags: u32,
    /// The path's MTU; 0 leaves it to the kernel.
    pub mtu: u32,
    /// Of two routes to the same place the one with the lower is taken; 0 leaves it to the kernel.
    pub metric: u32,
}

/// Adds or replaces `routes` and gives back all that there are then.
pub fn update(mut routes: Vec<Route>) -> Result<Vec<Route>, NetworkError> {
    let mut kernel = converse()?;
    routes.sort_by_key(|route| route.gateway.is_some());
    let links = link::links(&mut kernel)?;
    for route in &routes {
        let index = links
            .iter()
            .find(|link| link.name == route.device)
            .map(|link| link.index)
            .ok_or_else(|| NetworkError::NoLink(route.device.clone()))?;
        let message = RouteNetlinkMessage::NewRoute(message(route, index));
        kernel
            .change(message, NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(failed("set the route to", describe(route)))?;
    }
    all(&mut kernel, &links)
}

/// All routes of the main table.
pub fn list() -> Result<Vec<Route>, NetworkError> {
    let mut kernel = converse()?;
    let links = link::links(&mut kernel)?;
    all(&mut kernel, &links)
}

fn describe(route: &Route) -> String {
    match route.destination {
        Some(network) => network.to_string(),
        None => "everywhere".to_owned(),
    }
}

fn message(route: &Route, index: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = if route.v6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    message.header.scope = RouteScope::from(route.scope);
    message.header.flags = RouteFlags::from_bits_retain(route.flags);
    message.attributes.push(RouteAttribute::Oif(index));
    if let Some(network) = route.destination {
        message.header.destination_prefix_length = network.prefix;
        let address = base(network).into();
        message
            .attributes
            .push(RouteAttribute::Destination(address));
    }
    if let Some(gateway) = route.gateway {
        let address = RouteAddress::from(gateway);
        message.attributes.push(RouteAttribute::Gateway(address));
    }
    if let Some(source) = route.source {
        let address = RouteAddress::from(source);
        message.attributes.push(RouteAttribute::PrefSource(address));
    }
    if route.mtu != 0 {
        let metrics = vec![RouteMetric::Mtu(route.mtu)];
        message.attributes.push(RouteAttribute::Metrics(metrics));
    }
    if route.metric != 0 {
        let priority = RouteAttribute::Priority(route.metric);
        message.attributes.push(priority);
    }
    message
}

/// The network's first address: the kernel refuses a destination with a host's part.
fn base(network: Network) -> IpAddr {
    match network.address {
        IpAddr::V4(address) => {
            let hosts = u32::MAX.checked_shr(network.prefix.into()).unwrap_or(0);
            IpAddr::V4(address & Ipv4Addr::from(!hosts))
        }
        IpAddr::V6(address) => {
            let hosts = u128::MAX.checked_shr(network.prefix.into()).unwrap_or(0);
            IpAddr::V6(address & Ipv6Addr::from(!hosts))
        }
    }
}

fn all(kernel: &mut Conversation, links: &[link::Interface]) -> Result<Vec<Route>, NetworkError> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let found = kernel.dump(RouteNetlinkMessage::GetRoute(request));
        for message in found.map_err(failed("list", "routes"))? {
            if let RouteNetlinkMessage::NewRoute(message) = message {
                routes.extend(told(message, links));
            }
        }
    }
    Ok(routes)
}

/// What is said of a route; `None` for those that only the kernel uses (local, broadcast, clones).
fn told(message: RouteMessage, links: &[link::Interface]) -> Option<Route> {
    let header = message.header;
    let plain = header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast
        && !header.flags.contains(RouteFlags::Cloned);
    if !plain {
        return None;
    }
    let mut route = Route {
        destination: None,
        gateway: None,
        device: String::new(),
        source: None,
        scope: u8::from(header.scope),
        v6: header.address_family == AddressFamily::Inet6,
        flags: header.flags.bits(),
        mtu: 0,
        metric: 0,
    };
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                let prefix = header.destination_prefix_length;
                let network = |address| Network { address, prefix };
                route.destination = plain_address(&address).map(network);
            }
            RouteAttribute::Gateway(address) => route.gateway = plain_address(&address),
            RouteAttribute::PrefSource(address) => route.source = plain_address(&address),
            RouteAttribute::Oif(index) => {
                let link = links.iter().find(|link| link.index == index)?;
                route.device.clone_from(&link.name);
            }
            RouteAttribute::Priority(metric) => route.metric = metric,
            RouteAttribute::Metrics(metrics) => {
                let mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
                route.mtu = mtu.unwrap_or(0);
            }
            _ => {}
        }
    }
    Some(route)
}

fn plain_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_sent_without_its_hosts_part() {
        for (text, wanted) in [
            ("192.0.2.77/24", "192.0.2.0"),
            ("192.0.2.77", "192.0.2.77"),
            ("192.0.2.77/0", "0.0.0.0"),
            ("2001:db8::7/64", "2001:db8::"),
            ("2001:db8::7", "2001:db8::7"),
        ] {
            let base = base(Network::parse(text).unwrap());
            assert_eq!(base.to_string(), wanted);
        }
    }
}
