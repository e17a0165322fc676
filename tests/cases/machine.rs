//! The machine from outside: what it uses, what it is given while it runs, its ports, and its identity as a file.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    io::Read,
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use seed_tests::{Instance, Lab, Runner, Spec, limit};

use crate::plug;

/// For the skip list.
pub(crate) const NAMES: [&str; 1] = [
    "machine: figures, more memory, a disk in a port, a published port, and an identity that is saved and restored",
];

/// Boots a guest of its own, twice.
pub(crate) fn run(runner: &mut Runner, lab: &Lab) {
    runner.case(NAMES[0], || {
        let swtpm = talkative_swtpm(lab)?;
        let qemu = plug::talkative_qemu(lab)?;
        lab.write_config(&format!(
            "[growth]\nmax_memory_mib = 768\ndisk_ports = 1\n[programs]\nswtpm = {swtpm:?}\nqemu = {qemu:?}"
        ))?;
        let result = machine(lab);
        lab.write_config("")?;
        result
    });
}

/// The TPM's commands and answers, as swtpm sees them.
fn tpm_log(lab: &Lab) -> PathBuf {
    lab.scratch("tpm-log").join("swtpm.log")
}

/// A program that is swtpm, and logs each command.
fn talkative_swtpm(lab: &Lab) -> Result<PathBuf> {
    let log = tpm_log(lab);
    let folder = log.parent().context("no folder")?;
    fs::create_dir_all(folder)?;
    // swtpm runs as a user of its own.
    fs::set_permissions(folder, Permissions::from_mode(0o777))?;
    let program = folder.join("swtpm");
    let script = format!(
        "#!/bin/sh\nexec swtpm \"$@\" --log level=20,file={}\n",
        log.display()
    );
    fs::write(&program, script)?;
    fs::set_permissions(&program, Permissions::from_mode(0o755))?;
    Ok(program)
}

/// The guest's last word to its TPM is TPM2_Shutdown(TPM_SU_CLEAR), after which nothing of its state is taken for lost.
fn tpm_is_shut_down(lab: &Lab) -> Result<()> {
    let log = fs::read_to_string(tpm_log(lab))?;
    // Tag, length, and a code of TPM2's own: answers that are no error have none.
    let is_order = |line: &&str| line.starts_with("80 0") && line.get(18..26) == Some("00 00 01");
    let last = log.lines().map(str::trim).rfind(is_order);
    ensure!(
        last == Some("80 01 00 00 00 0C 00 00 01 45 00 00"),
        "the TPM's last word is {last:?}"
    );
    Ok(())
}

fn machine(lab: &Lab) -> Result<()> {
    // Nobody else has it: the system has just given it away and taken it back.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    let publish = format!("{port}:80");
    let instance = Instance::run(lab, &Spec::default().with(["--publish", &publish]))?;
    let name = instance.name().to_owned();
    figures(lab, &instance)?;
    unprivileged(&instance)?;
    more_memory(lab, &instance)?;
    plug::a_disk_comes_and_goes(lab, &instance)?;
    published(&instance, port)?;
    identity(lab, &instance)?;
    ensure!(
        lab.seed(&["status", &name], limit::COMMAND)?
            .status
            .success()
    );
    Ok(())
}

/// Guest and host are both counted, and `seed metrics` says the same.
fn figures(lab: &Lab, instance: &Instance<'_>) -> Result<()> {
    // A shim waits 3 s for the guest's own, and knows them from then on.
    let status = limit::until("the guest's own figures", limit::COMMAND, || {
        let status = instance.status()?;
        Ok(status["usage"]["guest"].is_object().then_some(status))
    })?;
    let usage = &status["usage"];
    let total = usage["guest"]["memory_total_bytes"].as_u64();
    ensure!(total.is_some_and(|bytes| bytes > 300 << 20), "{usage}");
    ensure!(
        usage["guest"]["cpu_ns"].as_u64().is_some_and(|ns| ns > 0),
        "{usage}"
    );
    let processes = usage["processes"].as_array().context("no processes")?;
    ensure!(processes.len() == 5, "{usage}");
    let text = lab.seed_ok(&["metrics"], limit::COMMAND)?;
    for family in [
        "seed_up",
        "seed_guest_cpu_seconds_total",
        "seed_overhead_memory_bytes",
    ] {
        let begin = format!(
            "{family}{{namespace=\"default\",instance=\"{}\"}} ",
            instance.name()
        );
        let value = text.lines().find_map(|line| line.strip_prefix(&begin));
        let value: f64 = value
            .with_context(|| format!("no {family} in {text}"))?
            .parse()?;
        ensure!(value > 0.0, "{family} is {value}");
    }
    Ok(())
}

