//! One instance in directories of its own, driven through the `seed` command line as its owner would. Demo and
//! bench use it; nothing here reaches into the shim or the guest in any other way.
//!
//! However this process ends, the instance goes with it: a guard process holds the other end of a pipe, and when that
//! closes without a word it stops the instance and removes the directories.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, DirBuilder, OpenOptions},
    io::{Read, Write},
    os::unix::{fs::DirBuilderExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{self, Child, ChildStdin, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::util::{self, Places, Progress};

/// From `seed run` to a guest that is up. A busy machine without KVM takes half a minute, with several at once two.
pub(crate) const BOOT: Duration = Duration::from_secs(720);
/// An orderly poweroff.
pub(crate) const STOP: Duration = Duration::from_secs(360);
/// Anything else that `seed` does.
pub(crate) const COMMAND: Duration = Duration::from_secs(180);
/// How often a wait looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// What the guard runs: waits for a word or the pipe's end. `$1` is the directory, the rest are instances.
const GUARD: &str = r#"
read -r word
[ "$word" = done ] && exit 0
directory=$1; shift
for name; do
  seed stop "$name" --kill
  seed rm "$name" --yes
done
tries=0
while [ $tries -lt 100 ]; do
  # What others start on their behalf: a containerd, its shims, and what those run, a shim's cleanup among it.
  for process in /proc/[0-9]*; do
    tr '\0' ' ' <"$process/cmdline" 2>/dev/null | grep -qF "$directory/" && kill -KILL "${process#/proc/}"
  done
  # They hold the disk for a moment. What else is mounted is not ours to empty.
  umount "$directory/state" 2>/dev/null
  rm -rf --one-file-system "$directory" 2>/dev/null && break
  tries=$((tries + 1))
  sleep 0.1
done
for namespace in /run/netns/"${directory##*/}"-*; do
  [ -e "$namespace" ] && ip netns delete "${namespace##*/}"
done
"#;

/// The directories, the configuration that names them, and where the programs are.
#[derive(Debug)]
pub(crate) struct Lab {
    dir: PathBuf,
    guest: PathBuf,
    path: String,
    /// What every command is told beside.
    variables: Vec<(&'static str, String)>,
    guard: Option<(Child, ChildStdin)>,
}

impl Lab {
    /// A new one. `instances` are the names that will be used in it.
    pub(crate) fn make(
        places: &Places,
        guest: PathBuf,
        accel: &str,
        instances: &[&str],
    ) -> Result<Self> {
        // Short: Unix socket paths end at 108 bytes.
        let dir = PathBuf::from(format!("/tmp/seed-{}", process::id()));
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        builder
            .create(&dir)
            .with_context(|| format!("make {}", dir.display()))?;
        let mut lab = Self {
            dir,
            guest,
            path: places.path_variable(),
            variables: Vec::new(),
            guard: None,
        };
        let config = format!(
            "run_dir = {:?}\nstate_dir = {:?}\naccel = {accel:?}\n",
            lab.run_dir(),
            lab.state_dir()
        );
        fs::write(lab.config(), config).context("write the configuration")?;
        let mut guard = lab.command("sh");
        guard
            .args(["-c", GUARD, "guard"])
            .arg(&lab.dir)
            .args(instances)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C ends the foreground's process group; the guard must outlive it.
            .process_group(0);
        let mut guard = guard.spawn().context("start sh")?;
        let word = guard.stdin.take().context("the guard has no pipe")?;
        lab.guard = Some((guard, word));
        Ok(lab)
    }

    /// Programs in this folder are found before all others.
    pub(crate) fn prefer(&mut self, folder: &Path) {
        self.path = format!("{}:{}", folder.display(), self.path);
    }

    /// Adds lines to the shim's configuration.
    pub(crate) fn configure(&self, lines: &str) -> Result<()> {
        let mut config = OpenOptions::new().append(true).open(self.config())?;
        config
            .write_all(lines.as_bytes())
            .context("add to the configuration")
    }

    /// The guest's root on the host.
    pub(crate) fn guest(&self) -> &Path {
        &self.guest
    }

    /// The shim's configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("shim.toml")
    }

    /// Everything of this lab.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Sockets and records of running instances.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Volumes, TPM state, logs, layers.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// A program that sees ours first in its `PATH`, and our configuration.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.envs(self.environment()).stdin(Stdio::null());
        command
    }

    /// The variables of [`Self::command`].
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let config = self.config().to_string_lossy().into_owned();
        let mut all = vec![("PATH", self.path.clone()), ("SEED_CONFIG", config)];
        all.extend(self.variables.iter().cloned());
        all
    }

    /// One more of them, from now on.
    pub(crate) fn tell(&mut self, name: &'static str, value: String) {
        self.variables.push((name, value));
    }

    /// Where a program is that [`Self::command`] would find.
    pub(crate) fn find(&self, name: &str) -> Result<PathBuf> {
        util::which(name, &self.path).with_context(|| format!("{name} is not there"))
    }

    /// Runs `seed ARGS`, which must succeed; its standard output.
    pub(crate) fn seed(&self, args: &[&str], limit: Duration) -> Result<String> {
        let output = self.try_seed(args, limit)?;
        ensure!(
            output.status.success(),
            "`seed {}`: {}: {}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `seed ARGS`, whatever its end.
    pub(crate) fn try_seed(&self, args: &[&str], limit: Duration) -> Result<Output> {
        let mut command = self.command("seed");
        command.args(args);
        run(&mut command, &[], limit, None)
    }

    /// As [`Self::seed`], and says now and then that it is at it.
    pub(crate) fn seed_slowly(&self, label: &str, args: &[&str], limit: Duration) -> Result<f64> {
        let start = Instant::now();
        let mut command = self.command("seed");
        command.args(args);
        let output = run(&mut command, &[], limit, Some(Progress::start(label)))?;
        ensure!(
            output.status.success(),
            "`seed {}`: {}: {}",
            args.first().unwrap_or(&""),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(start.elapsed().as_secs_f64())
    }

    /// `seed status NAME --json`.
    pub(crate) fn status(&self, name: &str) -> Result<Value> {
        let text = self.seed(&["status", name, "--json"], COMMAND)?;
        serde_json::from_str(&text).with_context(|| format!("seed status --json printed {text:?}"))
    }

    /// Runs a command in the guest; what it printed, byte for byte.
    pub(crate) fn exec(&self, name: &str, command: &[&str]) -> Result<Output> {
        let mut args = vec!["exec", name, "--"];
        args.extend(command);
        self.try_seed(&args, COMMAND)
    }

    /// Runs a shell line in the guest, which must succeed; its output less the last newline.
    pub(crate) fn sh(&self, name: &str, line: &str) -> Result<String> {
        succeeded(line, self.exec(name, &["/bin/sh", "-c", line])?)
    }

    /// Seals a text to a recipient by `age` with our plugin; neither needs a TPM for it.
    pub(crate) fn encrypt(&self, recipient: &str, secret: &str) -> Result<Vec<u8>> {
        let mut age = self.command("age");
        age.args(["--encrypt", "--armor", "--recipient", recipient]);
        let output = run(&mut age, secret.as_bytes(), COMMAND, None)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "age: {}: {}",
            output.status,
            error.trim()
        );
        Ok(output.stdout)
    }

    /// Writes a file in the guest, to its disk.
    pub(crate) fn put(&self, name: &str, path: &str, bytes: &[u8]) -> Result<()> {
        let line = format!("cat > {path} && sync");
        let mut seed = self.command("seed");
        seed.args(["exec", name, "-i", "--", "/bin/sh", "-c", &line]);
        let output = run(&mut seed, bytes, COMMAND, None)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{path}: {}: {}",
            output.status,
            error.trim()
        );
        Ok(())
    }

    /// Gives the state directory a small disk of its own, which can be filled without harm to others.
    pub(crate) fn with_small_disk(self, mib: u32) -> Result<Self> {
        let state = self.state_dir();
        fs::create_dir_all(&state).with_context(|| format!("make {}", state.display()))?;
        let size = format!("size={mib}m,mode=0700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "seed-lab"]);
        util::read(mount.arg(&state))?;
        Ok(self)
    }

    /// Leaves the instance running and everything where it is.
    pub(crate) fn keep(mut self) -> Result<()> {
        self.dismiss().map(drop)
    }

    /// Removes the directories; instances are the caller's to stop and remove before.
    pub(crate) fn remove(mut self) -> Result<()> {
        let dir = self.dismiss()?;
        // Fails where the state directory has no disk of its own; where it has one, the removal says so.
        util::output(Command::new("umount").arg(self.state_dir()))?;
        fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))
    }

    fn dismiss(&mut self) -> Result<PathBuf> {
        if let Some((mut guard, mut word)) = self.guard.take() {
            word.write_all(b"done\n").context("dismiss the guard")?;
            guard.wait()?;
        }
        Ok(self.dir.clone())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Not dismissed: the guard's pipe closes here, and it cleans up. Wait, so that nothing is left when we end.
        if let Some((mut guard, word)) = self.guard.take() {
            drop(word);
            let _ = guard.wait();
        }
    }
}

