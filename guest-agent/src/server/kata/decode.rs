//! A request's bytes up to the point where something would be done: decoded, converted, checked, and dropped.
//! The way is the server's own; who drives it are the fuzz targets and whoever wants to know whether a
//! request can be meant. It never changes the guest.

use std::fmt;

use protobuf::Message;
use seed_protocol::kata::agent::*;

use super::{container, network, process, sandbox};
use crate::{config::Instance, server::error::RequestError};

/// The requests that carry paths, mounts, environment, or words for links and routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// `CreateSandbox`.
    Sandbox,
    /// `CreateContainer`.
    Container,
    /// `ExecProcess`.
    Exec,
    /// `UpdateInterface`.
    Interface,
    /// `UpdateRoutes`.
    Routes,
    /// `AddARPNeighbors`.
    Neighbours,
}

/// Why a request would be refused.
#[derive(Debug)]
pub struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        Self(ttrpc::Error::from(error).to_string())
    }
}

/// Reads `bytes` as this request, in a guest whose closure says `closure`.
pub fn check(request: Request, bytes: &[u8], closure: &Instance) -> Result<(), Refusal> {
    match request {
        Request::Sandbox => drop(sandbox::setup(message(bytes)?)?),
        Request::Container => {
            let CreateContainerRequest { storages, OCI, .. } = message(bytes)?;
            let spec = OCI.unwrap_or_default();
            drop(container::order(spec, storages, closure)?);
        }
        Request::Exec => {
            let ExecProcessRequest {
                exec_id, process, ..
            } = message(bytes)?;
            let spec = process::spec(process.unwrap_or_default())?;
            spec.check(&exec_id).map_err(RequestError::from)?;
        }
        Request::Interface => {
            let UpdateInterfaceRequest { interface, .. } = message(bytes)?;
            network::interface_order(interface.unwrap_or_default()).map_err(RequestError::from)?;
        }
        Request::Routes => {
            let UpdateRoutesRequest { routes, .. } = message(bytes)?;
            for route in routes.unwrap_or_default().Routes {
                network::route(route).map_err(RequestError::from)?;
            }
        }
        Request::Neighbours => {
            let AddARPNeighborsRequest { neighbors, .. } = message(bytes)?;
            for neighbour in neighbors.unwrap_or_default().ARPNeighbors {
                network::neighbour(neighbour).map_err(RequestError::from)?;
            }
        }
    }
    Ok(())
}

fn message<M: Message>(bytes: &[u8]) -> Result<M, Refusal> {
    M::parse_from_bytes(bytes).map_err(|error| Refusal(error.to_string()))
}
