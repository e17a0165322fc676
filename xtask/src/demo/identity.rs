//! Point 6: a secret that only this instance's TPM opens, encrypted on the host and opened in the guest at its
//! next boot, by a unit that is ordered after the agent.

use anyhow::{Context, Result};
use serde_json::json;

use super::{
    Demo, NAME,
    volume::{self, MOUNT_POINT},
};
use crate::lab::{BOOT, COMMAND, STOP};

/// Where `demo-secret.service` puts what it opened, and what it is.
const OPENED: &str = "/run/demo-secret";
const UNIT: &str = "demo-secret.service";

pub(super) fn show(demo: &mut Demo) -> Result<()> {
    demo.screen.typed(&format!("seed keys {NAME}"));
    let before = recipient(demo)?;
    let is_ours = before.starts_with("age1tpm1q");
    demo.screen.text("recipient", "recipient", &before, is_ours);
    let secret = format!("secret of run {}", std::process::id());
    let sealed = demo.lab.encrypt(&before, &secret)?;
    let shown = format!(
        "{} bytes, by age and age-plugin-tpm on the host",
        sealed.len()
    );
    demo.screen.fact(
        "encrypted_bytes",
        "encrypted",
        &shown,
        json!(sealed.len()),
        sealed.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----"),
    );
    // Where the guest's unit looks for it.
    demo.lab
        .put(NAME, &format!("{MOUNT_POINT}/secret.age"), &sealed)?;

    demo.screen.typed(&format!("seed restart {NAME}"));
    let boot_id = "cat /proc/sys/kernel/random/boot_id";
    let boot_before = demo.lab.sh(NAME, boot_id)?;
    let seconds = demo
        .lab
        .seed_slowly("restarting", &["restart", NAME], STOP + BOOT)?;
    let anew = boot_before != demo.lab.sh(NAME, boot_id)?;
    let shown = format!("{seconds:.1} s, another boot id");
    demo.screen
        .fact("restart_seconds", "restart", &shown, json!(seconds), anew);
    let opened = demo.lab.sh(NAME, &format!("cat {OPENED}"))?;
    demo.screen.fact(
        "opened",
        "opened at boot",
        &format!("{opened:?} in {OPENED}"),
        json!({ "given": secret, "opened": opened }),
        opened == secret,
    );
    ordered(demo)?;
    let after = recipient(demo)?;
    let shown = if after == before {
        "the same as before"
    } else {
        after.as_str()
    };
    demo.screen.fact(
        "recipient_after",
        "identity",
        shown,
        json!(after),
        after == before,
    );
    volume::kept(demo, "after_restart", "volume")
}

fn recipient(demo: &Demo) -> Result<String> {
    Ok(demo.lab.seed(&["keys", NAME], COMMAND)?.trim().to_owned())
}

/// The unit ran at this boot, after the agent was ready.
fn ordered(demo: &mut Demo) -> Result<()> {
    let times = format!(
        "systemctl show --property ActiveEnterTimestampMonotonic --value seed-agent.service && \
         systemctl show --property InactiveExitTimestampMonotonic --value {UNIT}"
    );
    let times = demo.lab.sh(NAME, &times)?;
    let times: Vec<u64> = times.lines().filter_map(|line| line.parse().ok()).collect();
    let [agent, unit] = times[..] else {
        return Err(anyhow::anyhow!("{times:?}")).context("times of the two units");
    };
    let after = unit.saturating_sub(agent) / 1000;
    let shown = format!("{UNIT} began {after} ms after the agent was ready");
    let value = json!({ "agent_ready_us": agent, "unit_began_us": unit });
    demo.screen
        .fact("order", "order", &shown, value, agent > 0 && unit > agent);
    Ok(())
}
