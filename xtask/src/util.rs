//! What the commands share: the places on this machine, running programs with progress and with
//! privileges, and a hash for names in the cache.
//!
//! Never decides what to run: the commands do.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, IsTerminal, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How often a long step says that it is still at work.
const PROGRESS_TERMINAL: Duration = Duration::from_secs(1);
const PROGRESS_LOG: Duration = Duration::from_secs(15);
/// What of a failed step's output is shown.
const TAIL_LINES: usize = 60;
/// Until the network is tried again.
pub(crate) const NETWORK_PAUSE: Duration = Duration::from_secs(30);

/// Where things are.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// The checkout.
    pub(crate) root: PathBuf,
    /// `<user's cache>/seed`.
    pub(crate) cache: PathBuf,
    /// Cargo's target folder.
    pub(crate) target: PathBuf,
}

impl Places {
    /// From the environment that cargo gives us, and `XDG_CACHE_HOME` or `HOME`.
    pub(crate) fn find() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest
            .parent()
            .context("xtask is not inside a workspace")?
            .to_owned();
        let absolute = |name: &str| {
            let path = env::var_os(name).map(PathBuf::from);
            path.filter(|path| path.is_absolute())
        };
        let cache = match absolute("XDG_CACHE_HOME") {
            Some(cache) => cache,
            None => absolute("HOME")
                .context("neither XDG_CACHE_HOME nor HOME is an absolute path: set one")?
                .join(".cache"),
        };
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(target) => root.join(target),
            None => root.join("target"),
        };
        Ok(Self {
            root,
            cache: cache.join("seed"),
            target,
        })
    }

    /// The places as words for `xtask --places`: how a part that runs as root by sudo is told where the
    /// caller's things are.
    pub(crate) fn words(&self) -> Vec<OsString> {
        let places = [&self.root, &self.cache, &self.target];
        let values = places
            .into_iter()
            .map(|place| place.clone().into_os_string());
        std::iter::once("--places".into()).chain(values).collect()
    }

    /// Programs that are built for the lab (virtiofsd).
    pub(crate) fn tools(&self) -> PathBuf {
        self.cache.join("tools")
    }

    /// Our own programs, as `cargo xtask build` makes them.
    pub(crate) fn programs(&self) -> PathBuf {
        self.target.join("lab")
    }

    /// `PATH` with our programs and the tools first.
    pub(crate) fn path_variable(&self) -> String {
        let path = env::var("PATH").unwrap_or_default();
        let (programs, tools) = (self.programs(), self.tools());
        format!(
            "{}:{}/bin:{path}:/usr/sbin:/sbin",
            programs.display(),
            tools.display()
        )
    }
}

/// A line for the person at the terminal. Never on standard output: that belongs to results.
pub(crate) fn say(line: &str) {
    // A closed standard error must not end the work.
    let _ = writeln!(io::stderr(), "{line}");
}

/// A line of a command's result.
pub(crate) fn print(line: &str) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("write to standard output")
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// A command that runs as root: by sudo when this process is not. `variables` are passed on.
pub(crate) fn privileged(program: impl AsRef<OsStr>, variables: &[(&str, &str)]) -> Command {
    if is_root() {
        let mut command = Command::new(program);
        command.envs(variables.iter().copied());
        return command;
    }
    let mut command = Command::new("sudo");
    command.arg("env");
    for (name, value) in variables {
        command.arg(format!("{name}={value}"));
    }
    command.arg(program);
    command
}

/// This program again, as root: for the internal command that is the part of another one that needs it.
pub(crate) fn again_as_root(places: &Places, part: &str) -> Result<Command> {
    let program = env::current_exe().context("find our own program")?;
    let mut command = privileged(program, &[]);
    command.args(places.words()).arg(part);
    Ok(command)
}

/// Runs a long step: one line with the time it took, its output in a log that is shown when it fails.
pub(crate) fn step(places: &Places, label: &str, command: &mut Command) -> Result<()> {
    let result = step_showing(places, label, command, &|_| false);
    if result.is_err() {
        show_tail(places, label);
    }
    result
}

