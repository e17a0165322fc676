//! The host that most pods run on, which the machine of a test is not: systemd is process 1 and has the one tree of control groups
//! (v2), containerd is a service of it, and kubelet names slices. A guest is such a host: it boots as an instance, these
//! very cases run in it, over stub VMs, and its systemd does what one does over the years.

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use seed_tests::{
    Containerd, Cri, Instance, Lab, Runner, Spec, Version,
    containerd::{Options, Programs, VARIABLE, service},
    cri::api::ContainerState,
    lab::{BIN_VARIABLE, GUEST_VARIABLE, output},
    limit, process,
};

use crate::{
    bench::{self, STUB_VARIABLE},
    ctr, group, pod, slice,
};

/// Set where the cases are in such a host. Elsewhere containerd's service may be somebody's.
const INSIDE: &str = "SEED_TEST_HOST";

/// Where everything is in it: in memory.
const FOLDER: &str = "/tmp/host";

/// What our programs are there.
const OURS: [&str; 2] = ["containerd-shim-seed-v2", "seed"];

/// How long all cases may take there: a minute, and many on a busy machine without KVM.
const ALL_CASES: Duration = Duration::from_secs(1200);

/// More open files than systemd lets its services have by itself.
const MANY_FILES: u64 = 10_000;

/// The program of these cases there, and the stub.
const CASES: &str = "cases";
const STUB: &str = "stub-vm";

const INSIDE_CASES: [pod::Case; 5] = [
    ("run_exec_pause_kill_and_remove", |containerd, _| {
        ctr::whole_life(containerd)
    }),
    ("a_pod_lives_and_leaves_nothing", pod::whole_life),
    (group::CASE, group::pods),
    ("a_pod_stays_as_it_is_whatever_systemd_does", stays),
    ("doctor_says_what_the_host_has", |containerd, _| {
        doctor(containerd)
    }),
];

/// Whether this is such a host.
pub(crate) fn is_here() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Runs the cases in it.
pub(crate) fn inside(runner: &mut Runner, programs: &Programs, version: Version) {
    let options = Options {
        network: true,
        service: true,
        ..Options::default()
    };
    pod::run(runner, programs, version, "host", &options, &INSIDE_CASES);
}

/// One that boots beside other cases, and what its own said.
pub(crate) struct Host {
    name: String,
    cases: Option<JoinHandle<Result<String>>>,
}

impl Host {
    /// Begins to boot it, and to run the cases in it, where anybody wants that.
    pub(crate) fn begin(runner: &Runner, programs: &Programs, version: Version) -> Self {
        let name = format!("host_{version}_systemd_and_one_tree_of_control_groups");
        let wanted = env::var_os(GUEST_VARIABLE).is_some() && runner.wants(&[&name]);
        let programs = programs.clone();
        let run = move || {
            let lab = Lab::find().map_err(anyhow::Error::msg)?;
            let size = ["--size", "m", "--network", "none"];
            let host = Instance::run(&lab, &Spec::default().with(size))?;
            equip(&lab, &host, &programs, version).context("equip the host")?;
            cases(&host)
        };
        let cases = wanted.then(|| thread::spawn(run));
        Self { name, cases }
    }

    /// Waits for the end of all.
    pub(crate) fn end(self, runner: &mut Runner) {
        if env::var_os(GUEST_VARIABLE).is_none() {
            let reason = format!("{GUEST_VARIABLE} names no guest's root");
            return runner.skip(&self.name, &reason);
        }
        let mut said = String::new();
        runner.case(&self.name, || {
            let cases = self.cases.context("it was not begun")?.join();
            said = cases.map_err(|_| anyhow!("it panicked"))??;
            Ok(())
        });
        if !said.is_empty() {
            runner.note(said.trim_end());
        }
    }
}

