//! The task that keeps the connection to systemd and tells the status board what systemd says: its state
//! (`starting`, `running`, `degraded`...) and the units that failed.
//!
//! systemd does not announce changes of `SystemState`, but for the end of the boot. So after the boot every job that ends
//! and every unit that changes is taken as a hint to ask again, at most once in [`SETTLE`]; a slow poll catches the rest.
//! During the boot there would be hundreds of hints a second, each of which takes its time from the boot.

use std::{path::PathBuf, sync::Arc, time::Duration};

use seed_protocol::seed::v1::{FailedUnit, Stage};
use tokio::{select, sync::watch, time::sleep};
use tracing::{debug, info, warn};
use zbus::{Proxy, proxy::CacheProperties};

use super::{EXEC_UNIT_PREFIX, Link, bus::Bus, proxy::ListedUnit, unit::kind_interface};
use crate::{status::Board, sys::descriptors::Keeper};

/// How often we look whether the bus is there. Early boot has no event that would say so: inotify on
/// `/run/dbus` cannot be set before the directory exists.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The pause after a lost connection, doubled with each refusal up to the limit: an exec whose end falls
/// into it has no exit status, and a bus that is not there must not be hammered.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
const RECONNECT_PAUSE_LIMIT: Duration = Duration::from_secs(1);

/// Hints within this time are one question.
const SETTLE: Duration = Duration::from_millis(200);

/// Without any hint systemd is asked this often.
const POLL: Duration = Duration::from_secs(15);

/// The same while the system comes up: for units that fail on the way.
const BOOT_POLL: Duration = Duration::from_secs(2);

/// What `SystemState` says until the boot is over, org.freedesktop.systemd1(5).
const COMING_UP: [&str; 2] = ["initializing", "starting"];

/// The most failed units that are reported.
const MAX_FAILED_UNITS: usize = 64;

/// Owns the connection.
#[derive(Debug)]
pub(super) struct Follower {
    socket: PathBuf,
    board: Board,
    keeper: Keeper,
    link: watch::Sender<Link>,
}

impl Follower {
    pub(super) fn new(
        socket: PathBuf,
        board: Board,
        keeper: Keeper,
        link: watch::Sender<Link>,
    ) -> Self {
        Self {
            socket,
            board,
            keeper,
            link,
        }
    }

    /// Runs until nobody holds a handle any more.
    pub(super) async fn run(self) {
        let mut pause = RECONNECT_PAUSE;
        while !self.link.is_closed() {
            if !self.socket.exists() {
                sleep(LOOK_AGAIN).await;
                continue;
            }
            match Bus::connect(&self.socket, &self.keeper).await {
                Ok(bus) => {
                    self.follow(Arc::new(bus)).await;
                    pause = RECONNECT_PAUSE;
                }
                Err(error) => {
                    debug!(error = %error, "the system bus does not answer yet");
                    pause = (2 * pause).min(RECONNECT_PAUSE_LIMIT);
                }
            }
            sleep(pause).await;
        }
    }

    async fn follow(&self, bus: Arc<Bus>) {
        info!("connected to systemd");
        self.link.send_replace(Link::Up(Arc::clone(&bus)));
        self.board.reach(Stage::STAGE_SYSTEM_BUS);
        let (mut is_coming_up, mut hears_changes) = (true, false);
        loop {
            match ask(&bus).await {
                Ok((state, failed)) => {
                    is_coming_up &= COMING_UP.contains(&state.as_str());
                    self.board.set_system_state(&state, failed);
                }
                // At shutdown the bus goes while we ask.
                Err(_) if bus.is_closed() => break,
                Err(error) => warn!(error = %error, "systemd did not say how it is"),
            }
            if is_coming_up {
                select! {
                    () = bus.finished.notified() => {}
                    () = sleep(BOOT_POLL) => {}
                    () = bus.closed() => break,
                    () = self.link.closed() => break,
                }
                continue;
            }
            if !hears_changes {
                hears_changes = true;
                if let Err(error) = bus.hear_changes().await {
                    warn!(%error, "changes of units are not heard of");
                }
                // For what has changed before they were.
                continue;
            }
            select! {
                () = sleep(SETTLE) => {}
                () = bus.closed() => break,
            }
            select! {
                () = bus.dirty.notified() => {}
                () = sleep(POLL) => {}
                () = bus.closed() => break,
                () = self.link.closed() => break,
            }
        }
        warn!("the connection to systemd was lost");
        bus.let_go();
        self.link.send_replace(Link::Lost);
    }
}

/// The state of the system and the units that failed. An exec that ended with an error is no failure of
/// the system, although it is a failed unit for the moment that it takes to read its exit status.
async fn ask(bus: &Bus) -> zbus::Result<(String, Vec<FailedUnit>)> {
    let state = bus.manager.system_state().await?;
    let failed = bus.manager.list_units_by_patterns(&["failed"], &[]).await?;
    let failed = failed
        .into_iter()
        .filter(|unit| !unit.0.starts_with(EXEC_UNIT_PREFIX));
    let mut units = Vec::new();
    for unit in failed.take(MAX_FAILED_UNITS) {
        let result = result_of(bus, &unit).await;
        units.push(FailedUnit {
            name: unit.0,
            result,
            ..FailedUnit::default()
        });
    }
    Ok((judge(state, &units), units))
}

/// Whether a system that has come up is degraded is what the list says: systemd was asked for its state at another moment,
/// and an exec may have failed, or been forgotten, between the two.
fn judge(state: String, failed: &[FailedUnit]) -> String {
    match state.as_str() {
        "running" | "degraded" if failed.is_empty() => "running".to_owned(),
        "running" | "degraded" => "degraded".to_owned(),
        _ => state,
    }
}

/// The unit's `Result` (`exit-code`, `timeout`...). A unit that is gone by now, or of a kind that has
/// no result, gives its sub state.
async fn result_of(bus: &Bus, unit: &ListedUnit) -> String {
    let (name, sub_state, path) = (&unit.0, &unit.4, &unit.6);
    let Some(interface) = kind_interface(name) else {
        return sub_state.clone();
    };
    let proxy = zbus::proxy::Builder::<Proxy<'_>>::new(&bus.connection)
        .destination("org.freedesktop.systemd1")
        .path(path.as_str())
        .interface(interface)
        .cache_properties(CacheProperties::No)
        .build();
    match proxy.await {
        Ok(proxy) => proxy
            .get_property::<String>("Result")
            .await
            .unwrap_or_else(|_| sub_state.clone()),
        Err(_) => sub_state.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_is_degraded_by_units_that_are_no_execs_and_by_nothing_else() {
        let judged = |state: &str, failed: &[FailedUnit]| judge(state.to_owned(), failed);
        let failed = [FailedUnit::default()];
        // An exec that failed and was forgotten before the list was taken.
        assert_eq!(judged("degraded", &[]), "running");
        assert_eq!(judged("running", &failed), "degraded");
        assert_eq!(judged("degraded", &failed), "degraded");
        assert_eq!(judged("running", &[]), "running");
        for state in ["starting", "stopping", "maintenance"] {
            assert_eq!(judged(state, &[]), state);
        }
    }
}