/// The end of a step's output.
pub(crate) fn show_tail(places: &Places, label: &str) {
    let text = fs::read(step_log(places, label)).unwrap_or_default();
    for line in tail(&String::from_utf8_lossy(&text), TAIL_LINES) {
        say(&format!("    {line}"));
    }
}

/// A long step of which those lines are shown that `shown` picks, as they come, and not the end when it fails.
pub(crate) fn step_showing(
    places: &Places,
    label: &str,
    command: &mut Command,
    shown: &dyn Fn(&str) -> bool,
) -> Result<()> {
    let path = step_log(places, label);
    if let Some(logs) = path.parent() {
        fs::create_dir_all(logs).with_context(|| format!("make {}", logs.display()))?;
    }
    let log = File::create(&path).with_context(|| format!("make {}", path.display()))?;
    let mut lines = NewLines::of(&path)?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let mut progress = Progress::start(label);
    let mut child = command.spawn().with_context(|| started(command))?;
    loop {
        let ended = child.try_wait()?;
        for line in lines.read()?.iter().filter(|line| shown(line)) {
            progress.line(line);
        }
        let Some(status) = ended else {
            progress.tick();
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        if status.success() {
            progress.end("");
            return Ok(());
        }
        progress.end("failed after ");
        bail!("{label}: {status}; all output is in {}", path.display())
    }
}

/// Does what the network is needed for, and once more after a pause where it failed: a mirror that is just being
/// updated is whole again soon.
pub(crate) fn twice<T>(pause: Duration, mut work: impl FnMut() -> Result<T>) -> Result<T> {
    let first = work();
    first.or_else(|error| {
        say(&format!("  error: {error:#}"));
        say(&format!("  once more in {} s", pause.as_secs()));
        thread::sleep(pause);
        work()
    })
}

/// Where the output of a step is kept, until the next step of that name.
pub(crate) fn step_log(places: &Places, label: &str) -> PathBuf {
    let name: String = label
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    places.cache.join("logs").join(format!("{name}.log"))
}

/// Says now and then that something long is still at work: in place on a terminal, as a line in a log.
#[derive(Debug)]
pub(crate) struct Progress {
    label: String,
    start: Instant,
    said: Instant,
    terminal: bool,
}

impl Progress {
    /// From now on.
    pub(crate) fn start(label: &str) -> Self {
        let now = Instant::now();
        Self {
            label: label.to_owned(),
            start: now,
            said: now,
            terminal: io::stderr().is_terminal(),
        }
    }

    /// To be called often.
    pub(crate) fn tick(&mut self) {
        let every = if self.terminal {
            PROGRESS_TERMINAL
        } else {
            PROGRESS_LOG
        };
        if self.said.elapsed() < every {
            return;
        }
        self.said = Instant::now();
        let (label, seconds) = (&self.label, self.start.elapsed().as_secs());
        if self.terminal {
            let _ = write!(io::stderr(), "\r  {label} ... {seconds} s");
        } else {
            say(&format!("  {label} ... {seconds} s"));
        }
    }

    /// A line of its own in between.
    fn line(&self, line: &str) {
        self.clear();
        say(&format!("    {line}"));
    }

    /// Takes back what is on the terminal's line (erase in line, ECMA-48).
    pub(crate) fn clear(&self) {
        if self.terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }

    /// The closing line.
    pub(crate) fn end(&self, how: &str) {
        self.clear();
        let seconds = self.start.elapsed().as_secs_f32();
        say(&format!("  {}: {how}{seconds:.1} s", self.label));
    }
}

/// What was added to a file since the last look, in whole lines.
struct NewLines {
    file: File,
    open: Vec<u8>,
}

impl NewLines {
    fn of(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let open = Vec::new();
        Ok(Self { file, open })
    }

    fn read(&mut self) -> Result<Vec<String>> {
        self.file.read_to_end(&mut self.open)?;
        let Some(end) = self.open.iter().rposition(|&byte| byte == b'\n') else {
            return Ok(Vec::new());
        };
        let whole: Vec<u8> = self.open.drain(..=end).collect();
        let text = String::from_utf8_lossy(&whole);
        Ok(text.lines().map(str::to_owned).collect())
    }
}

/// The last `count` lines.
pub(crate) fn tail(text: &str, count: usize) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().rev().take(count).collect();
    lines.reverse();
    lines
}