/// Brings the programs there.
fn equip(lab: &Lab, host: &Instance<'_>, programs: &Programs, version: Version) -> Result<()> {
    let staged = lab.scratch("host");
    let link = |from: &Path, to: PathBuf| -> Result<()> {
        fs::create_dir_all(to.parent().context("no folder")?)?;
        symlink(from, &to).with_context(|| format!("make {}", to.display()))
    };
    for name in OURS {
        link(&programs.ours(name), staged.join("bin").join(name))?;
    }
    link(&env::current_exe()?, staged.join(CASES))?;
    link(&bench::stub(), staged.join(STUB))?;
    for (from, below) in programs.needed(version) {
        link(&from, staged.join("containerd").join(below))?;
    }
    let mut tar = Command::new("tar");
    tar.args(["--create", "--dereference", "--directory"])
        .arg(&staged)
        .arg(".");
    let mut tar = tar.stdout(Stdio::piped()).spawn().context("start tar")?;
    let line = format!("mkdir {FOLDER} && tar --extract --no-same-owner --directory {FOLDER}");
    let mut exec = lab.program("seed");
    exec.args(["exec", "--stdin", host.name(), "--", "/bin/sh", "-c", &line]);
    exec.stdin(tar.stdout.take().context("no pipe")?);
    let done = output(exec, limit::COMMAND)?;
    let packed = tar.wait()?;
    ensure!(
        packed.success() && done.status.success(),
        "tar: {packed}, and in the host {}: {}",
        done.status,
        String::from_utf8_lossy(&done.stderr).trim()
    );
    Ok(())
}

/// Runs the cases there; what they said.
fn cases(host: &Instance<'_>) -> Result<String> {
    let line = format!(
        "exec env {INSIDE}=1 {BIN_VARIABLE}={FOLDER}/bin {STUB_VARIABLE}={FOLDER}/{STUB} \
         {VARIABLE}={FOLDER}/containerd {FOLDER}/{CASES}"
    );
    let words = ["exec", host.name(), "--", "/bin/sh", "-c", &line];
    let done = host.lab().seed(&words, ALL_CASES)?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    if !done.status.success() {
        bail!(
            "{}:\n{said}{}",
            done.status,
            String::from_utf8_lossy(&done.stderr)
        );
    }
    ensure!(!said.contains("SKIPPED"), "all is there for all:\n{said}");
    // One case here, however many there.
    Ok(said
        .lines()
        .map(|line| format!("  in it: {line}\n"))
        .collect())
}

/// A pod's limits, accounts, processors, programs and shim, before and after all that systemd may do.
fn stays(containerd: &mut Containerd, cri: &Cri) -> Result<()> {
    let (pod, id, group) = group::started(containerd, cri, "stays")?;
    let above = group.rsplit_once('/').context("a slice")?.0.to_owned();
    slice::set(&above, &["MemoryMax=1G", "TasksMax=500", "CPUWeight=50"])?;
    group::choose(cri, &id, "0")?;
    let machine = Machine::look(containerd, &group)?;
    machine
        .is_as_it_was(containerd, &above)
        .context("at first")?;
    let own = slice::name(&above)?;
    let unit = format!("--slice={own}");
    let disturbances: [(&str, &[&str]); 6] = [
        ("systemctl", &["daemon-reload"]),
        (
            "systemd-run",
            &["--quiet", "--wait", "--collect", &unit, "true"],
        ),
        (
            "systemctl",
            &["set-property", "--runtime", own, "TasksMax=500"],
        ),
        ("systemctl", &["daemon-reexec"]),
        ("systemctl", &["restart", service::UNIT]),
        (
            "systemctl",
            &["kill", "--kill-whom=main", "--signal=KILL", service::UNIT],
        ),
    ];
    for (program, words) in disturbances {
        let line = format!("{program} {}", words.join(" "));
        let done = output(command(program, words), limit::COMMAND)?;
        ensure!(done.status.success(), "{line}: {done:?}");
        let cri = limit::until("CRI", limit::COMMAND, || {
            let cri = Cri::connect(containerd).ok();
            Ok(cri.filter(|cri| cri.pod_status(&pod).is_ok()))
        })
        .context(line.clone())?;
        machine
            .is_as_it_was(containerd, &above)
            .context(line.clone())?;
        let runs = pod::state(&cri, &id)? == ContainerState::RUNNING;
        ensure!(
            runs && cri.exec_sync(&id, &["false"])?.exit_code == 3,
            "{line}: it does not run"
        );
    }
    let cri = Cri::connect(containerd)?;
    let [stats] = &cri.pod_stats(&pod)?[..] else {
        bail!("stats: {:?}", cri.pod_stats(&pod)?);
    };
    ensure!(
        stats.memory.working_set_bytes.value > 0 && stats.cpu.usage_core_nano_seconds.value > 0,
        "{stats:?}"
    );
    pod::end(containerd, &cri, &pod)?;
    group::is_gone(&group)?;
    slice::remove()
}

