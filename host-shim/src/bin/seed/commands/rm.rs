//! `seed rm`.

use std::{path::PathBuf, process::ExitCode};

use seed_shim::names::ContainerId;
use serde_json::json;

use super::Context;
use crate::{error::CliError, output};

pub(super) fn rm(context: &Context<'_>, id: ContainerId, yes: bool) -> Result<ExitCode, CliError> {
    let instance = context.named(id);
    if !yes {
        let belongings = instance.belongings();
        if belongings.is_empty() || instance.paths().run_dir().exists() {
            // Nothing can be deleted: this says why.
            instance.remove()?;
        }
        let list: Vec<String> = belongings
            .iter()
            .map(|dir| dir.display().to_string())
            .collect();
        return Err(CliError::new(
            format!("this would delete {}", list.join(", ")),
            format!("If you mean it: seed rm {} --yes", instance.id()),
        ));
    }
    let removed = instance.remove()?;
    if context.global.json {
        output::print_json(&json!({ "name": instance.id().as_str(), "removed": removed }))?;
        return Ok(ExitCode::SUCCESS);
    }
    told(&removed)
}

/// Tells what was deleted, a line each.
pub(super) fn told(removed: &[PathBuf]) -> Result<ExitCode, CliError> {
    let lines = removed
        .iter()
        .map(|dir| format!("deleted {}\n", dir.display()));
    output::print(&lines.collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}