/// Runs a short command; its standard output when it succeeded.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} ended with {}: {}", output.status, error.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a short command, whatever its end.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| started(command))
}

/// Runs a command with our standard streams.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    command.status().with_context(|| started(command))
}

/// As [`status`]; whether it succeeded is for who called us.
pub(crate) fn passed_on(command: &mut Command) -> Result<ExitCode> {
    Ok(code(status(command)?.success()))
}

/// What a command of ours ends with.
pub(crate) fn code(well: bool) -> ExitCode {
    if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn started(command: &Command) -> String {
    format!("start {}", command.get_program().to_string_lossy())
}

/// How the names of files begin that commands write from what they measured: no change of what they measure.
pub(crate) const MEASURED: [&str; 2] = ["docs/benchmarks", "docs/fuzzing.md"];

/// The commit of a checkout, with a mark where it has changes that are not in it, other than of files that begin like those.
pub(crate) fn commit(root: &Path, but: &[&str]) -> Result<String> {
    let git = |words: &[&str]| read(Command::new("git").args(words).current_dir(root));
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let mark = if is_changed(&git(&["status", "--porcelain"])?, but) {
        "-changed"
    } else {
        ""
    };
    Ok(format!("{}{mark}", commit.trim()))
}

/// Whether `git status --porcelain` tells of more than files that begin like those.
fn is_changed(status: &str, but: &[&str]) -> bool {
    // Two letters and a space.
    let mut paths = status.lines().filter_map(|line| line.get(3..));
    paths.any(|path| !but.iter().any(|begin| path.starts_with(begin)))
}

/// Finds a program in a `PATH`-like list.
pub(crate) fn which(name: &str, path: &str) -> Option<PathBuf> {
    path.split(':')
        .filter(|folder| !folder.is_empty())
        .map(|folder| Path::new(folder).join(name))
        .find(|candidate| candidate.is_file())
}

/// FNV-1a, 64 bits: stable names for what is in the cache. No security rests on it.
#[derive(Debug, Clone)]
pub(crate) struct Fingerprint(u64);

impl Fingerprint {
    /// Of nothing.
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds a piece; its length counts, so that pieces do not run together.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes.len().to_le_bytes().iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Sixteen hexadecimal digits.
    pub(crate) fn hex(&self) -> String {
        format!("{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_tell_where_a_piece_ends() {
        let of = |pieces: &[&str]| {
            let mut print = Fingerprint::new();
            pieces.iter().for_each(|piece| print.add(piece.as_bytes()));
            print.hex()
        };
        assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&["ab"]), of(&["ab", ""]));
    }

    #[test]
    fn what_failed_is_done_once_more_and_no_more() {
        let until = |good: i32| {
            let mut times = 0;
            let done = twice(Duration::ZERO, || {
                times += 1;
                anyhow::ensure!(times >= good, "no {times}");
                Ok(times)
            });
            done.map_err(|error| error.to_string())
        };
        assert_eq!(until(1), Ok(1));
        assert_eq!(until(2), Ok(2));
        assert_eq!(until(3), Err("no 2".to_owned()));
    }

    #[test]
    fn what_was_measured_is_no_change() {
        let pages = " M docs/benchmarks.md\n?? docs/benchmarks/age.svg\nM  docs/fuzzing.md\n";
        assert!(is_changed(pages, &[]) && !is_changed(pages, &MEASURED));
        assert!(!is_changed("", &[]));
        for more in [
            "?? docs/fuzz.md",
            " M Cargo.toml",
            "R  a -> docs/fuzzing.md",
        ] {
            assert!(is_changed(&format!("{pages}{more}\n"), &MEASURED), "{more}");
        }
    }

    #[test]
    fn the_tail_keeps_the_order() {
        assert_eq!(tail("a\nb\nc\n", 2), ["b", "c"]);
        assert_eq!(tail("a\n", 2), ["a"]);
    }

    #[test]
    fn which_takes_the_first_folder_that_has_it() {
        assert_eq!(
            which("sh", "/nowhere::/bin"),
            Some(PathBuf::from("/bin/sh"))
        );
        assert_eq!(which("no-such-program", "/bin"), None);
    }
}
