//! Where the agent's own words go: to journald, so that they are part of the instance's stream like
//! everything else; to standard error where there is no journald.

use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Registry, layer::SubscriberExt, util::SubscriberInitExt};

/// The name that journald files them under.
const IDENTIFIER: &str = "seed-agent";

/// Starts logging for the whole process; a second call changes nothing.
pub fn start(debug: bool) {
    let level = if debug {
        LevelFilter::DEBUG
    } else {
        LevelFilter::INFO
    };
    let registry = Registry::default().with(level);
    let started = match tracing_journald::layer() {
        Ok(journald) => {
            let journald = journald.with_syslog_identifier(IDENTIFIER.to_owned());
            registry.with(journald).try_init()
        }
        Err(_) => {
            let stderr = tracing_subscriber::fmt::layer()
                .with_writer(io::stderr)
                .without_time();
            registry.with(stderr).try_init()
        }
    };
    // The only failure is "started before".
    drop(started);
}
