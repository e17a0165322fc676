//! `seed status`: what a person wants to know first, on one screen.

use std::{process::ExitCode, time::Duration};

use seed_shim::{
    containerd::instance::Instance,
    data::json_line,
    management::{report, words},
};
use tokio::time::sleep;

use super::{Context, ps};
use crate::{cli::Which, error::CliError, output};

/// `--watch 0` is no busy loop.
const LEAST_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn status(
    context: &Context<'_>,
    which: Which,
    watch: Option<Duration>,
) -> Result<ExitCode, CliError> {
    let instance = context.pick(which)?;
    let Some(every) = watch else {
        let now = look(context, &instance).await?;
        output::print(&now)?;
        return Ok(ExitCode::SUCCESS);
    };
    let in_place = output::stdout_is_terminal() && !context.global.json;
    let mut seen = false;
    loop {
        match look(context, &instance).await {
            Ok(now) => {
                seen = true;
                show(&now, in_place)?;
            }
            // It was removed while we watched: this is the end, and no failure.
            Err(_) if seen && !instance.paths().run_dir().exists() => {
                return Ok(ExitCode::SUCCESS);
            }
            // Between the stop and the start of a restart it has no shim.
            Err(error) if seen => {
                if !context.global.json {
                    show(&error.to_string(), in_place)?;
                }
            }
            Err(error) => return Err(error),
        }
        sleep(every.max(LEAST_PAUSE)).await;
    }
}

/// Cursor home, nothing below it, and the text (ECMA-48).
fn show(text: &str, in_place: bool) -> Result<(), CliError> {
    if in_place {
        output::print("\x1b[H\x1b[2J")?;
    }
    output::print(text)
}

/// The status as it is printed.
async fn look(context: &Context<'_>, instance: &Instance) -> Result<String, CliError> {
    let client = match context.client(instance).await {
        Ok(client) => client,
        // With JSON, a dead instance is data as well.
        Err(_) if context.global.json && instance.record().is_ok() => {
            return Ok(json_line(&ps::dead(instance)));
        }
        Err(error) => return Err(error),
    };
    let status = client.status(0, Duration::ZERO).await?;
    let usage = client.usage().await?;
    if context.global.json {
        let mut json = words::json(&status);
        json["usage"] = words::usage_json(&usage);
        return Ok(json_line(&json));
    }
    Ok(report::text(&status) + &report::uses(&usage))
}
