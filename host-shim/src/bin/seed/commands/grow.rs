//! `seed grow`.

use std::{process::ExitCode, time::Duration};

use seed_shim::{
    spec::{MemoryMib, Vcpus},
    text::{bytes, count},
};
use serde_json::json;

use super::Context;
use crate::{
    cli::Which,
    error::CliError,
    output::{self, progress},
};

pub(super) async fn grow(
    context: &Context<'_>,
    which: Which,
    vcpus: Option<Vcpus>,
    memory: Option<MemoryMib>,
) -> Result<ExitCode, CliError> {
    let instance = context.pick(which)?;
    let id = instance.id();
    let task = instance.task(&instance.record()?).await?;
    progress(&format!("{id} grows"));
    let (vcpus, memory) = (vcpus.map(Vcpus::get), memory.map(MemoryMib::get));
    task.grow(id.as_str(), vcpus, memory)
        .await
        .map_err(|error| {
            CliError::new(
                format!("{id} does not grow: {error}"),
                "See 'seed status' for what it has.",
            )
        })?;
    let status = context
        .client(&instance)
        .await?
        .status(0, Duration::ZERO)
        .await?;
    if context.global.json {
        output::print_json(&json!({
            "name": id.as_str(), "vcpus": status.vcpus, "memory_mib": status.memory_mib,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::print(&format!(
        "{id} has {} and {}\n",
        count(usize::try_from(status.vcpus).unwrap_or_default(), "vCPU"),
        bytes(u64::from(status.memory_mib) << 20)
    ))?;
    Ok(ExitCode::SUCCESS)
}
