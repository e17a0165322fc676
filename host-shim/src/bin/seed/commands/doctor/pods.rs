//! What pods need beside what every instance does: what their network is made of, the limits that Kubernetes sets, and that the
//! shim finds its programs when containerd starts it, in another `PATH` than a shell's.

use std::{
    env,
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::process::geteuid;
use seed_shim::{net, text::chain, vmm::programs};

use super::{Finding, Verdict};

/// The `PATH` of a service that names none (systemd.exec(5), "Environment Variables in Spawned Processes").
const SERVICES_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin";

const NO_NETWORK: &str = "no pod with a network can be made";

/// What limits and accounts of pods are made with, and what makes a kernel have it.
const CONTROLLERS: [(&str, &str); 5] = [
    ("cpu", "CONFIG_CGROUP_SCHED"),
    ("cpuset", "CONFIG_CPUSETS"),
    ("io", "CONFIG_BLK_CGROUP"),
    ("memory", "CONFIG_MEMCG"),
    ("pids", "CONFIG_CGROUP_PIDS"),
];

/// A containerd, as far as the shims that it starts find programs.
#[derive(Debug)]
pub(super) struct Containerd {
    /// How it is called.
    who: String,
    /// The folders of its `PATH`, which its shims have as well.
    path: Vec<PathBuf>,
    /// Where its own program is.
    home: Option<PathBuf>,
}

impl Containerd {
    /// Whether a shim of it finds this program.
    fn has(&self, program: &Path) -> bool {
        programs::find_by(program, self.path.clone()).is_some()
    }

    /// Whether it finds a shim of this name itself: in its `PATH`, or beside its own program.
    fn has_shim(&self, name: &Path) -> bool {
        let dirs = self.path.iter().chain(&self.home).cloned();
        programs::find_in(name, dirs).is_some()
    }
}

/// Those that run, or the one that systemd would start.
pub(super) fn containerds(root: &Path) -> Vec<Containerd> {
    let processes = fs::read_dir(root.join("proc")).into_iter().flatten();
    let mut all: Vec<_> = processes
        .flatten()
        .filter_map(|entry| running(&entry.path()))
        .collect();
    if all.is_empty() {
        all.push(Containerd {
            who: "a service such as containerd".into(),
            path: env::split_paths(SERVICES_PATH).collect(),
            home: None,
        });
    }
    all
}

/// The containerd with this folder of `/proc`, if it is one.
fn running(process: &Path) -> Option<Containerd> {
    let name = fs::read(process.join("comm")).ok()?;
    let environment = fs::read(process.join("environ")).ok()?;
    if name.trim_ascii() != b"containerd" {
        return None;
    }
    let pid = process.file_name()?.to_string_lossy();
    let mut variables = environment.split(|byte| *byte == 0);
    let path = variables.find_map(|variable| variable.strip_prefix(b"PATH="));
    let path = OsStr::from_bytes(path.unwrap_or_default());
    let home = fs::read_link(process.join("exe")).ok();
    Some(Containerd {
        who: format!("containerd (process {pid})"),
        path: env::split_paths(path).collect(),
        home: home.and_then(|exe| exe.parent().map(Path::to_owned)),
    })
}

/// A program that was `found` here under the name `program`, unless the shims of every one of these find it too.
pub(super) fn out_of_reach(
    containerds: &[Containerd],
    what: &'static str,
    program: &Path,
    found: &Path,
) -> Option<Finding> {
    let misses = containerds.iter().find(|one| !one.has(program))?;
    Some(missed(
        misses,
        what,
        found,
        "install it in /usr/local/bin, or name its path under [programs] of the shim's configuration",
    ))
}

/// The same of the shim itself.
pub(super) fn shim_out_of_reach(containerds: &[Containerd], found: &Path) -> Option<Finding> {
    let name = Path::new(found.file_name()?);
    let misses = containerds.iter().find(|one| !one.has_shim(name))?;
    Some(missed(
        misses,
        "shim",
        found,
        "install it in /usr/local/bin",
    ))
}

fn missed(by: &Containerd, what: &'static str, found: &Path, remedy: &'static str) -> Finding {
    let Containerd { who, path, .. } = by;
    let path: Vec<_> = path.iter().map(|dir| dir.to_string_lossy()).collect();
    let found = found.display();
    let path = path.join(":");
    let found = format!("{found}, where {who} does not look: its PATH is {path:?}");
    Finding::bad(what, Verdict::NoPods, found, remedy)
}

/// What the kernel has for them.
pub(super) fn look(root: &Path) -> Vec<Finding> {
    let mut findings = vec![tun(root), control_groups(root)];
    findings.push(match net::try_wire() {
        Ok(()) => Finding::good("tc", "an ingress qdisc, u32 and mirred were tried"),
        Err(error) => Finding::bad(
            "tc",
            Verdict::NoPods,
            format!("{}: {NO_NETWORK}", chain(&error)),
            "modprobe sch_ingress cls_u32 act_mirred (CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_U32, CONFIG_NET_ACT_MIRRED)",
        ),
    });
    findings.push(match net::try_loopback() {
        Ok(()) => Finding::good("port-forward", "a program of the kind sk_lookup was tried"),
        Err(error) => Finding::bad(
            "port-forward",
            Verdict::Worse,
            format!("{}: 'kubectl port-forward' fails", chain(&error)),
            "boot Linux 5.9 or later with CONFIG_BPF_SYSCALL",
        ),
    });
    findings
}

/// What the taps of their cards are made with.
fn tun(root: &Path) -> Finding {
    let (what, path) = ("tun", root.join("dev/net/tun"));
    let shown = path.display();
    if path.exists() {
        return Finding::good(what, shown.to_string());
    }
    let found = format!("no {shown}: {NO_NETWORK}");
    Finding::bad(what, Verdict::NoPods, found, "modprobe tun (CONFIG_TUN)")
}

/// What holds the limits that Kubernetes sets for them.
fn control_groups(root: &Path) -> Finding {
    let (what, path) = ("cgroup v2", root.join("sys/fs/cgroup/cgroup.controllers"));
    let (shown, worse) = (path.display(), Verdict::Worse);
    let Ok(list) = fs::read_to_string(&path) else {
        let remedy = "boot with systemd.unified_cgroup_hierarchy=1 (CONFIG_CGROUPS)";
        return Finding::bad(
            what,
            worse,
            format!("no {shown}: Kubernetes wants it"),
            remedy,
        );
    };
    let is_there = |name: &str| list.split_whitespace().any(|one| one == name);
    let missing = CONTROLLERS.iter().filter(|(name, _)| !is_there(name));
    let (names, options): (Vec<&str>, Vec<&str>) = missing.copied().unzip();
    if names.is_empty() {
        return Finding::good(what, shown.to_string());
    }
    let (names, options) = (names.join(", "), options.join(", "));
    Finding::bad(
        what,
        worse,
        format!("{shown} lacks {names}: so much of pods' limits does not hold"),
        format!("boot without cgroup_disable=, with a kernel that has {options}"),
    )
}

/// What `--pods` says to whoever is no root.
pub(super) fn not_by_a_user() -> Finding {
    let uid = geteuid().as_raw();
    let found = format!("uid {uid}: containerd makes them, as root");
    Finding::bad("pods", Verdict::NoPods, found, "ask as root")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A process with this name and `PATH` below `root`.
    fn process(root: &Path, pid: u32, name: &str, path: &str) {
        let folder = root.join(format!("proc/{pid}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("comm"), format!("{name}\n")).unwrap();
        let environment = format!("HOME=/root\0PATH={path}\0LANG=C\0");
        fs::write(folder.join("environ"), environment).unwrap();
    }

    /// A program of this name in `folder`.
    fn program(folder: &Path, name: &str) -> PathBuf {
        fs::create_dir_all(folder).unwrap();
        let path = folder.join(name);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn what_pods_lack_is_named_with_the_option_of_the_kernel_and_stops_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let lacks = tun(root);
        assert_eq!(lacks.verdict, Verdict::NoPods);
        let said = "dev/net/tun: no pod with a network can be made";
        assert!(lacks.found.ends_with(said), "{}", lacks.found);
        assert_eq!(lacks.remedy, "modprobe tun (CONFIG_TUN)");
        fs::create_dir_all(root.join("dev/net")).unwrap();
        fs::write(root.join("dev/net/tun"), "").unwrap();
        let found = tun(root);
        assert_eq!((found.verdict, found.remedy.as_str()), (Verdict::Good, ""));

        let lacks = control_groups(root);
        assert_eq!(lacks.verdict, Verdict::Worse);
        assert!(lacks.remedy.contains("systemd.unified_cgroup_hierarchy=1"));
        let tree = root.join("sys/fs/cgroup");
        fs::create_dir_all(&tree).unwrap();
        let with = |list: &str| {
            fs::write(tree.join("cgroup.controllers"), list).unwrap();
            control_groups(root)
        };
        let lacks = with("cpuset cpu io hugetlb pids rdma\n");
        assert_eq!(lacks.verdict, Verdict::Worse);
        assert!(lacks.found.contains("lacks memory:"), "{}", lacks.found);
        assert!(lacks.remedy.ends_with("CONFIG_MEMCG"), "{}", lacks.remedy);
        let found = with("cpuset cpu io memory pids\n");
        assert_eq!((found.verdict, found.remedy.as_str()), (Verdict::Good, ""));
    }

    #[test]
    fn what_only_a_shell_finds_is_named_with_the_containerd_that_does_not() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let found = program(&root.join("root/.cargo/bin"), "virtiofsd-of-nowhere");
        let name = Path::new("virtiofsd-of-nowhere");
        let lacks = |name: &Path| out_of_reach(&containerds(root), "virtiofsd", name, &found);

        // Nothing runs: a service would not find it either.
        let said = lacks(name).unwrap();
        assert_eq!(said.verdict, Verdict::NoPods);
        assert!(said.found.contains(SERVICES_PATH), "{}", said.found);
        assert!(said.remedy.contains("[programs]"), "{}", said.remedy);
        // A path in the configuration needs no PATH.
        assert!(lacks(&found).is_none());

        let elsewhere = root.join("opt/bin");
        let path = format!("relative:{}:/bin", found.parent().unwrap().display());
        process(root, 70, "bash", "/bin");
        process(root, 71, "containerd", &path);
        assert!(lacks(name).is_none());
        process(root, 72, "containerd", &elsewhere.display().to_string());
        let said = lacks(name).unwrap().found;
        let who = "virtiofsd-of-nowhere, where containerd (process 72) does not look: its PATH is ";
        assert!(said.contains(who) && said.contains("opt/bin"), "{said}");
        program(&elsewhere, "virtiofsd-of-nowhere");
        assert!(lacks(name).is_none());
        // One without any PATH.
        fs::write(root.join("proc/72/environ"), "HOME=/root").unwrap();
        assert!(lacks(name).is_some());
        // sh is where the shim looks after PATH.
        assert!(lacks(Path::new("sh")).is_none());
    }

    #[test]
    fn containerd_finds_a_shim_in_its_path_or_beside_itself() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let found = program(&root.join("home/bin"), "containerd-shim-seed-test");
        process(root, 71, "containerd", "/nonexistent:/bin");
        let lacks = || shim_out_of_reach(&containerds(root), &found);
        assert_eq!(lacks().unwrap().verdict, Verdict::NoPods);
        symlink(root.join("home/bin/containerd"), root.join("proc/71/exe")).unwrap();
        assert!(lacks().is_none());
    }
}
