//! A pod's network, told to the guest: its links by their hardware addresses, then the routes over them, then the
//! neighbours that it shall not ask for.

use std::{net::IpAddr, time::Duration};

use seed_protocol::kata::{
    agent::{
        ARPNeighbors, AddARPNeighborsRequest, Routes, UpdateInterfaceRequest, UpdateRoutesRequest,
    },
    types,
};

use super::client::{Agent, AgentError, within};
use crate::net::{Nic, mac_text};

impl Agent {
    /// `UpdateInterface` for each card, then `UpdateRoutes` and `AddARPNeighbors` for all. Nothing is said where
    /// there is none.
    pub async fn update_network(&self, nics: &[Nic], limit: Duration) -> Result<(), AgentError> {
        if nics.is_empty() {
            return Ok(());
        }
        let kata = self.kata().await?;
        for nic in nics {
            let request = UpdateInterfaceRequest {
                interface: Some(interface(nic)).into(),
                ..Default::default()
            };
            let result = kata.update_interface(within(limit), &request).await;
            self.sorted("UpdateInterface", result).await?;
        }
        let routes = Routes {
            Routes: nics.iter().flat_map(routes).collect(),
            ..Default::default()
        };
        let request = UpdateRoutesRequest {
            routes: Some(routes).into(),
            ..Default::default()
        };
        let result = kata.update_routes(within(limit), &request).await;
        self.sorted("UpdateRoutes", result).await?;
        let neighbours: Vec<_> = nics.iter().flat_map(neighbours).collect();
        if neighbours.is_empty() {
            return Ok(());
        }
        let neighbours = ARPNeighbors {
            ARPNeighbors: neighbours,
            ..Default::default()
        };
        let request = AddARPNeighborsRequest {
            neighbors: Some(neighbours).into(),
            ..Default::default()
        };
        let result = kata.add_arp_neighbors(within(limit), &request).await;
        self.sorted("AddARPNeighbors", result).await.map(drop)
    }
}

fn interface(nic: &Nic) -> types::Interface {
    let address = |(address, prefix): &(IpAddr, u8)| types::IPAddress {
        family: family(address.is_ipv6()).into(),
        address: address.to_string(),
        mask: prefix.to_string(),
        ..Default::default()
    };
    types::Interface {
        device: nic.name.clone(),
        name: nic.name.clone(),
        IPAddresses: nic.addresses.iter().map(address).collect(),
        mtu: nic.mtu.into(),
        hwAddr: nic.mac.clone(),
        ..Default::default()
    }
}

fn routes(nic: &Nic) -> impl Iterator<Item = types::Route> {
    let text = |address: &Option<IpAddr>| address.map(|a| a.to_string()).unwrap_or_default();
    nic.routes.iter().map(move |route| types::Route {
        dest: match route.destination {
            Some((address, prefix)) => format!("{address}/{prefix}"),
            None => String::new(),
        },
        gateway: text(&route.gateway),
        device: nic.name.clone(),
        source: text(&route.source),
        scope: route.scope.into(),
        family: family(route.six).into(),
        flags: route.flags,
        mtu: route.mtu,
        metric: route.metric,
        ..Default::default()
    })
}

fn neighbours(nic: &Nic) -> impl Iterator<Item = types::ARPNeighbor> {
    nic.neighbours.iter().map(|neighbour| types::ARPNeighbor {
        toIPAddress: Some(types::IPAddress {
            family: family(neighbour.address.is_ipv6()).into(),
            address: neighbour.address.to_string(),
            ..Default::default()
        })
        .into(),
        device: nic.name.clone(),
        lladdr: mac_text(&neighbour.mac),
        // 0 is one that stays.
        ..Default::default()
    })
}

fn family(six: bool) -> types::IPFamily {
    if six {
        types::IPFamily::v6
    } else {
        types::IPFamily::v4
    }
}
