//! Points 2 and 3: `seed run` through the containerd shim, and what `seed status` tells of the boot.

use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Demo, NAME, guest, root};
use crate::lab::{self, BOOT};

/// What the shim starts and supervises, by its names in the status.
const HELPERS: [&str; 4] = ["qemu", "virtiofsd", "swtpm", "vsock"];
/// The shim's program.
const SHIM: &str = "containerd-shim-seed-v2";
/// The stages of a boot, in order.
const STAGES: [&str; 6] = ["vmm", "kernel", "hello", "provisioned", "bus", "running"];

pub(super) fn run(demo: &mut Demo) -> Result<()> {
    let guest = demo.lab.guest().to_string_lossy().into_owned();
    demo.screen.typed(&format!(
        "seed run ROOT --name {NAME} --env ... ({} variables)",
        guest::VALUES.len()
    ));
    let variables = guest::VALUES.map(|(name, value)| format!("{name}={value}"));
    let mut args = vec!["run", guest.as_str(), "--name", NAME];
    for variable in &variables {
        args.extend(["--env", variable]);
    }
    let seconds = demo.lab.seed_slowly("booting", &args, BOOT)?;
    let shown = format!("{seconds:.1} s until systemd had started everything");
    demo.screen
        .fact("seconds", "up", &shown, json!(seconds), true);

    let status = demo.lab.status(NAME)?;
    let accel = status["accel"].as_str().unwrap_or_default().to_owned();
    let shown = format!(
        "{accel}, {} vCPU, {} MiB",
        status["vcpus"], status["memory_mib"]
    );
    let known = ["kvm", "tcg"].contains(&accel.as_str());
    demo.screen
        .fact("accel", "machine", &shown, json!(accel), known);
    processes(demo, &status)?;
    running_guest(demo)
}

/// Each helper runs, and is a child of the shim.
fn processes(demo: &mut Demo, status: &Value) -> Result<()> {
    let processes = lab::processes(status);
    let qemu = processes.get("qemu").context("status names no qemu")?;
    let shim = lab::parent(*qemu).context("qemu has no parent")?;
    let command = fs::read(format!("/proc/{shim}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    let shown = format!("{SHIM}, pid {shim}");
    demo.screen.fact(
        "shim",
        "shim",
        &shown,
        json!({ "pid": shim, "command": command.trim() }),
        command.contains(SHIM),
    );
    for name in HELPERS {
        let pid = processes.get(name).copied();
        let child = pid.is_some_and(|pid| lab::alive(pid) && lab::parent(pid) == Some(shim));
        let shown = pid.map_or_else(|| "is missing".to_owned(), |pid| format!("pid {pid}"));
        demo.screen.fact(name, name, &shown, json!(pid), child);
    }
    demo.pids = processes.values().copied().chain([shim]).collect();
    Ok(())
}

/// What of the root is now the running guest: belongs to point 1.
fn running_guest(demo: &mut Demo) -> Result<()> {
    let lab = &demo.lab;
    let release = lab.sh(NAME, "uname -r")?;
    let image = lab.guest().join(root::TOPLEVEL).join("kernel");
    let own = root::kernel_release(&fs::read(&image).context("read the kernel")?);
    let is_own = own.as_deref() == Some(release.as_str());
    let systemd = lab.sh(NAME, "systemctl --version | head -n 1")?;
    let mount = lab.sh(NAME, "findmnt --noheadings --output SOURCE,FSTYPE /")?;
    let units = "systemctl is-active seed-agent.service app.service | tr '\\n' ' '";
    let units = lab.sh(NAME, units)?;
    let app = "stat -c %U /proc/$(systemctl show --property MainPID --value app.service)";
    let app = lab.sh(NAME, app)?;
    let words: Vec<_> = mount.split_whitespace().collect();
    let point = "guest_root";
    for (key, label, value, ok) in [
        ("running_kernel", "guest kernel", &release, is_own),
        (
            "systemd",
            "guest systemd",
            &systemd,
            systemd.starts_with("systemd 257"),
        ),
        (
            "root_mount",
            "guest root",
            &words.join(" "),
            words == ["seedroot", "virtiofs"],
        ),
        (
            "units_active",
            "agent, app",
            &units.trim().replace(' ', ", "),
            units.trim() == "active active",
        ),
        ("app_runs_as", "app runs as", &app, app == "app"),
    ] {
        demo.screen.show(label, value, ok);
        demo.screen.keep(point, key, json!(value), ok);
    }
    Ok(())
}

pub(super) fn status(demo: &mut Demo) -> Result<()> {
    demo.screen.typed(&format!("seed status {NAME}"));
    let status = demo.lab.status(NAME)?;
    let state = status["state"].as_str().unwrap_or_default();
    demo.screen
        .text("state", "state", state, state == "running");
    let stages = status["stages"].as_array().context("no stages")?;
    let mut before = 0;
    let mut names = Vec::new();
    for one in stages {
        let name = one["stage"].as_str().unwrap_or_default();
        let at = one["since_create_ms"]
            .as_u64()
            .context("a stage has no time")?;
        let shown = format!("{:>3}.{:02} s", at / 1000, at % 1000 / 10);
        demo.screen.show(name, &shown, at >= before);
        demo.screen
            .keep("status", &format!("{name}_ms"), json!(at), at >= before);
        before = at;
        names.push(name);
    }
    demo.screen
        .keep("status", "stages", json!(names), names == STAGES);
    for (key, label) in [("failed_units", "failed units"), ("problems", "problems")] {
        let none = status[key].as_array().is_some_and(Vec::is_empty);
        let shown = if none {
            "none".to_owned()
        } else {
            status[key].to_string()
        };
        demo.screen
            .fact(key, label, &shown, status[key].clone(), none);
    }
    Ok(())
}
