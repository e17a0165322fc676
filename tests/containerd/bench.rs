//! A containerd whose instances are stubs, and what must be gone after each.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use seed_tests::{
    Containerd, Version,
    containerd::{Options, Programs, image::Image},
    limit, parts, stub,
};
use serde_json::Value;

/// An image with which a stub boots.
pub(crate) const STUB: &str = "localhost/stub:1";

/// The runtime.
pub(crate) const RUNTIME: &str = "io.containerd.seed.v2";

/// The annotation that names the TPM of somebody else.
pub(crate) const TPM_SOCKET: &str = "io.katacontainers.config.hypervisor.tpm_socket";

/// The init program in [`STUB`].
pub(crate) use seed_tests::stub::INIT;

/// Names the stub's program, where it is not where it was built.
pub(crate) const STUB_VARIABLE: &str = "SEED_TEST_STUB";

/// The stub's program.
pub(crate) fn stub() -> PathBuf {
    let named = env::var_os(STUB_VARIABLE);
    named.map_or_else(|| env!("CARGO_BIN_EXE_stub-vm").into(), PathBuf::from)
}

/// Every stub has room to grow.
const GROWTH: &str = "[growth]\nmax_vcpus = 4\nmax_memory_mib = 2048";

/// What the shim of an instance tells of it.
pub(crate) fn told(containerd: &Containerd, namespace: &str, id: &str) -> Result<Value> {
    let mut seed = containerd.seed(&["--namespace", namespace, "status", "--json", id]);
    let output = seed.output()?;
    ensure!(output.status.success(), "seed status: {output:?}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The pids of an instance by their names, once it has reached a stage.
pub(crate) fn reach(
    containerd: &Containerd,
    namespace: &str,
    id: &str,
    stage: &str,
) -> Result<BTreeMap<String, u32>> {
    limit::until(&format!("{id}: {stage}"), limit::COMMAND, || {
        let status = told(containerd, namespace, id).unwrap_or_default();
        Ok(parts::reached(&status, stage))
    })
}

/// Processors and memory of an instance, as its shim tells them.
pub(crate) fn size(containerd: &Containerd, namespace: &str, id: &str) -> Result<(u64, u64)> {
    let status = told(containerd, namespace, id)?;
    let number = |key: &str| {
        status[key]
            .as_u64()
            .with_context(|| format!("no {key} in {status}"))
    };
    Ok((number("vcpus")?, number("memory_mib")?))
}

/// The step that no stub of this containerd takes, until it is dropped.
pub(crate) struct Hold(PathBuf);

impl Hold {
    pub(crate) fn on(containerd: &Containerd, step: &str) -> Result<Self> {
        let path = containerd.dir().join("hold");
        fs::write(&path, step)?;
        Ok(Self(path))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A containerd with stubs in place of QEMU and its daemons, and an image for them.
pub(crate) fn stubs(
    programs: &Programs,
    version: Version,
    options: &Options,
) -> Result<Containerd> {
    let mut containerd = Containerd::make(programs, version, options)?;
    let names = containerd.dir().join("stubs");
    let programs = stub::programs(&names, &self::stub())?;
    let allowed = "enable_annotations = [\"tpm_socket\"]";
    containerd.write_shim_config(&format!("accel = \"tcg\"\n{allowed}\n{programs}\n{GROWTH}"))?;
    containerd.run()?;
    let root = containerd.dir().join("stub-root");
    stub::root(&root)?;
    containerd.import(&Image {
        name: STUB,
        root: &root,
        entrypoint: &[INIT],
    })?;
    Ok(containerd)
}

/// What the guest of a stub was told, as text.
pub(crate) fn orders(containerd: &Containerd, id: &str) -> Result<String> {
    let told = containerd.dir().join(format!("{id}.txt"));
    limit::until("what the guest was told", limit::COMMAND, || {
        Ok(fs::read_to_string(&told).ok())
    })
}

/// Waits until no process, mount, socket or folder of an instance is left.
pub(crate) fn nothing_left(containerd: &Containerd) -> Result<()> {
    let mut left = Vec::new();
    let waited = limit::until("an empty machine", limit::COMMAND, || {
        left = leftovers(containerd)?;
        Ok(left.is_empty().then_some(()))
    });
    waited.with_context(|| format!("left: {left:?}"))
}

fn leftovers(containerd: &Containerd) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for pid in containerd.shims()? {
        left.push(format!("shim {pid}"));
    }
    let ours = containerd.dir().display().to_string();
    for entry in fs::read_dir("/proc")?.flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let program = line.split(' ').next().unwrap_or_default();
        if program.starts_with(&ours) {
            left.push(format!("process {line}"));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let bundles = format!("{ours}/state");
    left.extend(
        mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .filter(|mount| mount.starts_with(&bundles) || mount.starts_with(&format!("{ours}/r")))
            .map(|mount| format!("mount {mount}")),
    );
    for path in tree(&containerd.run_dir()) {
        // The folders of sockets and of namespaces stay.
        if !path.is_dir()
            || path.components().count() > containerd.run_dir().components().count() + 1
        {
            left.push(path.display().to_string());
        }
    }
    let bundles = containerd.dir().join("state/io.containerd.runtime.v2.task");
    left.extend(
        tree(&bundles)
            .into_iter()
            .filter(|path| path.components().count() > bundles.components().count() + 1)
            .map(|path| path.display().to_string()),
    );
    Ok(left)
}

/// Everything below a folder.
fn tree(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(tree(&path));
        }
        found.push(path);
    }
    found
}

/// The status of a task as `ctr tasks ls` shows it; nothing when there is none.
pub(crate) fn status(containerd: &Containerd, id: &str) -> Result<Option<String>> {
    let list = containerd.ctr_ok(&["tasks", "ls"])?;
    let line = list
        .lines()
        .find(|line| line.split_whitespace().next() == Some(id));
    Ok(line
        .and_then(|line| line.split_whitespace().nth(2))
        .map(str::to_owned))
}

/// Waits for a status of a task.
pub(crate) fn wait_status(containerd: &Containerd, id: &str, wanted: &str) -> Result<()> {
    let mut last = None;
    let waited = limit::until(&format!("{id} {wanted}"), limit::COMMAND, || {
        last = status(containerd, id)?;
        Ok((last.as_deref() == Some(wanted)).then_some(()))
    });
    waited.with_context(|| format!("last seen: {last:?}"))
}

/// The name of a pod's network, of which its sandbox's document has the path.
pub(crate) fn network(containerd: &Containerd, pod: &str) -> Result<String> {
    let bundles = "state/io.containerd.runtime.v2.task/k8s.io";
    let document = containerd.dir().join(bundles).join(pod).join("config.json");
    let document: Value = serde_json::from_slice(&fs::read(document)?)?;
    let all = document["linux"]["namespaces"]
        .as_array()
        .into_iter()
        .flatten();
    let mut networks = all.filter(|one| one["type"] == "network");
    let path = networks.next().and_then(|one| one["path"].as_str());
    let name = path.and_then(|path| path.rsplit_once('/'));
    Ok(name.context("no network in the document")?.1.to_owned())
}

/// Fails unless the text has all of these, in this order.
pub(crate) fn in_order(text: &str, parts: &[&str]) -> Result<()> {
    let mut rest = text;
    for part in parts {
        let at = rest.find(part);
        ensure!(
            at.is_some(),
            "{part:?} is not where it should be in:\n{text}"
        );
        rest = &rest[at.unwrap_or_default() + part.len()..];
    }
    Ok(())
}

/// The end of a log.
pub(crate) fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
