//! A lab whose instances are stubs, and what must be gone after each.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use anyhow::{Context, Error, Result, ensure};
use seed_tests::{Lab, lab, limit, parts, stub};
use serde_json::Value;

/// The stub's variable for a step that never comes.
pub(crate) const HOLD: &str = "STUB_HOLD";

/// The stub's variable for a program that ends at once.
pub(crate) const DIE: &str = "STUB_DIE";

/// The program behind QEMU and its daemons.
const STUB: &str = env!("CARGO_BIN_EXE_stub-vm");

/// Whether this process may mount.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// The lab.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) lab: Lab,
    root: PathBuf,
}

impl Bench {
    /// `Err` is the reason why there is none.
    pub(crate) fn make() -> Result<Self, String> {
        Self::over(Lab::find()?, Path::new(STUB)).map_err(|error| format!("{error:#}"))
    }

    /// One with copies of all programs, so that it can be another user's.
    pub(crate) fn with_copies() -> Result<Self> {
        let lab = Lab::find().map_err(Error::msg)?.with_copies()?;
        let stub = lab.scratch("stub-vm");
        fs::copy(STUB, &stub).context("copy the stub")?;
        Self::over(lab, &stub)
    }

    fn over(lab: Lab, program: &Path) -> Result<Self> {
        let config = stub::programs(&lab.scratch("p"), program)?;
        lab.write_config(&format!(
            "[limits]\nhello_seconds = 60\n[growth]\nmax_vcpus = 2\n{config}"
        ))?;
        let root = lab.scratch("root");
        stub::root(&root)?;
        Ok(Self { lab, root })
    }

    /// `seed ARGS`, to be run by the caller, with variables for the stub.
    pub(crate) fn command(&self, args: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = self.lab.program("seed");
        command.args(args).envs(variables.iter().copied());
        command
    }

    /// What its instances are started from.
    pub(crate) fn root(&self) -> String {
        self.root.to_string_lossy().into_owned()
    }

    /// `seed run` of this name, whatever its end.
    pub(crate) fn run(&self, name: &str, variables: &[(&str, &str)]) -> Result<Output> {
        let root = self.root();
        let command = self.command(&["run", &root, "--name", name], variables);
        lab::output(command, limit::COMMAND)
    }

    /// The same, going on beside the caller.
    pub(crate) fn run_beside(&self, name: &str, variables: &[(&str, &str)]) -> Result<Child> {
        let root = self.root();
        let mut command = self.command(&["run", &root, "--name", name], variables);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().context("start seed")
    }

    /// `seed ARGS`, which must succeed.
    pub(crate) fn seed(&self, args: &[&str]) -> Result<String> {
        self.lab.seed_ok(args, limit::COMMAND)
    }

    /// `seed status --json`, if there is one.
    pub(crate) fn status(&self, name: &str) -> Result<Option<Value>> {
        let output = self.lab.seed(&["status", name, "--json"], limit::COMMAND)?;
        Ok(serde_json::from_slice(&output.stdout).ok())
    }

    /// Waits until this stage is reached; the processes by their names, the shim among them.
    pub(crate) fn reach(&self, name: &str, stage: &str) -> Result<BTreeMap<String, u32>> {
        limit::until(&format!("{name}: {stage}"), limit::COMMAND, || {
            let Some(status) = self.status(name)? else {
                return Ok(None);
            };
            Ok(parts::reached(&status, stage))
        })
    }

    /// Waits until no process, mount, socket, run folder or layer is left.
    pub(crate) fn nothing_left(&self) -> Result<()> {
        let mut left = Vec::new();
        let waited = limit::until("an empty machine", limit::COMMAND, || {
            left = self.leftovers()?;
            Ok(left.is_empty().then_some(()))
        });
        waited.with_context(|| format!("left: {left:#?}"))
    }

    fn leftovers(&self) -> Result<Vec<String>> {
        let place = self.root.parent().context("the root has a parent")?;
        let place = place.to_string_lossy();
        let mut left = Vec::new();
        let own = std::process::id().to_string();
        for entry in fs::read_dir("/proc")?.flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let folder = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            let ours = line.contains(&*place) || folder.starts_with(&*place);
            if ours && entry.file_name() != own.as_str() {
                left.push(format!("process {line}"));
            }
        }
        for table in ["/proc/self/mountinfo", "/proc/net/unix"] {
            let text = fs::read_to_string(table).with_context(|| format!("read {table}"))?;
            let of_run = format!("{}/", self.lab.run_dir().display());
            let lines = text.lines().filter(|line| line.contains(&of_run));
            left.extend(lines.map(str::to_owned));
        }
        left.extend(files(&self.lab.run_dir()));
        left.extend(files(&self.lab.state_dir().join("layers")));
        Ok(left)
    }
}

/// A text of both streams.
pub(crate) fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        .concat()
}

/// Fails unless it failed, and said this.
pub(crate) fn refused(output: &Output, with: &str) -> Result<()> {
    let text = said(output);
    ensure!(!output.status.success(), "it did not fail: {text}");
    ensure!(text.contains(with), "{with:?} is not in: {text}");
    Ok(())
}

/// Files, and folders with nothing in them. The folder of sockets may stay.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let inside = files(&path);
            if inside.is_empty() && entry.file_name() != ".s" {
                found.push(path.display().to_string());
            }
            found.extend(inside);
        } else {
            found.push(path.display().to_string());
        }
    }
    found
}
