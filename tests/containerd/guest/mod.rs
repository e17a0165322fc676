//! Guests that boot in pods, under the newest containerd: their network, the host's files in them and their
//! changes, volumes, exec, terminal, log, and their end. One's pod is made as containerd makes them by itself, the other's by its shim.

mod cards;
mod files;
mod streams;

use std::{
    env, fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use seed_tests::{
    Containerd, Cri, Runner, Version,
    containerd::{Options, Programs, image::Image},
    cri::{
        api::{ContainerState, Device, Mount},
        stream::{self, Stream},
    },
    lab::{ACCEL_VARIABLE, GUEST_VARIABLE, output},
    limit,
};

use crate::{
    bench::{self, INIT, STUB, TPM_SOCKET},
    pod,
};

use cards::Cards;
use files::{Files, mount};

const NAME: &str = "pods_guests_boot_in_pods_of_both_kinds";

/// Runs the case, or says why not.
pub(crate) fn run(runner: &mut Runner, programs: &Programs, version: Version) {
    let Some(guest) = env::var_os(GUEST_VARIABLE).map(PathBuf::from) else {
        return runner.skip(NAME, &format!("{GUEST_VARIABLE} names no guest's root"));
    };
    runner.case(NAME, || {
        let options = Options {
            network: true,
            ..Options::default()
        };
        let mut containerd = Containerd::make(programs, version, &options)?;
        let accel = env::var(ACCEL_VARIABLE).unwrap_or_else(|_| "auto".to_owned());
        let allowed = "enable_annotations = [\"tpm_socket\"]";
        // Without KVM on a busy machine each of many binds takes systemd seconds to unmount.
        let limits = "[limits]\npoweroff_seconds = 360";
        containerd.write_shim_config(&format!("accel = {accel:?}\n{allowed}\n{limits}"))?;
        containerd.run()?;
        containerd.import_busybox()?;
        containerd.import(&Image {
            name: STUB,
            root: &guest,
            entrypoint: &[INIT],
        })?;
        // Each waits for its boot, so both at once.
        let result = thread::scope(|scope| {
            let other = scope.spawn(|| of_the_shim(&containerd));
            let pod = in_a_pod(&containerd).context("in a pod");
            let joined = other.join().map_err(|_| anyhow::anyhow!("it panicked"));
            let of_the_shim = joined
                .and_then(|result| result)
                .context("in a sandbox of the shim");
            pod::end(&containerd, &Cri::connect(&containerd)?, &pod?).and(of_the_shim)
        });
        if result.is_err() {
            println_tail(&containerd);
        }
        result
    });
}

fn println_tail(containerd: &Containerd) {
    let lines = containerd.log();
    let own: Vec<_> = lines
        .lines()
        .filter(|line| !line.starts_with("time="))
        .collect();
    eprintln!("{}", bench::tail(&own.join("\n")));
}

/// Settings of the pod's kernel: the first is containerd's own for every pod, the others are asked for.
const SYSCTLS: [(&str, &str); 3] = [
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv4.tcp_rmem", "4096 131072 262144"),
    ("kernel.shm_rmid_forced", "1"),
];

/// A shell line in a guest, which must succeed; its output without blanks at its ends.
fn shell(cri: &Cri, id: &str, line: &str) -> Result<String> {
    let result = cri.exec_sync(id, &["/bin/bash", "-c", line]);
    let result = result.with_context(|| line.to_owned())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    ensure!(
        result.exit_code == 0,
        "{line}: {} {}",
        result.exit_code,
        text(&result.stderr)
    );
    Ok(text(&result.stdout))
}

/// A sandbox that containerd asks the shim for: it is made, its guest boots, runs commands and ends.
fn of_the_shim(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let config = pod::sandbox(containerd, "asked")?;
    let pod = cri.run_pod(&config, Containerd::SANDBOXER)?;
    let id = cri.create(&pod, &pod::container("app"), &config)?;
    cri.start(&id)?;
    let sh = |line: &str| shell(&cri, &id, line);
    limit::until("an exec in the guest", limit::BOOT, || Ok(sh("true").ok()))?;
    let words =
        sh("cat /proc/sys/kernel/hostname /etc/resolv.conf && ip -o address show dev eth0")?;
    let address = cri.pod_status(&pod)?.network.ip.clone();
    let address = format!("inet {address}/24");
    bench::in_order(&words, &["asked\n", "search svc.test", &address])?;
    ensure!(words.contains("nameserver 10.96.0.10"), "DNS: {words}");
    let failed = cri.exec_sync(&id, &["/bin/bash", "-c", "exit 7"])?;
    ensure!(failed.exit_code == 7, "{failed:?}");
    streams::are_the_guests(&cri, &id, &config)?;
    cri.stop(&id, 380)?;
    let status = cri.status(&id)?;
    let ended = status.state.enum_value_or_default() == ContainerState::EXITED;
    ensure!(ended && status.exit_code == 0, "{status:?}");
    cri.stop_pod(&pod)?;
    cri.remove_pod(&pod)
}

/// The pod with all that a pod can have; its id, when its container has ended.
fn in_a_pod(containerd: &Containerd) -> Result<String> {
    let cri = Cri::connect(containerd)?;
    let mut config = pod::sandbox(containerd, "guest")?;
    let linux = config.linux.mut_or_insert_default();
    linux.sysctls = SYSCTLS
        .map(|(name, value)| (name.into(), value.into()))
        .into();
    // Before the pod, as kubelet does: where the host's mounts are private, none arrives at a shim that runs.
    let memory = Memory::make(containerd)?;
    let pod = cri.run_pod(&config, "seed")?;
    let cards = Cards::add(containerd, &pod)?;
    let files = Files::make(containerd)?;
    let folders = Folders::make(containerd)?;
    let mut container = pod::container("app");
    container.mounts = files.mounts();
    container.mounts.extend(folders.mounts());
    container.mounts.extend(many_binds(containerd)?);
    container.mounts.push(mount("/dev/shm", &memory.0, false));
    let disk = LoopDevice::make(&containerd.dir().join("raw.img"))?;
    container.devices = vec![Device {
        container_path: "/dev/raw".to_owned(),
        host_path: disk.node.clone(),
        permissions: "rwm".to_owned(),
        ..Default::default()
    }];
    let tpm = Tpm::start(containerd.dir())?;
    container
        .annotations
        .insert(TPM_SOCKET.to_owned(), tpm.socket.display().to_string());
    let id = cri.create(&pod, &container, &config)?;
    cri.start(&id)?;
    let sh = |line: &str| shell(&cri, &id, line);
    limit::until("an exec in the guest", limit::BOOT, || Ok(sh("true").ok()))?;
    files.are_the_guests(sh)?;
    for (name, value) in SYSCTLS {
        let set = sh(&format!("cat /proc/sys/{}", name.replace('.', "/")))?;
        ensure!(
            set.split_whitespace().eq(value.split(' ')),
            "{name} is {set:?}"
        );
    }

    let listed = format!("cat $(seq -f {BINDS_AT}/%g/file -s ' ' 1 {BINDS})");
    let wanted: Vec<_> = (1..=BINDS).map(|number| number.to_string()).collect();
    ensure!(
        sh(&listed)?.split_whitespace().eq(&wanted),
        "the {BINDS} binds"
    );

    // Memory of the pod is memory of the guest: as large as was asked for, and programs share it.
    let size = sh("stat -f -c '%S %b' /dev/shm")?;
    let size: u64 = size
        .split(' ')
        .map(str::parse::<u64>)
        .product::<Result<_, _>>()?;
    ensure!(size == Memory::BYTES, "/dev/shm has {size} bytes");
    sh("echo here > /dev/shm/segment && grep -q here /dev/shm/segment")?;
    ensure!(
        !memory.0.join("segment").exists(),
        "memory of the guest is on the host"
    );

    paused_while_it_logs(containerd, &id, sh)?;

    // A raw block volume: what the guest writes to the device is on the host's.
    // It is whose the engine says, also when udev has looked at it again.
    let looked = "udevadm trigger --subsystem-match=block && udevadm settle";
    let owner = sh(&format!("{looked} && stat -L -c %u:%g:%a /dev/raw"))?;
    let wanted = format!("{0}:{0}:600", LoopDevice::OWNER);
    ensure!(owner == wanted, "the raw volume belongs to {owner}");
    sh("test -b /dev/raw && echo -n straight through | dd of=/dev/raw conv=fsync 2>/dev/null")?;
    ensure!(
        fs::read(containerd.dir().join("raw.img"))?.starts_with(b"straight through"),
        "the raw volume"
    );

    // The TPM is the one that somebody else runs: the identity is in its state, and none is made by the shim.
    ensure!(
        sh("cat /seed/tpm/age-identity")?.contains("AGE-PLUGIN-TPM"),
        "no identity"
    );
    let own = containerd.state_dir().join("tpm/k8s.io/test_guest_app");
    ensure!(
        tpm.has_state()? && !own.join("tpm2-00.permall").exists(),
        "the annotation's TPM was not used"
    );

    // A process that the guest's kernel kills for lack of memory is the container's reason.
    sh(
        "systemd-run --quiet --wait --property=MemoryMax=16M --property=MemorySwapMax=0 tail /dev/zero; test $? != 0",
    )?;
    limit::until("the reason", limit::COMMAND, || {
        Ok((cri.status(&id)?.reason == "OOMKilled").then_some(()))
    })?;

    cards.are_the_guests(sh)?;
    streams::are_the_guests(&cri, &id, &config)?;

    // What listens for the guest alone is reached by a forwarded port, both ways and as often as is wanted.
    sh("systemd-run --quiet systemd-socket-activate --accept --inetd --listen=127.0.0.1:7007 cat")?;
    let echo = || -> Result<()> {
        let mut forward = Stream::open(&cri.port_forward_url(&pod, 7007)?)?;
        forward.send(stream::STDIN, b"into the guest\n")?;
        let text = forward.read_until(stream::STDIN, "guest\n", limit::COMMAND)?;
        ensure!(text.ends_with("into the guest\n"), "forwarded: {text:?}");
        Ok(())
    };
    limit::until("the forwarded port", limit::COMMAND, || Ok(echo().ok()))?;
    echo()?;

    let stats = cri.stats(&id)?;
    ensure!(
        stats.memory.working_set_bytes.value > 0 && stats.cpu.usage_core_nano_seconds.value > 0,
        "{stats:?}"
    );
    // What it wrote last is on the host when it has ended, and nobody has asked for that.
    folders.write(sh)?;
    sh("echo -n the last word | dd of=/dev/raw seek=1 2>/dev/null")?;
    cri.stop(&id, 380)?;
    let status = cri.status(&id)?;
    ensure!(status.exit_code == 0, "{status:?}");
    folders.have_it()?;
    let raw = fs::read(containerd.dir().join("raw.img"))?;
    let written = raw.starts_with(b"straight through") && raw[512..].starts_with(b"the last word");
    ensure!(written, "the raw volume");
    files.are_there()?;
    Ok(pod)
}

/// Volumes that are folders of the host: a claim, and an `emptyDir`, in which everybody may write.
struct Folders {
    dir: PathBuf,
}

impl Folders {
    const AT: [(&str, &str); 2] = [("/srv/claim", "root"), ("/srv/scratch", "nobody")];

    fn make(containerd: &Containerd) -> Result<Self> {
        let dir = containerd.dir().join("folders");
        for (at, _) in Self::AT {
            let folder = dir.join(at.trim_start_matches('/'));
            fs::create_dir_all(&folder)?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
        }
        Ok(Self { dir })
    }

    fn on_the_host(&self, at: &str) -> PathBuf {
        self.dir.join(at.trim_start_matches('/'))
    }

    fn mounts(&self) -> Vec<Mount> {
        let mounts = Self::AT.map(|(at, _)| mount(at, &self.on_the_host(at), false));
        mounts.into()
    }

    fn write(&self, sh: impl Fn(&str) -> Result<String>) -> Result<()> {
        for (at, user) in Self::AT {
            sh(&format!(
                "setpriv --reuid={user} --clear-groups bash -c 'echo of {user} > {at}/file'"
            ))?;
        }
        Ok(())
    }

    fn have_it(&self) -> Result<()> {
        for (at, user) in Self::AT {
            let text = fs::read_to_string(self.on_the_host(at).join("file"))?;
            ensure!(text == format!("of {user}\n"), "{at}: {text:?}");
        }
        Ok(())
    }
}

/// How often a machine is stopped in the middle of what it says.
const PAUSES: usize = 10;

/// A machine that stands still while its log flows and the host asks for more of it goes on where it was.
fn paused_while_it_logs(
    containerd: &Containerd,
    id: &str,
    sh: impl Fn(&str) -> Result<String>,
) -> Result<()> {
    sh("systemd-run --quiet --unit=flood sh -c 'while :; do echo a line of the flood; done'")?;
    for pause in 0..PAUSES {
        containerd.ctr_ok(&["-n", "k8s.io", "tasks", "pause", id])?;
        std::thread::sleep(Duration::from_millis(100));
        containerd.ctr_ok(&["-n", "k8s.io", "tasks", "resume", id])?;
        ensure!(sh("echo here")? == "here", "after pause {pause}");
    }
    sh("systemctl stop flood").map(drop)
}

/// How many folders the pod has mounted, and below what: Kata is known to drop most of so many.
const BINDS: usize = 70;
const BINDS_AT: &str = "/srv/binds";

fn many_binds(containerd: &Containerd) -> Result<Vec<Mount>> {
    let bind = |number: usize| {
        let folder = containerd.dir().join("binds").join(number.to_string());
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("file"), format!("{number}\n"))?;
        Ok(mount(&format!("{BINDS_AT}/{number}"), &folder, true))
    };
    (1..=BINDS).map(bind).collect()
}

