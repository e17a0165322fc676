//! Every wait of the cases, by name. Generous: under TCG on two busy cores a boot takes half a minute.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// From `seed run` until systemd says `running` or `degraded`.
pub const BOOT: Duration = Duration::from_secs(400);
/// An orderly poweroff with everything drained.
pub const STOP: Duration = Duration::from_secs(400);
/// A command on the host, or one in the guest that ends by itself.
pub const COMMAND: Duration = Duration::from_secs(180);
/// Until a line that was logged in the guest stands in the log on the host.
pub const LOG_LINE: Duration = Duration::from_secs(180);

/// Asks again until there is an answer; the error says what was waited for.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if start.elapsed() > limit {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(200));
    }
}
