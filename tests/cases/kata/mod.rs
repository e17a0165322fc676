//! The guest as an unmodified Kata shim boots and drives it: Kata's kernel command line, real systemd, both shims'
//! orders of calls from the first to the last, volumes by PCI path at a Kata shim's own places, from where the engine's mounts take
//! them on, and a pod's memory and folder. There is nothing of our shim in it.
//!
//! Three boots on the same disks: the Rust shim's order makes the file systems, and SIGKILL is the end; the Go shim's
//! order finds them larger and whole, and ends in good order; the Rust shim's order once more, to its end.

mod pod;

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use seed_kata_client::{
    Kata, hybrid_vsock, limit as call_limit,
    order::{Pod, storage},
};
use seed_protocol::{
    kata::agent::{
        ReseedRandomDevRequest, ResizeVolumeRequest, SetGuestDateTimeRequest, VolumeStatsRequest,
    },
    ports,
    seed::{v1::GetStatusRequest, v1_ttrpc::GuestClient},
};
use seed_tests::{Lab, Machine, Runner, limit};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::{Instant, sleep, timeout},
};

use self::pod::{
    GROUP, GROUPS, HARDWARE, READ, WORK, WRITTEN, folder, katas_place, memory, place, pod, volume,
};

/// For the skip list, and in their order: each one stands on the one before.
pub(crate) const NAMES: [&str; 3] = [
    "kata: the Rust shim's order, new volumes, and SIGKILL",
    "kata: the Go shim's order, volumes whole and larger, to its last call",
    "kata: the Rust shim's order to its last call",
];

/// What a Kata shim adds for a guest with systemd, beside what is about its own VMM.
const PARAMETERS: [&str; 14] = [
    "quiet",
    "panic=1",
    "selinux=0",
    "net.ifnames=0",
    // One of two processors is for OnlineCPUMem.
    "maxcpus=1",
    "scsi_mod.scan=none",
    "systemd.unit=kata-containers.target",
    "systemd.mask=systemd-networkd.service",
    "systemd.mask=systemd-networkd.socket",
    "agent.log=debug",
    "agent.log_vport=1025",
    "agent.hotplug_timeout=20",
    "agent.cdh_api_timeout=50",
    "agent.enable_tracing",
];
const LOG_PORT: u32 = 1025;
/// In the year 2096, where no clock is by itself.
const LATER_S: i64 = 4_000_000_000;
const NO_END: &str = "the shim's order does not come to its end";
/// XFS wants 300 MiB; the files are sparse.
const SMALL_MIB: u64 = 320;
const LARGE_MIB: u64 = 448;

pub(crate) fn run(runner: &mut Runner, lab: &Lab) {
    if !runner.wants(&NAMES) {
        return;
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return runner.skip(NAMES[0], &format!("no runtime: {error}")),
    };
    let disks: Vec<_> = WRITTEN
        .iter()
        .chain([&READ])
        .map(|name| lab.scratch(&format!("kata-{name}.img")))
        .collect();
    let whole = runner.always(NAMES[0], || {
        disks.iter().try_for_each(|disk| sized(disk, SMALL_MIB))?;
        runtime.block_on(first(lab, &disks))
    });
    let whole = whole
        && runner.always(NAMES[1], || {
            let written = &disks[..WRITTEN.len()];
            written.iter().try_for_each(|disk| sized(disk, LARGE_MIB))?;
            runtime.block_on(second(lab, &disks))
        });
    if whole {
        runner.always(NAMES[2], || runtime.block_on(third(lab)));
    } else {
        runner.skip(NAMES[2], "the boots before it did not pass");
    }
}

fn sized(disk: &Path, mib: u64) -> Result<()> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(disk)?;
    file.set_len(mib << 20)
        .with_context(|| format!("size {}", disk.display()))
}

