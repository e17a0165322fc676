//! `seed stop`.

use std::{process::ExitCode, time::Duration};

use seed_shim::containerd::StopOptions;
use serde_json::json;

use super::Context;
use crate::{
    cli::Which,
    error::CliError,
    output::{self, progress},
};

pub(super) async fn stop(
    context: &Context<'_>,
    which: Which,
    kill: bool,
    limit: Duration,
) -> Result<ExitCode, CliError> {
    let instance = context.pick(which)?;
    progress(&format!("stopping {}", instance.id()));
    instance
        .stop(StopOptions {
            kill,
            limit,
            keep: false,
        })
        .await?;
    let kept = instance.belongings();
    if context.global.json {
        output::print_json(&json!({ "name": instance.id().as_str(), "kept": kept }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = format!("{} is stopped\n", instance.id());
    for dir in kept {
        text += &format!("  kept: {}\n", dir.display());
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