/// A block device over a file, until this is dropped; somebody's meanwhile, for the engine takes the owner from it.
struct LoopDevice {
    node: String,
    before: fs::Metadata,
}

impl LoopDevice {
    const OWNER: u32 = 1234;

    fn make(image: &Path) -> Result<Self> {
        fs::write(image, vec![0; 8 << 20])?;
        let mut command = Command::new("losetup");
        command.args(["--find", "--show"]).arg(image);
        let made = output(command, limit::COMMAND)?;
        ensure!(made.status.success(), "losetup: {made:?}");
        let node = String::from_utf8_lossy(&made.stdout).trim().to_owned();
        let before = fs::metadata(&node)?;
        chown(&node, Some(Self::OWNER), Some(Self::OWNER))?;
        fs::set_permissions(&node, fs::Permissions::from_mode(0o600))?;
        Ok(Self { node, before })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let (uid, gid) = (self.before.uid(), self.before.gid());
        let _ = chown(&self.node, Some(uid), Some(gid));
        let _ = fs::set_permissions(&self.node, self.before.permissions());
        let _ = Command::new("losetup")
            .args(["--detach", &self.node])
            .status();
    }
}

/// Kubelet's memory for an `emptyDir` with `medium: Memory`, until this is dropped.
struct Memory(PathBuf);

