//! Neighbours: who has which hardware address. An entry that is there already is replaced.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::RouteType,
};

use super::{NetworkError, converse, failed, link, words::HARDWARE_BYTES};

/// A neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// The link that leads to it, by its name.
    pub device: String,
    /// Its hardware address.
    pub hardware: Option<[u8; HARDWARE_BYTES]>,
    /// `NUD_*`; 0 means that it stays.
    pub state: u16,
    /// `NTF_*`.
    pub flags: u8,
}

/// Adds or replaces `neighbours`.
pub fn add(neighbours: &[Neighbour]) -> Result<(), NetworkError> {
    let mut kernel = converse()?;
    let links = link::links(&mut kernel)?;
    for neighbour in neighbours {
        let link = links.iter().find(|link| link.name == neighbour.device);
        let link = link.ok_or_else(|| NetworkError::NoLink(neighbour.device.clone()))?;
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::from(neighbour.address);
        message.header.ifindex = link.index;
        message.header.kind = RouteType::Unicast;
        message.header.flags = NeighbourFlags::from_bits_retain(neighbour.flags);
        message.header.state = match neighbour.state {
            0 => NeighbourState::Permanent,
            state => NeighbourState::from(state),
        };
        let destination = neighbour.address.into();
        message
            .attributes
            .push(NeighbourAttribute::Destination(destination));
        if let Some(hardware) = neighbour.hardware {
            let address = NeighbourAttribute::LinkLayerAddress(hardware.to_vec());
            message.attributes.push(address);
        }
        kernel
            .change(
                RouteNetlinkMessage::NewNeighbour(message),
                NLM_F_CREATE | NLM_F_REPLACE,
            )
            .map_err(failed("set the neighbour", neighbour.address))?;
    }
    Ok(())
}
