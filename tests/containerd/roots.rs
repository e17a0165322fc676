//! Roots of many mounts, as snapshotters give them that share a store (one bind for each path), through containerd's service for
//! tasks to the real shim: what its file server sees, and that the host has none of it, meanwhile and after.

use std::{fs, io, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail, ensure};
use seed_tests::{
    Containerd, Runner, Version,
    containerd::{
        Options, Programs,
        tasks::{Tasks, api::Mount},
    },
    lab::output,
    limit,
};

use crate::bench::{self, INIT, RUNTIME, STUB, nothing_left, stubs, wait_status};

/// How many paths of a store.
const PATHS: usize = 70;

/// Where they are in the guest.
const STORE: &str = "nix/store";

/// The name of the one instance.
const ID: &str = "many";

/// Runs them, or says why not. containerd 1.6 loses where a mount goes to.
pub(crate) fn run(runner: &mut Runner, programs: &Programs, version: Version) {
    let case = "containerd_a_root_of_seventy_mounts_is_the_guests_alone";
    let mut containerd = None;
    let passed = runner.case(case, || {
        let made = stubs(programs, version, &Options::default())?;
        let result = many_mounts(&made);
        containerd = Some(made);
        result
    });
    if let Some(containerd) = containerd.filter(|_| !passed) {
        runner.note(&bench::tail(&containerd.log()));
    }
}

fn many_mounts(containerd: &Containerd) -> Result<()> {
    let root = Root::make(containerd)?;
    let seen = start(containerd, &root, &[])?;
    let names: Vec<_> = (1..=PATHS)
        .map(|number| fs::read_to_string(seen.join(STORE).join(number.to_string()).join("name")))
        .collect::<Result<_, _>>()?;
    let wanted: Vec<_> = (1..=PATHS).map(|number| number.to_string()).collect();
    ensure!(names == wanted, "the store's paths: {names:?}");
    let deep = seen.join(STORE).join("1/deep");
    ensure!(
        fs::read_to_string(deep.join("below"))? == "a mount below the first",
        "a bind is not recursive"
    );
    let denied = fs::write(seen.join(STORE).join("7/name"), "x");
    ensure!(denied.is_err(), "a path of the store was written to");
    fs::write(seen.join("new"), "on disk")?;
    ensure!(
        fs::read_to_string(root.dir.join("upper/new"))? == "on disk",
        "a write to the root is not in its upper layer"
    );
    // The mounts are the shim's own: the host has none of them.
    let bundle = containerd.dir().join("state");
    let table = fs::read_to_string("/proc/self/mounts")?;
    let ours = bundle.display().to_string();
    ensure!(!table.contains(&ours), "the host sees a mount of the root");

    end(containerd)?;

    // The same root, and nothing that is written to it is on a disk.
    let annotation = ["--annotation", "seed.loom.farm/root_writes_mib=1"];
    let seen = start(containerd, &root, &annotation)?;
    let last = seen.join(STORE).join(format!("{PATHS}/name"));
    ensure!(
        fs::read_to_string(&last)? == PATHS.to_string(),
        "the last path"
    );
    fs::write(seen.join("kept"), "in memory")?;
    let much = fs::write(seen.join("much"), vec![1; 2 << 20]);
    ensure!(
        much.is_err_and(|error| error.kind() == io::ErrorKind::StorageFull),
        "more than 1 MiB was kept"
    );
    let upper: Vec<_> = fs::read_dir(root.dir.join("upper"))?.collect::<Result<_, _>>()?;
    let upper: Vec<_> = upper.iter().map(fs::DirEntry::file_name).collect();
    ensure!(
        !upper.iter().any(|name| name == "kept"),
        "on disk: {upper:?}"
    );
    end(containerd)?;
    for number in 1..=PATHS {
        let path = root.path(number).join("name");
        ensure!(
            fs::read_to_string(&path)? == number.to_string(),
            "{} is not as it was",
            path.display()
        );
    }
    Ok(())
}

/// Starts the instance; its root as its file server sees it.
fn start(containerd: &Containerd, root: &Root, options: &[&str]) -> Result<PathBuf> {
    let first = ["containers", "create", "--runtime", RUNTIME];
    containerd.ctr_ok(&[&first[..], options, &[STUB, ID, INIT]].concat())?;
    let tasks = Tasks::connect(containerd)?;
    tasks.create(ID, root.mounts())?;
    tasks.start(ID, "")?;
    wait_status(containerd, ID, "RUNNING")?;
    served(containerd)
}

fn end(containerd: &Containerd) -> Result<()> {
    containerd.ctr_ok(&["tasks", "kill", "--signal", "SIGTERM", ID])?;
    wait_status(containerd, ID, "STOPPED")?;
    containerd.ctr_ok(&["tasks", "rm", ID])?;
    containerd.ctr_ok(&["containers", "rm", ID])?;
    nothing_left(containerd)
}

/// The layers and the paths of a store, all on the host.
struct Root {
    dir: PathBuf,
    /// A mount below the first path of the store, until this is dropped.
    below: PathBuf,
}

impl Root {
    fn make(containerd: &Containerd) -> Result<Self> {
        let dir = containerd.dir().join("layers");
        for layer in ["upper", "work"] {
            fs::create_dir_all(dir.join(layer))?;
        }
        let below = dir.join("store/1/deep");
        let root = Self { dir, below };
        for number in 1..=PATHS {
            fs::create_dir_all(root.path(number))?;
            fs::write(root.path(number).join("name"), number.to_string())?;
        }
        fs::create_dir(&root.below)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "below"]).arg(&root.below);
        let made = output(mount, limit::COMMAND)?;
        ensure!(made.status.success(), "mount: {made:?}");
        fs::write(root.below.join("below"), "a mount below the first")?;
        Ok(root)
    }

    /// A path of the store, on the host.
    fn path(&self, number: usize) -> PathBuf {
        self.dir.join("store").join(number.to_string())
    }

    fn mounts(&self) -> Vec<Mount> {
        let option = |name: &str, path: PathBuf| format!("{name}={}", path.display());
        let mut all = vec![Mount {
            type_: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: vec![
                option("lowerdir", self.dir.with_file_name("stub-root")),
                option("upperdir", self.dir.join("upper")),
                option("workdir", self.dir.join("work")),
            ],
            ..Default::default()
        }];
        all.extend((1..=PATHS).map(|number| Mount {
            type_: "bind".to_owned(),
            source: self.path(number).display().to_string(),
            target: format!("/{STORE}/{number}"),
            options: vec!["ro".to_owned(), "rbind".to_owned()],
            ..Default::default()
        }));
        all
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.below).status();
    }
}

/// The root as its file server sees it, in whose mounts it is.
fn served(containerd: &Containerd) -> Result<PathBuf> {
    let program = containerd.dir().join("stubs/stub-virtiofsd");
    for entry in fs::read_dir("/proc")?.flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let words: Vec<_> = line.split('\0').collect();
        if words
            .first()
            .is_none_or(|word| program.as_os_str() != *word)
        {
            continue;
        }
        let joined = words
            .iter()
            .find_map(|word| word.strip_prefix("--shared-dir="));
        let shared = joined.context(format!("no shared folder in {words:?}"))?;
        return Ok(entry
            .path()
            .join("root")
            .join(shared.trim_start_matches('/')));
    }
    bail!("no file server runs")
}
