//! Waits for a boot and shows how far it is: one line a stage, on a terminal. What it shows comes from the
//! management socket, so it can watch while Start has not returned yet.

use std::{cell::Cell, path::PathBuf, process::ExitCode, time::Duration};

use seed_protocol::seed::management::InstanceStatus;
use seed_shim::{
    containerd::instance::Instance,
    logs::render::human::escaped,
    management::{Client, ClientError, words},
    text::seconds,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};

use super::Context;
use crate::{
    cli::WaitFor,
    error::CliError,
    output::{self, progress},
};

/// From the end of Start until systemd has started everything. Without KVM a minute is possible.
const BOOT_LIMIT: Duration = Duration::from_secs(300);

/// One long poll.
const POLL: Duration = Duration::from_secs(10);

/// Watches one boot. Stages that were shown are not shown again.
#[derive(Debug)]
pub(super) struct Watcher {
    socket: PathBuf,
    begun: Notify,
    shown: Cell<usize>,
}

impl Watcher {
    pub(super) fn new(instance: &Instance) -> Self {
        let socket = instance.paths().management_socket();
        Self {
            socket,
            begun: Notify::new(),
            shown: Cell::new(0),
        }
    }

    /// There is something to watch now.
    pub(super) fn begin(&self) {
        self.begun.notify_one();
    }

    /// Shows stages for ever. Begins when told to.
    pub(super) async fn show(&self) {
        self.begun.notified().await;
        // Whatever goes wrong here, the start itself reports it.
        if let Ok(client) = Client::connect(&self.socket).await {
            let _ = self.watch(&client, |_| false).await;
        }
        std::future::pending().await
    }

    /// Shows stages until the status is as wanted, and returns it.
    async fn watch(
        &self,
        client: &Client,
        wanted: impl Fn(&InstanceStatus) -> bool,
    ) -> Result<InstanceStatus, ClientError> {
        let mut revision = 0;
        loop {
            let status = client.status(revision, POLL).await?;
            for reached in status.stages.iter().skip(self.shown.get()) {
                let stage = reached.stage.enum_value_or_default();
                progress(&format!(
                    "{:>9}  {}",
                    seconds(reached.since_create_ms),
                    words::stage_meaning(stage)
                ));
                self.shown.set(self.shown.get() + 1);
            }
            if wanted(&status) || words::has_ended(&status) {
                return Ok(status);
            }
            if status.revision == revision {
                // A server that does not wait as asked must not make a busy loop.
                sleep(Duration::from_millis(50)).await;
            }
            revision = status.revision;
        }
    }
}

/// Waits as far as asked.
pub(super) async fn until(
    context: &Context<'_>,
    instance: &Instance,
    watcher: &Watcher,
    wait: WaitFor,
) -> Result<(), CliError> {
    if wait != WaitFor::Running {
        return Ok(());
    }
    let client = context.client(instance).await?;
    let deadline = Instant::now() + BOOT_LIMIT;
    match timeout_at(deadline, watcher.watch(&client, words::is_up)).await {
        Ok(status) => match status? {
            status if words::has_ended(&status) => Err(ended(instance, &status)),
            _ => Ok(()),
        },
        Err(_) => Err(CliError::new(
            format!(
                "instance {} is not up after {} s",
                instance.id(),
                BOOT_LIMIT.as_secs()
            ),
            format!(
                "It goes on booting: see 'seed status {0}' and 'seed logs {0}'.",
                instance.id()
            ),
        )),
    }
}

fn ended(instance: &Instance, status: &InstanceStatus) -> CliError {
    let reason = status
        .exit
        .as_ref()
        .map_or("for no known reason", |exit| exit.reason.as_str());
    CliError::new(
        format!("instance {} ended while it booted: {reason}", instance.id()),
        format!(
            "See 'seed logs {0}', then clean up with 'seed stop {0}'.",
            instance.id()
        ),
    )
}

/// Says what has come up.
pub(super) async fn report(
    context: &Context<'_>,
    instance: &Instance,
    took: Duration,
) -> Result<ExitCode, CliError> {
    let status = context
        .client(instance)
        .await?
        .status(0, Duration::ZERO)
        .await?;
    if context.global.json {
        output::print_json(&words::json(&status))?;
        return Ok(ExitCode::SUCCESS);
    }
    let stage = words::stage(status.stage.enum_value_or_default());
    let accel = &status.accel;
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let mut text = format!("{} is {stage} ({}, {accel})\n", instance.id(), seconds(ms));
    for problem in &status.problems {
        text += &format!(
            "  {}: {}\n",
            escaped(&problem.subject),
            escaped(&problem.message)
        );
    }
    for unit in &status.failed_units {
        text += &format!(
            "  {} failed: {}\n",
            escaped(&unit.name),
            escaped(&unit.result)
        );
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