/// New volumes and a file on each; then the machine is switched off at once, which is to them as if the power went.
async fn first(lab: &Lab, disks: &[PathBuf]) -> Result<()> {
    let mut guest = Guest::boot(lab, "kata-1", disks, &WRITTEN).await?;
    let up = guest.pod.rs_up(&guest.kata).await;
    let running = guest.explain(up)?;
    guest.is_driven_by_kata().await?;
    guest.volumes(true).await?;
    guest.pods_own().await?;
    for filesystem in WRITTEN {
        let place = place(filesystem);
        guest
            .sh(&format!("echo synced > {place}/kept && sync {place}/kept"))
            .await?;
        // A log to replay: names that are made and not yet written back.
        guest.sh(&format!("for n in $(seq 200); do : > {place}/n$n; done; sync -f {place}/kept; rm {place}/n1*")).await?;
    }
    let erofs = format!("/dev/disk/by-path/*-pci-*{}*", "0b:00.0");
    guest.sh(&format!(
        "mkdir /tmp/tree && echo read > /tmp/tree/file && disk=/dev/$(ls /sys/bus/pci/devices/0000:00:0b.0/*/virtio*/block) \
         && test -b $disk && mkfs.erofs $disk /tmp/tree >/dev/null && sync || {{ echo {erofs}; false; }}"
    ))
    .await?;
    // What would be stopped in an orderly end.
    let stop = format!(
        "/bin/sh -c \"echo stopped > {}/stopped\"",
        place(WRITTEN[0])
    );
    guest
        .sh(&format!(
            "systemd-run -q -p RemainAfterExit=yes -p ExecStop='{stop}' true && sync"
        ))
        .await?;
    ensure!(running.is_whole(), "a call that waits has ended");
    // The machine may take the answer with it.
    let _ = guest.kata.signal(WORK, "", 9).await;
    guest.machine.wait_for_end()
}

/// The same volumes, larger; everything that was synced is there. Ends with a signal, as a pod does.
async fn second(lab: &Lab, disks: &[PathBuf]) -> Result<()> {
    let all = [&WRITTEN[..], &[READ]].concat();
    let mut guest = Guest::boot(lab, "kata-2", disks, &all).await?;
    let up = guest.pod.go_up(&guest.kata).await;
    let running = guest.explain(up)?;
    guest.is_driven_by_kata().await?;
    guest.volumes(false).await?;
    guest.pods_own().await?;
    for filesystem in WRITTEN {
        let place = place(filesystem);
        let kept = guest.sh(&format!("cat {place}/kept")).await?;
        ensure!(kept == "synced", "{place}/kept says {kept:?}");
        let stopped = guest.sh(&format!("ls {place}")).await?;
        ensure!(!stopped.contains("stopped"), "SIGKILL was an orderly end");
        let request = ResizeVolumeRequest {
            volume_guest_path: katas_place(filesystem),
            size: LARGE_MIB << 20,
            ..Default::default()
        };
        let grown = guest.kata.agent.resize_volume(call_limit(), &request).await;
        grown.with_context(|| format!("ResizeVolume of {filesystem}"))?;
        let size = guest
            .sh(&format!(
                "df --output=size -BM {place} | tail -n 1 | tr -dc 0-9"
            ))
            .await?;
        let size: u64 = size.parse().context("df")?;
        ensure!(size > SMALL_MIB, "{filesystem} has {size} MiB");
        let request = VolumeStatsRequest {
            volume_guest_path: katas_place(filesystem),
            ..Default::default()
        };
        let told = guest.kata.agent.get_volume_stats(call_limit(), &request);
        let told = told.await.context("GetVolumeStats")?;
        ensure!(told.usage[0].total > SMALL_MIB << 20, "{told:?}");
    }
    let read = guest
        .sh(&format!("cat {}/file; ! touch {0}/new 2>&1", place(READ)))
        .await?;
    ensure!(
        read.starts_with("read") && read.contains("Read-only"),
        "{read}"
    );
    log_port(&guest.machine.vsock()).await?;
    guest.sh("logger -t kata-case the last line").await?;
    guest.terminate().await?;
    let down = guest.pod.go_down(&guest.kata, running);
    let (output, _) = timeout(limit::STOP, down).await.context(NO_END)??;
    let output = String::from_utf8_lossy(&output);
    ensure!(
        output.contains("the last line"),
        "the output lacks its end:\n{output}"
    );
    ensure!(
        output.contains("Linux version"),
        "the output lacks its beginning"
    );
    guest.machine.wait_for_end()
}

