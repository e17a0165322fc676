//! A boot, as `seed status` tells it.

use anyhow::{Context, Result, ensure};
use seed_tests::Instance;

/// Each stage has a time, and the times rise in the order of the boot.
pub(crate) fn the_boot_names_every_stage(instance: &Instance<'_>) -> Result<()> {
    let status = instance.status()?;
    ensure!(status["state"] == "running", "state: {}", status["state"]);
    ensure!(
        status["failed_units"] == serde_json::json!([]),
        "failed: {}",
        status["failed_units"]
    );
    ensure!(
        status["problems"] == serde_json::json!([]),
        "problems: {}",
        status["problems"]
    );
    let stages = status["stages"].as_array().context("no stages")?;
    let names: Vec<_> = stages
        .iter()
        .filter_map(|stage| stage["stage"].as_str())
        .collect();
    let all = ["vmm", "kernel", "hello", "provisioned", "bus", "running"];
    ensure!(names == all, "stages: {names:?}");
    let times: Vec<_> = stages
        .iter()
        .filter_map(|one| one["since_create_ms"].as_u64())
        .collect();
    ensure!(
        times.len() == all.len() && times.is_sorted(),
        "times: {times:?}"
    );
    // All vCPUs came up, and ACPI is alive: a boot without it looks well but has one CPU and no TPM.
    let cpus = instance.sh("nproc")?.parse().ok();
    ensure!(
        cpus == status["vcpus"].as_u64(),
        "nproc says {cpus:?}, status {}",
        status["vcpus"]
    );
    instance.sh("test -s /sys/firmware/acpi/tables/DSDT")?;
    Ok(())
}
