//! A pod's network, told to the guest: its links by their hardware addresses, then the routes over them.

use std::{net::IpAddr, time::Duration};

use seed_protocol::kata::{
    agent::{Routes, UpdateInterfaceRequest, UpdateRoutesRequest},
    types,
};

use super::client::{Agent, AgentError, within};
use crate::net::Nic;

impl Agent {
    /// `UpdateInterface` for each card, then `UpdateRoutes` for all. Nothing is said where there is none.
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
        self.sorted("UpdateRoutes", result).await.map(drop)
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
