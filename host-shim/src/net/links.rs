//! What the pod's network looks like: its links with their addresses, routes and lasting neighbours, as CNI's
//! plugins left them.

use std::net::IpAddr;

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage, AddressScope},
    link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
        RouteScope, RouteType,
    },
};
use seed_netlink::Conversation;

use super::NetError;

/// A link of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u32,
    pub(super) addresses: Vec<(IpAddr, u8)>,
    pub(super) routes: Vec<Route>,
    pub(super) neighbours: Vec<Neighbour>,
}

/// Who has which hardware address, for good: some plugins write down their gateway's, which answers no question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address.
    pub mac: [u8; 6],
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to; everywhere without one.
    pub destination: Option<(IpAddr, u8)>,
    /// Over whom.
    pub gateway: Option<IpAddr>,
    /// From which address.
    pub source: Option<IpAddr>,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// It is IPv6's.
    pub six: bool,
    /// `RTNH_F_*`, those that are orders: the rest is what the kernel thinks of it.
    pub flags: u32,
    /// The path's MTU; 0 is the link's.
    pub mtu: u32,
    /// Of two routes to the same place the one with the lower is taken.
    pub metric: u32,
}

/// Every Ethernet link but the loopback, by itself: what belongs to it is not asked for.
pub(super) fn bare(kernel: &mut Conversation) -> Result<Vec<Link>, NetError> {
    let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let what = "listing links";
    let answers = kernel
        .dump(message)
        .map_err(|source| NetError::Kernel { what, source })?;
    Ok(answers.iter().filter_map(link).collect())
}

/// Every Ethernet link but the loopback and those named with `not`.
pub(super) fn list(kernel: &mut Conversation, not: &str) -> Result<Vec<Link>, NetError> {
    let asked = |what| move |source| NetError::Kernel { what, source };
    let mut links = bare(kernel)?;
    links.retain(|link| !link.name.starts_with(not));
    let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    for answer in kernel.dump(message).map_err(asked("listing addresses"))? {
        if let Some((index, address)) = address(&answer)
            && let Some(link) = links.iter_mut().find(|link| link.index == index)
        {
            link.addresses.push(address);
        }
    }
    let message = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    for answer in kernel.dump(message).map_err(asked("listing neighbours"))? {
        if let Some((index, neighbour)) = neighbour(&answer)
            && let Some(link) = links.iter_mut().find(|link| link.index == index)
        {
            link.neighbours.push(neighbour);
        }
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        let message = RouteNetlinkMessage::GetRoute(message);
        for answer in kernel.dump(message).map_err(asked("listing routes"))? {
            if let Some((index, route)) = route(&answer)
                && let Some(link) = links.iter_mut().find(|link| link.index == index)
            {
                link.routes.push(route);
            }
        }
    }
    Ok(links)
}

fn link(answer: &RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = answer else {
        return None;
    };
    if message.header.link_layer_type != LinkLayerType::Ether
        || message.header.flags.contains(LinkFlags::Loopback)
    {
        return None;
    }
    let (mut name, mut mac, mut mtu) = (None, None, 1500);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Address(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            LinkAttribute::Mtu(bytes) => mtu = *bytes,
            _ => {}
        }
    }
    Some(Link {
        index: message.header.index,
        name: name?,
        mac: mac?,
        mtu,
        addresses: Vec::new(),
        routes: Vec::new(),
        neighbours: Vec::new(),
    })
}

/// An address that the guest shall have. It makes its link-local ones by itself.
fn address(answer: &RouteNetlinkMessage) -> Option<(u32, (IpAddr, u8))> {
    let RouteNetlinkMessage::NewAddress(message) = answer else {
        return None;
    };
    if message.header.scope == AddressScope::Link {
        return None;
    }
    // For IPv4 the local address is an attribute of its own: `Address` is the peer's on a point-to-point link.
    let local = message.attributes.iter().find_map(|one| match one {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = message.attributes.iter().find_map(|one| match one {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    Some((
        message.header.index,
        (local.or(address)?, message.header.prefix_len),
    ))
}

/// A neighbour that the guest shall know. It finds the others by itself.
fn neighbour(answer: &RouteNetlinkMessage) -> Option<(u32, Neighbour)> {
    let RouteNetlinkMessage::NewNeighbour(message) = answer else {
        return None;
    };
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(four)) => {
                address = Some(IpAddr::from(*four));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(six)) => {
                address = Some(IpAddr::from(*six));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let (address, mac) = (address?, mac?);
    Some((message.header.ifindex, Neighbour { address, mac }))
}

/// A route that the guest shall have: the kernel makes those to its own addresses by itself.
fn route(answer: &RouteNetlinkMessage) -> Option<(u32, Route)> {
    let RouteNetlinkMessage::NewRoute(message) = answer else {
        return None;
    };
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let (mut index, mut to, mut gateway, mut source) = (None, None, None, None);
    let (mut mtu, mut metric) = (0, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(number) => index = Some(*number),
            RouteAttribute::Destination(address) => to = ip(address),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(path_mtu).unwrap_or(0);
            }
            _ => {}
        }
    }
    let six = header.address_family == AddressFamily::Inet6;
    let own = to.is_some_and(|address| match address {
        IpAddr::V6(six) => six.is_unicast_link_local() || six.is_multicast(),
        IpAddr::V4(_) => false,
    });
    if own || header.protocol == netlink_packet_route::route::RouteProtocol::Kernel {
        return None;
    }
    Some((
        index?,
        Route {
            destination: to.map(|address| (address, header.destination_prefix_length)),
            gateway,
            source,
            scope: match header.scope {
                RouteScope::Universe => 0,
                RouteScope::Site => 200,
                RouteScope::Link => 253,
                RouteScope::Host => 254,
                _ => 0,
            },
            six,
            flags: (header.flags & (RouteFlags::Onlink | RouteFlags::Pervasive)).bits(),
            mtu,
            metric,
        },
    ))
}

fn path_mtu(metric: &RouteMetric) -> Option<u32> {
    match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}
