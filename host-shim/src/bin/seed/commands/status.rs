//! `seed status`: what a person wants to know first, on one screen.

use std::{process::ExitCode, time::Duration};

use seed_shim::management::{report, words};

use super::{Context, ps};
use crate::{cli::Which, error::CliError, output};

pub(super) async fn status(context: &Context<'_>, which: Which) -> Result<ExitCode, CliError> {
    let instance = context.pick(which)?;
    let client = match context.client(&instance).await {
        Ok(client) => client,
        // With JSON, a dead instance is data as well.
        Err(_) if context.global.json && instance.record().is_ok() => {
            output::print_json(&ps::dead(&instance))?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => return Err(error),
    };
    let status = client.status(0, Duration::ZERO).await?;
    if context.global.json {
        output::print_json(&words::json(&status))?;
    } else {
        output::print(&report::text(&status))?;
    }
    Ok(ExitCode::SUCCESS)
}