/// QEMU, swtpm and the vsock device are users of their own, which have no rights of root. The device cannot make a process.
fn unprivileged(instance: &Instance<'_>) -> Result<()> {
    let status = instance.status()?;
    let processes = status["processes"].as_array().context("no processes")?;
    let mut seen = BTreeSet::new();
    for name in ["qemu", "swtpm", "vsock"] {
        let process = processes.iter().find(|one| one["name"] == name);
        let pid = process.and_then(|one| one["pid"].as_u64());
        let pid = pid.with_context(|| format!("no {name} in {status}"))?;
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |key: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(key));
            value.map(|value| value.split_whitespace().collect::<Vec<_>>())
        };
        let uid = field("Uid:").context("no user")?;
        ensure!(uid.iter().all(|one| *one == uid[0]), "{name}: {uid:?}");
        ensure!(
            uid[0].parse::<u32>()? >= 0x7000_0000,
            "{name} is {}",
            uid[0]
        );
        ensure!(field("Gid:") == Some(uid.clone()), "{name}: {text}");
        for key in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            ensure!(
                field(key) == Some(vec!["0000000000000000"]),
                "{name}: {text}"
            );
        }
        seen.insert(uid[0].to_owned());
        let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let mut lines = limits.lines().map(str::split_whitespace);
        let none = lines.any(|words| words.take(4).eq(["Max", "processes", "0", "0"]));
        ensure!(none == (name == "vsock"), "{name}: {limits}");
    }
    ensure!(seen.len() == 3, "{seen:?}");
    Ok(())
}

/// Memory comes while the guest runs; what it was not started with room for does not.
fn more_memory(lab: &Lab, instance: &Instance<'_>) -> Result<()> {
    let kib = || -> Result<u64> {
        let line = instance.sh("grep MemTotal /proc/meminfo")?;
        let kib = line.split_whitespace().nth(1).context("no figure")?;
        Ok(kib.parse()?)
    };
    let before = kib()?;
    let name = instance.name();
    lab.seed_ok(&["grow", name, "--memory", "700Mi"], limit::COMMAND)?;
    let more = kib()?.saturating_sub(before);
    // 256 MiB in two steps, less the table of their pages.
    ensure!((200 << 10..=256 << 10).contains(&more), "{more} KiB more");
    ensure!(
        instance.status()?["memory_mib"] == 768,
        "status does not say so"
    );
    let refused = lab.seed(&["grow", name, "--memory", "2Gi"], limit::COMMAND)?;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        !refused.status.success() && text.contains("max_memory_mib"),
        "{text}"
    );
    Ok(())
}

/// A connection to the host's port arrives in the guest.
fn published(instance: &Instance<'_>, port: u16) -> Result<()> {
    instance.sh(
        "link=$(ls /sys/class/net | grep -v lo) && ip addr add 10.0.2.15/24 dev $link && \
         ip link set $link up && systemd-run -q --unit=port-80 \
         systemd-socket-activate -l 80 --accept --inetd /bin/echo from the guest",
    )?;
    limit::until("an answer from the guest's port", limit::COMMAND, || {
        let mut answer = String::new();
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
        // Until something listens in the guest, the connection is reset.
        let _ = stream.read_to_string(&mut answer);
        Ok((answer == "from the guest\n").then_some(()))
    })
}

/// Saved, deleted, restored: the same recipient and the same machine id.
fn identity(lab: &Lab, instance: &Instance<'_>) -> Result<()> {
    let name = instance.name();
    let (recipient, machine) = (instance.recipient()?, instance.sh("cat /etc/machine-id")?);
    let file = lab.scratch("identity.tar");
    let path = file.to_string_lossy().into_owned();
    let running = lab.seed(&["tpm", "backup", name, &path], limit::COMMAND)?;
    let text = String::from_utf8_lossy(&running.stderr).into_owned();
    ensure!(
        !running.status.success() && text.contains("seed stop"),
        "{text}"
    );
    instance.stop()?;
    tpm_is_shut_down(lab)?;
    lab.seed_ok(&["tpm", "backup", name, &path], limit::COMMAND)?;
    let mode = fs::metadata(&file)?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "the backup's mode is {mode:o}");
    let list = Command::new("tar").args(["-tf", &path]).output()?;
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    ensure!(
        list.contains("machine-id\n") && list.contains("tpm2-00.permall\n"),
        "{list}"
    );
    let over = lab.seed(&["tpm", "restore", name, &path], limit::COMMAND)?;
    ensure!(!over.status.success(), "a restore went over an identity");
    lab.seed_ok(&["rm", name, "--yes"], limit::COMMAND)?;
    lab.seed_ok(&["tpm", "restore", name, &path], limit::COMMAND)?;
    let again = instance.try_run(&Spec::default())?;
    ensure!(
        again.status.success(),
        "{}",
        String::from_utf8_lossy(&again.stderr)
    );
    let now = (instance.recipient()?, instance.sh("cat /etc/machine-id")?);
    ensure!(now == (recipient, machine), "another identity: {now:?}");
    Ok(())
}