impl Memory {
    const BYTES: u64 = 3 << 20;

    fn make(containerd: &Containerd) -> Result<Self> {
        let folder = containerd.dir().join("kubernetes.io~empty-dir/memory");
        fs::create_dir_all(&folder)?;
        let mut command = Command::new("mount");
        command.args([
            "-t",
            "tmpfs",
            "-o",
            &format!("size={}", Self::BYTES),
            "tmpfs",
        ]);
        command.arg(&folder);
        let made = output(command, limit::COMMAND)?;
        ensure!(made.status.success(), "mount: {made:?}");
        Ok(Self(folder))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A swtpm of our own, until this is dropped.
struct Tpm {
    child: Child,
    socket: PathBuf,
    state: PathBuf,
}

impl Tpm {
    fn start(dir: &Path) -> Result<Self> {
        let (socket, state) = (dir.join("tpm.sock"), dir.join("own-tpm"));
        fs::create_dir(&state)?;
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--tpmstate"])
            .arg(format!("dir={}", state.display()))
            .arg("--ctrl")
            .arg(format!("type=unixio,path={}", socket.display()))
            .spawn()
            .context("start swtpm")?;
        let tpm = Self {
            child,
            socket,
            state,
        };
        limit::until("swtpm's socket", limit::COMMAND, || {
            Ok(tpm.socket.exists().then_some(()))
        })?;
        Ok(tpm)
    }

    fn has_state(&self) -> Result<bool> {
        Ok(self.state.join("tpm2-00.permall").metadata()?.len() > 0)
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