/// Runs a command to its end with `input`; kills it when the limit is over.
pub(crate) fn run(
    command: &mut Command,
    input: &[u8],
    limit: Duration,
    mut progress: Option<Progress>,
) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().with_context(|| format!("start {name}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_vec();
        // A program that reads no further says why itself.
        thread::spawn(move || stdin.write_all(&input));
    }
    let reader = |pipe: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                // A broken pipe ends the output as its end does.
                let _ = pipe.read_to_end(&mut bytes);
            }
            bytes
        })
    };
    let stdout = reader(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let stderr = reader(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!("{name} did not end within {} s", limit.as_secs());
        }
        if let Some(progress) = &mut progress {
            progress.tick();
        }
        thread::sleep(Duration::from_millis(10));
    };
    if let Some(progress) = progress {
        progress.clear();
    }
    let join = |thread: thread::JoinHandle<Vec<u8>>| thread.join().unwrap_or_default();
    Ok(Output {
        status,
        stdout: join(stdout),
        stderr: join(stderr),
    })
}

/// What a shell line in a guest printed, less the last newline; an error where it failed.
pub(crate) fn succeeded(line: &str, output: Output) -> Result<String> {
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "`{line}` in the guest: {}: {}",
        output.status,
        error.trim()
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.strip_suffix('\n').map(str::to_owned).unwrap_or(text))
}