fn command(program: &str, words: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(words);
    command
}

/// What a pod's machine consists of.
struct Machine {
    group: String,
    inside: BTreeSet<u32>,
    shims: Vec<u32>,
}

impl Machine {
    fn look(containerd: &Containerd, group: &str) -> Result<Self> {
        let inside = group::members(group)?;
        Ok(Self {
            group: group.to_owned(),
            inside: inside.into_iter().map(|(pid, _)| pid).collect(),
            shims: containerd.shims()?,
        })
    }

    fn is_as_it_was(&self, containerd: &Containerd, above: &str) -> Result<()> {
        let now = Self::look(containerd, &self.group)?;
        ensure!(
            now.inside == self.inside && now.inside.len() >= 4,
            "{:?} in place of {:?}",
            now.inside,
            self.inside
        );
        ensure!(
            now.shims == self.shims && now.shims.len() == 1,
            "shims {:?} in place of {:?}",
            now.shims,
            self.shims
        );
        // Beside containerd: who ends a pod kills what is in its slice.
        let shim = process::file(now.shims[0], "cgroup")?;
        ensure!(
            shim.trim() == format!("0::/system.slice/{}", service::UNIT),
            "the shim is in {shim}"
        );
        let [folder] = &group::folders(&self.group)[..] else {
            bail!("{} is not one folder", self.group);
        };
        let read = |file: &str| {
            let path = Path::new(folder).join(file);
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        for (file, least) in [("memory.current", 1), ("pids.current", 4)] {
            let value: u64 = read(file)?.trim().parse()?;
            ensure!(value >= least, "{file} of {folder} is {value}");
        }
        let used = read("cpu.stat")?;
        ensure!(
            !used.contains("usage_usec 0\n"),
            "cpu.stat of {folder}: {used}"
        );
        ensure!(
            read("memory.events")?.contains("oom_kill 0"),
            "memory.events of {folder}"
        );
        read("io.stat")?;
        ensure!(
            read("cpuset.cpus")?.trim() == "0",
            "cpuset.cpus of {folder}"
        );
        for pid in &now.inside {
            let status = process::file(*pid, "status")?;
            ensure!(
                status.contains("Cpus_allowed_list:\t0\n"),
                "{pid} runs on others"
            );
        }
        let limits = process::file(now.shims[0], "limits")?;
        let files = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"));
        let files: u64 = files
            .and_then(|line| line.split_whitespace().next())
            .context("no limit of open files")?
            .parse()?;
        ensure!(files >= MANY_FILES, "the shim may have {files} files open");
        let root = Path::new("/sys/fs/cgroup").join(above.trim_start_matches('/'));
        for (file, wanted) in [
            ("memory.max", "1073741824"),
            ("pids.max", "500"),
            ("cpu.weight", "50"),
        ] {
            let value = fs::read_to_string(root.join(file)).with_context(|| file.to_owned())?;
            ensure!(value.trim() == wanted, "{file} of the slice is {value}");
        }
        Ok(())
    }
}

/// What there is is said to be there, and nothing else of what stubs have not.
fn doctor(containerd: &Containerd) -> Result<()> {
    let said = containerd.seed(&["doctor", "--json"]).output()?;
    let said: serde_json::Value = serde_json::from_slice(&said.stdout)
        .with_context(|| format!("doctor: {}", String::from_utf8_lossy(&said.stderr)))?;
    let findings = said["findings"].as_array().context("no findings")?;
    for what in [
        "user",
        "shim",
        "overlayfs",
        "tun",
        "cgroup v2",
        "tc",
        "port-forward",
        "run folder",
        "state folder",
    ] {
        let found = findings.iter().find(|finding| finding["what"] == what);
        let found = found.with_context(|| format!("nothing of {what} in {said}"))?;
        ensure!(found["verdict"] == "ok", "{found}");
    }
    Ok(())
}
