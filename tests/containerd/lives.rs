//! Many lives in one shim, as a pod has them whose container is started again and again: nothing of any of them stays, in
//! the shim's program, in containerd, or in the pod's network.

use anyhow::{Context, Result, ensure};
use seed_tests::{
    Containerd, Cri, Runner, Version,
    containerd::{Options, Programs},
    limit, process,
};

use crate::{
    bench,
    pod::{container, end, sandbox},
};

const LIVES: u32 = 100;

/// After so many everything is there that is made once and stays.
const FIRST: u32 = 20;

/// What the allocator may keep of the lives after those: a leak of 10 KiB a life goes beyond it.
const MEMORY_KIB: u64 = 800;

/// How many descriptors more containerd may have open for reasons of its own: one a life goes beyond it.
const OF_CONTAINERD: usize = 20;

/// What is there when no life is.
#[derive(Debug)]
struct Held {
    /// Of the shim.
    descriptors: usize,
    threads: usize,
    mounts: usize,
    children: Vec<u32>,
    /// Of the pod, in whose network the shim is.
    links: Vec<String>,
    /// Of containerd.
    descriptors_there: usize,
}

impl Held {
    fn by(containerd: &Containerd) -> Result<Self> {
        let shim = shim(containerd)?;
        let daemon = containerd.pid().context("containerd does not run")?;
        let links = process::file(shim, "net/dev")?;
        let links = links.lines().filter_map(|line| line.split_once(':'));
        Ok(Self {
            descriptors: process::count(shim, "fd")?,
            threads: process::count(shim, "task")?,
            mounts: process::file(shim, "mountinfo")?.lines().count(),
            children: process::children(shim)?,
            links: links.map(|(name, _)| name.trim().to_owned()).collect(),
            descriptors_there: process::count(daemon, "fd")?,
        })
    }

    /// Whether nothing of a life is left that was not there before.
    fn is_all_of(&self, before: &Self) -> bool {
        self.descriptors <= before.descriptors
            && self.threads <= before.threads
            && self.mounts <= before.mounts
            && self.children.is_empty()
            && self.links == ["lo", "eth0"]
            && self.descriptors_there <= before.descriptors_there + OF_CONTAINERD
    }
}

fn shim(containerd: &Containerd) -> Result<u32> {
    let shims = containerd.shims()?;
    ensure!(shims.len() == 1, "shims: {shims:?}");
    Ok(shims[0])
}

/// Memory of the shim's own (proc_pid_status(5)).
fn memory_kib(containerd: &Containerd) -> Result<u64> {
    let status = process::file(shim(containerd)?, "status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    kib.context("no RssAnon")?.parse().context("RssAnon")
}

pub(crate) fn run(runner: &mut Runner, programs: &Programs, version: Version) {
    let name = format!("pods_{version}_one_shim_serves_many_lives_and_keeps_nothing_of_them");
    runner.case(&name, || {
        let options = Options {
            network: true,
            ..Options::default()
        };
        let containerd = bench::stubs(programs, version, &options)?;
        containerd.import_busybox()?;
        lives(&containerd, &Cri::connect(&containerd)?)
    });
}

fn lives(containerd: &Containerd, cri: &Cri) -> Result<()> {
    let config = sandbox(containerd, "lives")?;
    let pod = cri.run_pod(&config, "seed")?;
    let mut before = None;
    for life in 0..LIVES {
        if life == FIRST {
            before = Some((Held::by(containerd)?, memory_kib(containerd)?));
        }
        let id = cri.create(&pod, &container("app"), &config)?;
        cri.start(&id)?;
        if life % 10 == 0 {
            ensure!(cri.exec_sync(&id, &["false"])?.exit_code == 3, "exec");
        }
        // Powered off and killed, by turns.
        let grace = if life % 2 == 0 { 20 } else { 0 };
        cri.stop(&id, grace)?;
        cri.remove(&id)?;
    }
    let (held, memory) = before.context("too few lives")?;
    // What was told to end may still be at it.
    let mut now = None;
    let given_back = limit::until("what the lives held", limit::COMMAND, || {
        let held_now = now.insert(Held::by(containerd)?);
        Ok(held_now.is_all_of(&held).then_some(()))
    });
    given_back.with_context(|| format!("{held:?} before, {now:?} after"))?;
    let more = memory_kib(containerd)?.saturating_sub(memory);
    ensure!(
        more < MEMORY_KIB,
        "the shim has {more} KiB more than the {memory} KiB before"
    );
    end(containerd, cri, &pod)
}