/// One more boot without volumes, for the order's end.
async fn third(lab: &Lab) -> Result<()> {
    let mut guest = Guest::boot(lab, "kata-3", &[], &[]).await?;
    // A Rust shim whose VM is elsewhere names the root by an image.
    let place = format!("/run/kata-containers/{WORK}/rootfs");
    let root = storage(
        "image_guest_pull",
        "localhost/demo:1",
        "overlay",
        &place,
        &[],
    );
    guest.pod.storages.push(root);
    let up = guest.pod.rs_up(&guest.kata).await;
    let running = guest.explain(up)?;
    guest.is_driven_by_kata().await?;
    guest.clock_and_chance().await?;
    guest.sh("logger -t kata-case the last line").await?;
    guest.terminate().await?;
    let down = guest.pod.rs_down(&guest.kata, running);
    let output = timeout(limit::STOP, down).await.context(NO_END)??;
    let output = String::from_utf8_lossy(&output);
    ensure!(
        output.contains("the last line"),
        "the output lacks its end:\n{output}"
    );
    guest.machine.wait_for_end()
}

/// A VM with an agent that answers, and the pod that goes into it.
struct Guest {
    machine: Machine,
    kata: Kata,
    pod: Pod,
    execs: u32,
}

impl Guest {
    async fn boot(lab: &Lab, name: &str, disks: &[PathBuf], filesystems: &[&str]) -> Result<Self> {
        let mut machine = Machine::boot(lab, &lab.scratch(name), &PARAMETERS, HARDWARE, disks)?;
        let deadline = Instant::now() + limit::BOOT;
        let client = loop {
            let socket = machine.vsock();
            let dialled = timeout(limit::COMMAND, hybrid_vsock(&socket, ports::AGENT)).await;
            match dialled.context("no answer to CONNECT").flatten() {
                Ok(client) => break client,
                Err(error) if Instant::now() > deadline || machine.has_ended()?.is_some() => {
                    bail!(
                        "the agent does not answer: {error:#}\n{}",
                        machine.console()
                    );
                }
                Err(_) => sleep(std::time::Duration::from_millis(100)).await,
            }
        };
        let volumes = filesystems.iter().enumerate();
        Ok(Self {
            machine,
            kata: Kata::new(client),
            pod: pod(volumes.map(|(index, name)| volume(index, name)).collect()),
            execs: 0,
        })
    }

    /// A failure with what the guest printed.
    fn explain<T>(&self, result: Result<T>) -> Result<T> {
        result.with_context(|| format!("the guest printed:\n{}", self.machine.console()))
    }

    /// Runs a shell line in the guest, which must succeed; its output without the last newline. Waits for the bus.
    async fn sh(&mut self, line: &str) -> Result<String> {
        let deadline = Instant::now() + limit::BOOT;
        loop {
            self.execs += 1;
            let exec = format!("e{}", self.execs);
            let words = ["/bin/sh", "-c", line];
            match self.kata.output(WORK, &exec, &words).await {
                Ok((status, output)) => {
                    let text = String::from_utf8_lossy(&output).trim_end().to_owned();
                    ensure!(status == 0, "`{line}` ended with {status}: {text}");
                    return Ok(text);
                }
                Err(error)
                    if Instant::now() < deadline && error.to_string().contains("not yet") =>
                {
                    sleep(std::time::Duration::from_millis(200)).await;
                }
                Err(error) => return Err(error).with_context(|| format!("`{line}`")),
            }
        }
    }

    /// What the shim's calls and command line have made of the guest.
    async fn is_driven_by_kata(&mut self) -> Result<()> {
        let wait = "systemctl is-system-running --wait >/dev/null; systemctl is-active kata-containers.target";
        let target = self.sh(wait).await?;
        ensure!(target == "active", "kata-containers.target is {target}");
        let network = self
            .sh("ip -o -4 addr show eth0; ip route; ip neigh show nud permanent")
            .await?;
        for wanted in ["10.0.2.15/24", "default via 10.0.2.2", "02:5e:ed:00:00:02"] {
            ensure!(network.contains(wanted), "no {wanted} in {network}");
        }
        let processors = self.sh("nproc").await?;
        ensure!(processors == "2", "there are {processors} processors");
        let env = self
            .sh(". /run/seed/env; printf '%s' \"$GREETING\"; stat -c %a /run/seed/env")
            .await?;
        ensure!(env == "hello \"kata\"600", "the environment is {env:?}");
        Ok(())
    }

