//! Links and their addresses. A link is found by its hardware address, as the host knows it, and otherwise
//! by the name that it shall have; then it gets name, MTU and addresses and is brought up.

use std::{
    net::IpAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};

use seed_netlink::Conversation;

use super::{
    NetworkError, converse, failed,
    words::{HARDWARE_BYTES, Network},
};
use crate::sys::pci::PciPath;

/// How often a device that shall appear is looked for.
const POLL: Duration = Duration::from_millis(20);

/// The name that a link has while two swap theirs; no host asks for it.
const SWAPPED: &str = "seed-swapped";

/// What the host wants of a link.
#[derive(Debug, Clone)]
pub struct InterfaceOrder {
    /// The name that it shall have.
    pub name: String,
    /// How it is recognised.
    pub hardware: Option<[u8; HARDWARE_BYTES]>,
    /// Where its device sits, when the host has only just attached it.
    pub device: Option<PciPath>,
    /// Its addresses; others that it has are left.
    pub addresses: Vec<Network>,
    /// Its MTU; `None` leaves it.
    pub mtu: Option<u32>,
    /// It shall not ask for its neighbours.
    pub no_arp: bool,
}

/// A link as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub hardware: Vec<u8>,
    /// Its MTU.
    pub mtu: u32,
    /// `IFF_*` flags.
    pub flags: u32,
    /// Its kind, such as `veth`; empty for a device.
    pub kind: String,
    /// Its addresses.
    pub addresses: Vec<Network>,
}

/// Makes a link as `order` says and gives it back as it is then. Waits for it for at most `device_limit`:
/// this early in the boot its driver may be on its way still.
pub fn update(
    order: &InterfaceOrder,
    sys_devices: &Path,
    device_limit: Duration,
) -> Result<Interface, NetworkError> {
    if let Some(path) = &order.device {
        wait_for(path, sys_devices, device_limit)?;
    }
    let mut kernel = converse()?;
    let deadline = Instant::now() + device_limit;
    let all = loop {
        let all = links(&mut kernel)?;
        match find(&all, order) {
            Err(_) if Instant::now() < deadline => thread::sleep(POLL),
            _ => break all,
        }
    };
    let link = find(&all, order)?;
    let down = link.flags & LinkFlags::Up.bits() != 0;
    if down && (link.name != order.name || !is_hardware(link, order)) {
        // Neither name nor hardware address of a link change while it is up.
        set_up(&mut kernel, link, false)?;
    }
    if let Some(hardware) = order.hardware.filter(|hardware| link.hardware != *hardware) {
        let attributes = vec![LinkAttribute::Address(hardware.to_vec())];
        set(&mut kernel, link, attributes)
            .map_err(failed("set hardware address of", &link.name))?;
    }
    rename(&mut kernel, &all, link, &order.name)?;
    if let Some(mtu) = order.mtu.filter(|mtu| link.mtu != *mtu) {
        let attributes = vec![LinkAttribute::Mtu(mtu)];
        set(&mut kernel, link, attributes).map_err(failed("set MTU of", &order.name))?;
    }
    if order.no_arp {
        set_flags(&mut kernel, link.index, LinkFlags::Noarp, LinkFlags::Noarp)
            .map_err(failed("set NOARP of", &order.name))?;
    }
    // An IPv6 address goes when its link goes down, so addresses come last.
    set_up(&mut kernel, link, true)?;
    for network in &order.addresses {
        add_address(&mut kernel, link.index, *network).map_err(failed("add address", network))?;
    }
    let mut now = with_addresses(&mut kernel)?;
    let at = now.iter().position(|now| now.index == link.index);
    at.map(|at| now.swap_remove(at))
        .ok_or_else(|| NetworkError::NoLink(order.name.clone()))
}

/// All links with their addresses.
pub fn list() -> Result<Vec<Interface>, NetworkError> {
    with_addresses(&mut converse()?)
}

fn wait_for(path: &PciPath, sys_devices: &Path, limit: Duration) -> Result<(), NetworkError> {
    let deadline = Instant::now() + limit;
    loop {
        let found = path.find_class(sys_devices, "net");
        if found.map_err(failed("look for", path))?.is_some() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(NetworkError::NoDevice(path.clone()));
        }
        thread::sleep(POLL);
    }
}

fn find<'l>(all: &'l [Interface], order: &InterfaceOrder) -> Result<&'l Interface, NetworkError> {
    let loopback = LinkFlags::Loopback.bits();
    let by_hardware = || {
        all.iter()
            .find(|link| link.flags & loopback == 0 && is_hardware(link, order))
    };
    let by_name = || all.iter().find(|link| link.name == order.name);
    match order.hardware {
        Some(_) => by_hardware().or_else(by_name),
        None => by_name(),
    }
    .ok_or_else(|| NetworkError::NoLink(order.name.clone()))
}

