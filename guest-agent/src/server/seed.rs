//! `seed.v1.Guest`: adapters.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use seed_protocol::seed::{
    v1::{GetStatusRequest, GuestStatus},
    v1_ttrpc,
};
use ttrpc::asynchronous::TtrpcContext;

use crate::agent::Context;

/// Serves `seed.v1.Guest`.
#[derive(Debug)]
pub struct Service {
    ctx: Arc<Context>,
}

impl Service {
    /// Serves with what `ctx` holds.
    pub fn new(ctx: Arc<Context>) -> Self {
        Self { ctx }
    }
}

#[async_trait]
impl v1_ttrpc::Guest for Service {
    async fn get_status(
        &self,
        _: &TtrpcContext,
        request: GetStatusRequest,
    ) -> ttrpc::Result<GuestStatus> {
        let wait = Duration::from_millis(request.wait_ms.into());
        Ok(self.ctx.status.wait_change(request.after_revision, wait).await)
    }
}
