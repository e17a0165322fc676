//! Interfaces, routes and neighbours from the host. Not done yet: every method is refused by name, which
//! an unmodified Kata shim takes as the end of the sandbox. Our own shim sends none of them while the
//! guest's network is the user-mode one, which configures itself.

use std::sync::Arc;

use seed_protocol::kata::{agent::*, empty::Empty, types};

use crate::{agent::Context, server::error::RequestError};

pub(super) async fn update_interface(
    _: &Arc<Context>,
    _: UpdateInterfaceRequest,
) -> Result<types::Interface, RequestError> {
    Err(RequestError::Unsupported("UpdateInterface"))
}

pub(super) async fn update_routes(
    _: &Arc<Context>,
    _: UpdateRoutesRequest,
) -> Result<Routes, RequestError> {
    Err(RequestError::Unsupported("UpdateRoutes"))
}

pub(super) async fn list_interfaces(
    _: &Arc<Context>,
    _: ListInterfacesRequest,
) -> Result<Interfaces, RequestError> {
    Err(RequestError::Unsupported("ListInterfaces"))
}

pub(super) async fn list_routes(
    _: &Arc<Context>,
    _: ListRoutesRequest,
) -> Result<Routes, RequestError> {
    Err(RequestError::Unsupported("ListRoutes"))
}

pub(super) async fn add_arp_neighbors(
    _: &Arc<Context>,
    _: AddARPNeighborsRequest,
) -> Result<Empty, RequestError> {
    Err(RequestError::Unsupported("AddARPNeighbors"))
}
