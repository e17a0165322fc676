//! The pod's control group: the programs of a machine begin in it and the shim does not, chosen processors hold for them, and
//! it goes with them, however they end. On the kernel's own tree.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use seed_tests::{
    Containerd, Cri,
    cri::api::{ContainerState, LinuxContainerResources, PodSandboxConfig},
    limit,
};

use crate::{
    pod::{container, end, kill_shim, sandbox, state},
    slice,
};

/// Who is in a group.
const PROCESSES: &str = "cgroup.procs";

/// Its name among the cases of a pod.
pub(crate) const CASE: &str = "a_machine_is_in_its_pods_control_group";

/// Whose group is below this path.
pub(crate) fn members(group: &str) -> Result<Vec<(u32, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|pid| pid.parse().ok()) else {
            continue;
        };
        let of = |file| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        if of("cgroup").lines().any(|line| line.contains(group)) {
            found.push((pid, of("cmdline")));
        }
    }
    Ok(found)
}

/// Where hierarchies are mounted: one, or one for each set of controllers.
fn roots() -> Vec<PathBuf> {
    let one = PathBuf::from("/sys/fs/cgroup");
    if one.join(PROCESSES).exists() {
        return vec![one];
    }
    let roots = fs::read_dir(one).into_iter().flatten().flatten();
    let roots = roots.map(|entry| entry.path());
    roots.filter(|root| root.join(PROCESSES).exists()).collect()
}

/// Whether this machine lets us make groups.
pub(crate) fn can_be_made() -> bool {
    let probe = |root: &PathBuf| {
        let dir = root.join(format!("seed-probe-{}", std::process::id()));
        fs::create_dir(&dir).and_then(|()| fs::remove_dir(&dir))
    };
    let roots = roots();
    !roots.is_empty() && roots.iter().all(|root| probe(root).is_ok())
}

/// The file of a group that says whether it stands still.
pub(crate) const FREEZE: &str = "cgroup.freeze";

/// Where groups are made that can be made to stand still, if anywhere. The root itself has no such file.
pub(crate) fn freezing() -> Option<PathBuf> {
    let dir = format!("seed-probe-freeze-{}", std::process::id());
    let freezes = |root: &PathBuf| {
        let dir = root.join(&dir);
        let there = fs::create_dir(&dir).is_ok() && dir.join(FREEZE).exists();
        let _ = fs::remove_dir(&dir);
        there
    };
    roots().into_iter().find(freezes)
}

/// Folders of this group, in whatever hierarchies there are.
pub(crate) fn folders(group: &str) -> Vec<String> {
    let below = group.trim_start_matches('/');
    let dirs = roots().into_iter().map(|root| root.join(below));
    let there = dirs.filter(|dir| dir.is_dir());
    there.map(|dir| dir.display().to_string()).collect()
}

pub(crate) fn is_gone(group: &str) -> Result<()> {
    limit::until("the end of the group", limit::COMMAND, || {
        Ok(folders(group).is_empty().then_some(()))
    })
    .with_context(|| format!("left: {:?}, {:?}", folders(group), members(group)))
}

/// Makes a pod's group be below one of ours; what its path begins with.
pub(crate) fn put(config: &mut PodSandboxConfig) -> String {
    let parent = format!("/seed-test-{}", std::process::id());
    let linux = config.linux.mut_or_insert_default();
    linux.cgroup_parent.clone_from(&parent);
    parent
}

/// Starts a pod in a group of its own, where systemd has the tree in a slice; its id, its container's and the group of its sandbox.
pub(crate) fn started(
    containerd: &Containerd,
    cri: &Cri,
    name: &str,
) -> Result<(String, String, String)> {
    let mut config = sandbox(containerd, name)?;
    let parent = if containerd.is_service() {
        slice::put(&mut config, name)?
    } else {
        put(&mut config)
    };
    let pod = cri.run_pod(&config, "seed")?;
    let id = cri.create(&pod, &container("app"), &config)?;
    cri.start(&id)?;
    let group = if containerd.is_service() {
        format!("{parent}/cri-containerd-{pod}.scope")
    } else {
        format!("{parent}/{pod}")
    };
    Ok((pod, id, group))
}

/// Removes what is above the groups of pods: here nobody else does.
pub(crate) fn sweep() -> Result<()> {
    for dir in folders(&format!("/seed-test-{}", std::process::id())) {
        fs::remove_dir(&dir).with_context(|| format!("remove {dir}"))?;
    }
    Ok(())
}

/// Chooses processors for a container, by CRI.
pub(crate) fn choose(cri: &Cri, id: &str, cpus: &str) -> Result<()> {
    let chosen = LinuxContainerResources {
        cpuset_cpus: cpus.to_owned(),
        ..Default::default()
    };
    cri.update(id, &chosen)
}