    /// Every volume is mounted with its file system, as its pod wants it, and no trouble is told of any.
    async fn volumes(&mut self, made: bool) -> Result<()> {
        let guest = GuestClient::new(self.kata.client.clone());
        let status = guest
            .get_status(call_limit(), &GetStatusRequest::new())
            .await?;
        for volume in &status.volumes {
            let (name, problem) = (&volume.name, &volume.problem);
            ensure!(problem.is_empty(), "volume {name}: {problem}");
            ensure!(
                volume.created == made,
                "volume {name}: made: {}",
                volume.created
            );
        }
        let pairs = self.pod.storages.iter().zip(&self.pod.mounts);
        let disks = pairs.filter(|(storage, _)| storage.driver == "blk");
        let disks: Vec<_> = disks
            .map(|(storage, mount)| (storage.clone(), mount.clone()))
            .collect();
        for (storage, mount) in &disks {
            for place in [&storage.mount_point, &mount.destination] {
                let shown = self
                    .sh(&format!("findmnt -no FSTYPE,OPTIONS {place}"))
                    .await?;
                for wanted in [storage.fstype.as_str(), "nosuid", "nodev", "noatime"] {
                    ensure!(shown.contains(wanted), "{place}: {shown}");
                }
            }
        }
        ensure!(status.volumes.len() == disks.len(), "{status:?}");
        let place = place(GROUPS);
        let shown = self.sh(&format!("stat -c %g:%A {place}")).await?;
        ensure!(shown == format!("{GROUP}:drwxrwsr-x"), "{place}: {shown}");
        Ok(())
    }

    /// A pod's memory and its folder are where the engine wants them, and the same where the shim has them.
    async fn pods_own(&mut self) -> Result<()> {
        let kept = [(memory(), "tmpfs", "3777"), (folder(), "", "2777")];
        for ((storage, mount), filesystem, mode) in kept {
            let (source, place) = (&storage.mount_point, &mount.destination);
            let shown = self
                .sh(&format!(
                    "echo kept > {place}/file; cat {source}/file; stat -c %g:%a {source} {place}; findmnt -no FSTYPE {place}"
                ))
                .await?;
            let both = format!("kept\n{GROUP}:{mode}\n{GROUP}:{mode}\n{filesystem}");
            ensure!(shown.starts_with(&both), "{place}: {shown}");
        }
        Ok(())
    }

    /// What a shim that starts guests from a template tells them: what time it is, and bytes that nobody else has.
    async fn clock_and_chance(&mut self) -> Result<()> {
        let bytes = ReseedRandomDevRequest {
            data: vec![0x5e; 512],
            ..Default::default()
        };
        let agent = self.kata.agent.clone();
        let seeded = agent.reseed_random_dev(call_limit(), &bytes).await;
        seeded.context("ReseedRandomDev")?;
        let time = SetGuestDateTimeRequest {
            Sec: LATER_S,
            Usec: 250_000,
            ..Default::default()
        };
        let set = agent.set_guest_date_time(call_limit(), &time).await;
        set.context("SetGuestDateTime")?;
        let now: i64 = self.sh("date +%s").await?.parse().context("date")?;
        let since = now - LATER_S;
        ensure!((0..3600).contains(&since), "the guest's clock says {now}");
        Ok(())
    }

    /// SIGTERM to the container, as at the end of a pod.
    async fn terminate(&self) -> Result<()> {
        self.kata.signal(WORK, "", 15).await.context("SIGTERM")
    }
}

/// The log port gives the agent's own lines as well as others, as JSON.
async fn log_port(socket: &Path) -> Result<()> {
    let mut stream = UnixStream::connect(socket).await?;
    stream
        .write_all(format!("CONNECT {LOG_PORT}\n").as_bytes())
        .await?;
    let mut lines = BufReader::new(stream.take(4 << 20)).lines();
    let read = async {
        while let Some(line) = lines.next_line().await? {
            if line.starts_with('{') && line.contains("agent.cdh_api_timeout") {
                return Ok(());
            }
        }
        bail!("the log says nothing of a parameter that means nothing here")
    };
    timeout(limit::LOG_LINE, read)
        .await
        .context("the log port")?
}