/// True as well when the host names no address.
fn is_hardware(link: &Interface, order: &InterfaceOrder) -> bool {
    order
        .hardware
        .is_none_or(|hardware| link.hardware == hardware)
}

/// Gives `link` its name. A link that has that name already gets the old one in return.
fn rename(
    kernel: &mut Conversation,
    all: &[Interface],
    link: &Interface,
    name: &str,
) -> Result<(), NetworkError> {
    if link.name == name {
        return Ok(());
    }
    let mut call = |link: &Interface, name: &str| {
        let attributes = vec![LinkAttribute::IfName(name.to_owned())];
        set(kernel, link, attributes).map_err(failed("rename", format!("{} to {name}", link.name)))
    };
    let Some(holder) = all.iter().find(|other| other.name == name) else {
        return call(link, name);
    };
    call(link, SWAPPED)?;
    let was_up = holder.flags & LinkFlags::Up.bits() != 0;
    if was_up {
        set_up(kernel, holder, false)?;
    }
    let mut call = |link: &Interface, name: &str| {
        let attributes = vec![LinkAttribute::IfName(name.to_owned())];
        set(kernel, link, attributes).map_err(failed("rename", format!("{} to {name}", link.name)))
    };
    call(holder, &link.name)?;
    call(link, name)?;
    if was_up {
        set_up(kernel, holder, true)?;
    }
    Ok(())
}

fn set(
    kernel: &mut Conversation,
    link: &Interface,
    attributes: Vec<LinkAttribute>,
) -> std::io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = link.index;
    message.attributes = attributes;
    kernel.change(RouteNetlinkMessage::SetLink(message), 0)
}

fn set_up(kernel: &mut Conversation, link: &Interface, up: bool) -> Result<(), NetworkError> {
    let (flags, what) = if up {
        (LinkFlags::Up, "bring up")
    } else {
        (LinkFlags::empty(), "bring down")
    };
    set_flags(kernel, link.index, flags, LinkFlags::Up).map_err(failed(what, &link.name))
}

fn set_flags(
    kernel: &mut Conversation,
    index: u32,
    flags: LinkFlags,
    mask: LinkFlags,
) -> std::io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = flags;
    message.header.change_mask = mask;
    kernel.change(RouteNetlinkMessage::SetLink(message), 0)
}

/// The host gave the address, so nobody else has it: an IPv6 address is usable at once, without the
/// second that duplicate detection takes.
fn add_address(kernel: &mut Conversation, index: u32, network: Network) -> std::io::Result<()> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::from(network.address);
    message.header.prefix_len = network.prefix;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(network.address),
        AddressAttribute::Address(network.address),
    ];
    match network.address {
        IpAddr::V4(address) if network.prefix < 31 => {
            let hosts = u32::MAX.checked_shr(network.prefix.into()).unwrap_or(0);
            let broadcast = address | std::net::Ipv4Addr::from(hosts);
            message
                .attributes
                .push(AddressAttribute::Broadcast(broadcast));
        }
        IpAddr::V4(_) => {}
        IpAddr::V6(_) => {
            let flags = AddressAttribute::Flags(AddressFlags::Nodad);
            message.attributes.push(flags);
        }
    }
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    kernel.change(RouteNetlinkMessage::NewAddress(message), flags)
}

/// All links, without their addresses.
pub(super) fn links(kernel: &mut Conversation) -> Result<Vec<Interface>, NetworkError> {
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let found = kernel.dump(request).map_err(failed("list", "links"))?;
    Ok(found.into_iter().filter_map(interface).collect())
}

fn interface(message: RouteNetlinkMessage) -> Option<Interface> {
    let RouteNetlinkMessage::NewLink(message) = message else {
        return None;
    };
    let mut link = Interface {
        index: message.header.index,
        flags: message.header.flags.bits(),
        ..Interface::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(hardware) => link.hardware = hardware,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::LinkInfo(infos) => {
                let kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
                link.kind = kind.unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(link)
}

fn with_addresses(kernel: &mut Conversation) -> Result<Vec<Interface>, NetworkError> {
    let mut all = links(kernel)?;
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    for message in kernel.dump(request).map_err(failed("list", "addresses"))? {
        let RouteNetlinkMessage::NewAddress(message) = message else {
            continue;
        };
        let prefix = message.header.prefix_len;
        let (mut local, mut peer) = (None, None);
        for attribute in message.attributes {
            match attribute {
                AddressAttribute::Local(address) => local = Some(address),
                AddressAttribute::Address(address) => peer = Some(address),
                _ => {}
            }
        }
        // Of a point-to-point link the first is ours; IPv6 has the second only.
        let (Some(address), Some(link)) = (
            local.or(peer),
            all.iter_mut()
                .find(|link| link.index == message.header.index),
        ) else {
            continue;
        };
        link.addresses.push(Network { address, prefix });
    }
    Ok(all)
}