/// What is chosen holds for all who are inside, or is refused with the reason.
fn chosen(cri: &Cri, id: &str, inside: &[(u32, String)]) -> Result<()> {
    let shared_out = |root: PathBuf| {
        let one = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        root.join("cpuset.cpus").exists() || one.contains("cpuset")
    };
    if !roots().into_iter().any(shared_out) {
        let said = choose(cri, id, "0")
            .err()
            .context("nothing shares out processors here")?;
        ensure!(
            format!("{said:#}").contains("does not share out processors"),
            "{said:#}"
        );
        return Ok(());
    }
    let status = fs::read_to_string("/proc/self/status")?;
    let ours = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let is_digit = |one: &char| one.is_ascii_digit();
    let cpu: String = ours
        .context("no processors")?
        .trim()
        .chars()
        .take_while(is_digit)
        .collect();
    choose(cri, id, &cpu)?;
    for (pid, line) in inside {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        ensure!(
            status.contains(&format!("Cpus_allowed_list:\t{cpu}\n")),
            "{line} runs on others"
        );
    }
    let said = choose(cri, id, "8000")
        .err()
        .context("there is no such processor")?;
    ensure!(
        format!("{said:#}").contains("cpuset.cpus does not take"),
        "{said:#}"
    );
    Ok(())
}

/// More than stubs take, and less than who starves them wants.
const LIMIT_BYTES: &str = "33554432";

/// What limits the memory of a group: the file of v2 or of v1, where either can be written.
fn memory_limit(group: &str) -> Option<PathBuf> {
    let mut files = folders(group).into_iter().flat_map(|dir| {
        ["memory.max", "memory.limit_in_bytes"].map(|file| Path::new(&dir).join(file))
    });
    files.find(|file| file.exists())
}

/// A limit of the pod's, on the group above, is the machine's: who needs more than it has takes the VMM along.
fn starved(cri: &Cri, id: &str, group: &str, inside: &[(u32, String)]) -> Result<()> {
    let above = group.rsplit_once('/').context("a group above")?.0;
    if above.ends_with(".slice") {
        let memory = format!("MemoryMax={LIMIT_BYTES}");
        slice::set(above, &[&memory, "MemorySwapMax=0"])?;
    } else if let Some(limit) = memory_limit(above) {
        fs::write(&limit, LIMIT_BYTES).with_context(|| format!("write {}", limit.display()))?;
        // No way out either; where there are no such files nothing is swapped.
        for (file, bytes) in [
            ("memory.swap.max", "0"),
            ("memory.memsw.limit_in_bytes", LIMIT_BYTES),
        ] {
            let _ = fs::write(limit.with_file_name(file), bytes);
        }
    } else {
        // No controller of memory here.
        return Ok(());
    }
    let vmm = inside.iter().find(|(_, line)| line.contains("stub-qemu"));
    let vmm = vmm.context("no VMM in the group")?.0;
    // A stub is small: it is to be the one that goes.
    fs::write(format!("/proc/{vmm}/oom_score_adj"), "1000")?;
    let own = memory_limit(group).context("the group's own memory")?;
    // Who is in a group of v2 is in one within it.
    let inner = own.with_file_name("machine").join(PROCESSES);
    let procs = if inner.exists() {
        inner
    } else {
        own.with_file_name(PROCESSES)
    };
    let script = format!(
        "echo 0 > {} && head -c 256M /dev/zero | tail -c 256M > /dev/null",
        procs.display()
    );
    let hog = Command::new("sh")
        .args(["-c", &script])
        .stderr(Stdio::null())
        .status()?;
    ensure!(!hog.success(), "it got what it wanted");
    limit::until("the end", limit::COMMAND, || {
        Ok((state(cri, id)? == ContainerState::EXITED).then_some(()))
    })?;
    let status = cri.status(id)?;
    ensure!(
        status.reason == "OOMKilled" && status.exit_code == 137,
        "{status:?}"
    );
    Ok(())
}

pub(crate) fn pods(containerd: &mut Containerd, cri: &Cri) -> Result<()> {
    let (pod, id, group) = started(containerd, cri, "grouped")?;
    let inside = members(&group)?;
    let named = |(_, line): &(u32, String)| {
        let program = line.split('\0').next().unwrap_or_default();
        let name = Path::new(program).file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    let names: BTreeSet<_> = inside.iter().map(named).collect();
    let all = ["stub-qemu", "stub-swtpm", "stub-virtiofsd", "stub-vsock"];
    ensure!(
        names == all.map(str::to_owned).into(),
        "{group}: {inside:?}"
    );

    // As runc makes them, for whoever keeps the host's accounts: the shim's own files are root's alone.
    for dir in folders(&group) {
        let mode = fs::metadata(&dir)?.permissions().mode() & 0o777;
        ensure!(mode == 0o755, "mode {mode:o} of {dir}");
    }
    chosen(cri, &id, &inside)?;
    starved(cri, &id, &group, &inside)?;
    end(containerd, cri, &pod)?;
    is_gone(&group)?;

    let (pod, id, group) = started(containerd, cri, "grouped-orphan")?;
    ensure!(!members(&group)?.is_empty(), "nobody is in {group}");
    kill_shim(containerd, cri, &pod, &id)?;
    is_gone(&group)?;
    end(containerd, cri, &pod)?;
    if containerd.is_service() {
        return slice::remove();
    }
    sweep()
}
