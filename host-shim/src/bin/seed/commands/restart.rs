//! `seed restart`: stop with everything kept, start from the record.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use seed_shim::containerd::StopOptions;

use super::{Context, doctor, run, wait};
use crate::{
    cli::{WaitFor, Which},
    error::CliError,
    output::progress,
};

pub(super) async fn restart(
    context: &Context<'_>,
    which: Which,
    limit: Duration,
    until: WaitFor,
) -> Result<ExitCode, CliError> {
    let instance = context.pick(which)?;
    let record = instance.record()?;
    // Better now than with the instance stopped.
    doctor::programs_or_error(&context.config)?;
    progress(&format!("stopping {}", instance.id()));
    instance
        .stop(StopOptions {
            kill: false,
            limit,
            keep: true,
        })
        .await?;
    let begun = Instant::now();
    run::start(context, &instance, record, true, until).await?;
    wait::report(context, &instance, begun.elapsed()).await
}