/// Looks again until there is an answer; the error says what was waited for.
pub(crate) fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = look()? {
            return Ok(answer);
        }
        if start.elapsed() > limit {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// The processes of an instance as its status names them: name and pid.
pub(crate) fn processes(status: &Value) -> BTreeMap<String, u32> {
    let all = status["processes"].as_array().into_iter().flatten();
    all.filter_map(|one| {
        let pid = u32::try_from(one["pid"].as_u64()?).ok()?;
        Some((one["name"].as_str()?.to_owned(), pid))
    })
    .collect()
}

/// Sends a signal by its short name.
pub(crate) fn signal(pid: u32, name: &str) -> Result<()> {
    // The shell's own: a small machine has no other.
    util::read(Command::new("sh").args(["-c", &format!("kill -{name} {pid}")])).map(drop)
}

/// Whether a process runs (a zombie does not).
pub(crate) fn alive(pid: u32) -> bool {
    state(pid).is_some_and(|state| !['Z', 'X'].contains(&state))
}

/// Whether a process stands still since a signal said so.
pub(crate) fn stopped(pid: u32) -> bool {
    state(pid) == Some('T')
}

/// A process's state, as a letter.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}

/// A process's parent.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = stat.rsplit(')').next()?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_hangs_is_ended_at_its_limit() {
        let mut sleep = Command::new("sleep");
        let error = run(sleep.arg("60"), &[], Duration::from_millis(100), None);
        let error = error.expect_err("it hung").to_string();
        assert!(error.starts_with("sleep did not end"), "{error}");
        let output = run(&mut Command::new("cat"), b"word", COMMAND, None).expect("ran");
        assert_eq!(output.stdout, b"word");
    }

    #[test]
    fn a_dropped_lab_is_cleaned_up_and_a_kept_one_is_not() {
        let root = std::env::temp_dir();
        let places = Places {
            root: root.clone(),
            cache: root.clone(),
            target: root.clone(),
        };
        let make = || Lab::make(&places, root.clone(), "tcg", &[]).expect("made");
        let lab = make();
        let dir = lab.dir().to_owned();
        assert!(lab.config().is_file());
        drop(lab);
        assert!(!dir.exists());
        make().keep().expect("kept");
        assert!(dir.is_dir());
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn processes_are_told_from_ended_ones() {
        assert!(alive(process::id()));
        assert!(parent(process::id()).is_some_and(alive));
        assert!(!alive(u32::MAX));
        let status = serde_json::json!({ "processes": [{ "name": "qemu", "pid": 7 }] });
        assert_eq!(processes(&status), BTreeMap::from([("qemu".to_owned(), 7)]));
    }
}
