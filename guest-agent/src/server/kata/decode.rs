//! A request's bytes up to the point where something would be done: decoded, converted, checked, and dropped.
//! The way is the server's own; who drives it are the fuzz targets and whoever wants to know whether a
//! request can be meant. It never changes the guest.

use std::{fmt, path::Path};

use protobuf::Message;
use seed_protocol::{
    kata::agent::*,
    seed::v1::{ControlUnitRequest, ListUnitsRequest, ReadJournalRequest, ShowUnitRequest},
};

use super::{container, network, process, sandbox, volumes};
use crate::{
    config::Instance,
    server::{error::RequestError, seed},
    storage::online,
    systemd::complete_patterns,
};

/// The requests that carry paths, mounts, environment, words for links and routes, places in a journal, or units'
/// names. What `seed.v1` has beside these carries nothing but numbers.
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
    /// `UpdateEphemeralMounts`.
    Ephemeral,
    /// `AddSwap`.
    Swap,
    /// `AddSwapPath`.
    SwapPath,
    /// `GetVolumeStats`.
    VolumeStats,
    /// `ResizeVolume`.
    Resize,
    /// `seed.v1`'s `ReadJournal`.
    Journal,
    /// `seed.v1`'s `ListUnits`.
    Units,
    /// `seed.v1`'s `ControlUnit`.
    Control,
    /// `seed.v1`'s `ShowUnit`.
    Show,
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
        Request::Ephemeral => drop(sandbox::ephemeral(message(bytes)?)?),
        Request::Swap => drop(volumes::swap_disk(&message(bytes)?)?),
        Request::SwapPath => drop(volumes::swap_node(&message(bytes)?, Path::new("/dev"))?),
        Request::VolumeStats => {
            let VolumeStatsRequest {
                volume_guest_path, ..
            } = message(bytes)?;
            online::volume_path(&volume_guest_path).map_err(RequestError::from)?;
        }
        Request::Resize => {
            let ResizeVolumeRequest {
                volume_guest_path, ..
            } = message(bytes)?;
            online::volume_path(&volume_guest_path).map_err(RequestError::from)?;
        }
        Request::Journal => {
            let request: ReadJournalRequest = message(bytes)?;
            seed::journal_request(request)?;
        }
        Request::Units => {
            let ListUnitsRequest { patterns, .. } = message(bytes)?;
            complete_patterns(&patterns).map_err(RequestError::from)?;
        }
        Request::Control => {
            let request: ControlUnitRequest = message(bytes)?;
            seed::control(&request)?;
        }
        Request::Show => {
            let request: ShowUnitRequest = message(bytes)?;
            seed::shown(&request)?;
        }
    }
    Ok(())
}

fn message<M: Message>(bytes: &[u8]) -> Result<M, Refusal> {
    M::parse_from_bytes(bytes).map_err(|error| Refusal(error.to_string()))
}
