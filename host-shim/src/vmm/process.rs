//! One supervised child. It gets SIGKILL when the shim dies, its end is noticed at once, and what it
//! printed is kept in a file of its own, as long as that is not too much: a guest can have its VMM complain without end.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{PidfdFlags, Signal, pidfd_open};
use tokio::{
    process::{Child, ChildStdout, Command},
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{ProcessInfo, VmmError, users::Lease};
use crate::{
    cgroup::Group,
    sys::{self, identity::Identity},
};

/// How much of a child's last words goes into a message.
const LAST_WORDS_BYTES: usize = 400;

/// How much later than its daemons a VMM is seen to end, when it was the VMM that ended.
const OWN_END: Duration = Duration::from_millis(500);

/// The same where it is known that it ends: a large one on a busy machine takes its time to be gone.
pub(super) const GOING: Duration = Duration::from_secs(3);

/// The most that a child's log may have when it is looked at; it lies in the run folder, which is memory as a rule.
const LOG_BYTES: u64 = 1 << 20;

/// How often that is.
const LOG_LOOK: Duration = Duration::from_secs(5);

/// How often a socket is looked for.
const SOCKET_POLL: Duration = Duration::from_millis(5);

/// What to start.
#[derive(Debug)]
pub struct Launch<'a> {
    /// A short name for messages.
    pub name: &'static str,
    /// The program.
    pub program: &'a Path,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Where its messages go.
    pub log: PathBuf,
    /// Its standard output is read by us instead.
    pub pipe_stdout: bool,
    /// Files that it finds open, under the numbers that they have here.
    pub inherited: Vec<BorrowedFd<'a>>,
    /// Where it works: names of files without a folder are meant in it. It need not be open to the child's user.
    pub dir: PathBuf,
    /// As whom; as the shim's own user without.
    pub identity: Option<Identity>,
    /// Where it begins; where the shim runs without.
    pub group: Option<Arc<Group>>,
    /// Whose number that is. It is nobody else's before the child has been reaped, whoever lets go of it.
    pub(super) lease: Option<Arc<Lease>>,
}

/// The end of a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub name: &'static str,
    /// Exit status and last words.
    pub how: String,
    /// It said that all went well.
    pub success: bool,
}

impl Ended {
    /// How long a VMM whose daemon this was is waited for: one that ended well had lost its client.
    pub(super) fn vmm_follows_within(&self) -> Duration {
        if self.success { GOING } else { OWN_END }
    }
}

/// A running child. Its end arrives on the channel that was given at the start.
#[derive(Debug)]
pub struct Supervised {
    info: ProcessInfo,
    pidfd: OwnedFd,
}

impl Supervised {
    /// Starts a child. Its [`Ended`] goes to `ends`.
    pub fn spawn(
        launch: Launch<'_>,
        ends: &mpsc::UnboundedSender<Ended>,
    ) -> Result<(Self, Option<ChildStdout>), VmmError> {
        let (name, log) = (launch.name, launch.log.clone());
        let started = start(&launch);
        let (mut child, pid, pidfd) = started.map_err(|source| VmmError::Spawn { name, source })?;
        let stdout = child.stdout.take();
        let (ends, kept) = (ends.clone(), (launch.lease, launch.group));
        tokio::spawn(async move {
            let mut told = false;
            let status = loop {
                match timeout(LOG_LOOK, child.wait()).await {
                    Ok(status) => break status,
                    Err(_) if empty_long(&log) && !told => {
                        told = true;
                        tracing::warn!(
                            process = name,
                            "a program of the machine says too much: its log is emptied now and then"
                        );
                    }
                    Err(_) => {}
                }
            };
            // Before it is told, so that who starts the machine again has the same numbers.
            drop(kept);
            let success = status.as_ref().is_ok_and(ExitStatus::success);
            let exited = status.as_ref().is_ok_and(|status| status.code().is_some());
            let mut how = status.map_or_else(|error| error.to_string(), |s| describe(&s));
            // Who was killed had no time to say why: its log is about something else.
            if exited {
                how.push_str(&last_words(&log));
            }
            let _ = ends.send(Ended { name, how, success });
        });
        Ok((
            Self {
                info: ProcessInfo { name, pid },
                pidfd,
            },
            stdout,
        ))
    }

    /// Name and pid.
    pub fn info(&self) -> &ProcessInfo {
        &self.info
    }

    /// Sends a signal. A child that is gone is no error.
    pub fn signal(&self, signal: Signal) {
        if let Err(error) = sys::signal(&self.pidfd, signal) {
            tracing::warn!(process = self.info.name, %error, "signal was not sent");
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

fn start(launch: &Launch<'_>) -> io::Result<(Child, u32, OwnedFd)> {
    let log = &launch.log;
    let log = OpenOptions::new().create(true).append(true).open(log)?;
    let mut command = Command::new(launch.program);
    command
        .args(&launch.args)
        .current_dir(&launch.dir)
        .stdin(Stdio::null())
        .stderr(log.try_clone()?)
        .kill_on_drop(true);
    command.stdout(if launch.pipe_stdout {
        Stdio::piped()
    } else {
        log.into()
    });
    if let Some(group) = &launch.group {
        // Before it is somebody else, who may not.
        sys::enter_groups(&mut command, group.doors());
    }
    if let Some(identity) = launch.identity.clone() {
        sys::identity::run_as(&mut command, identity, launch.pipe_stdout);
    }
    sys::die_with_parent(&mut command);
    let child = sys::spawn_with_files(command, &launch.inherited)?;
    let gone = || io::Error::other("the process is gone");
    let pid = child.id().ok_or_else(gone)?;
    let pidfd = pidfd_open(sys::pid(pid).ok_or_else(gone)?, PidfdFlags::empty())?;
    Ok((child, pid, pidfd))
}

/// A program that is being started, for messages.
#[derive(Debug, Clone, Copy)]
pub struct Starting<'a> {
    /// Which.
    pub name: &'static str,
    /// What it shall listen on.
    pub socket: &'a Path,
    /// Where its messages go.
    pub log: &'a Path,
}

impl Starting<'_> {
    /// Waits until its socket is listened on, or until a program has ended.
    pub async fn listens(
        &self,
        limit: Duration,
        ends: &mut mpsc::UnboundedReceiver<Ended>,
    ) -> Result<(), VmmError> {
        let look = || is_listening(self.socket).then_some(());
        self.until(limit, ends, look).await
    }

    /// The same, and connects to it.
    pub async fn connect(
        &self,
        limit: Duration,
        ends: &mut mpsc::UnboundedReceiver<Ended>,
    ) -> Result<UnixStream, VmmError> {
        let look = || UnixStream::connect(self.socket).ok();
        self.until(limit, ends, look).await
    }

    /// Waits for what `look` finds, or until a program has ended.
    pub async fn until<T>(
        &self,
        limit: Duration,
        ends: &mut mpsc::UnboundedReceiver<Ended>,
        mut look: impl FnMut() -> Option<T>,
    ) -> Result<T, VmmError> {
        let Self { name, socket, log } = *self;
        let until = Instant::now() + limit;
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            if let Ok(first) = ends.try_recv() {
                // Daemons end when the VMM that they serve does, and may be heard of first.
                let own = if first.name == name {
                    None
                } else {
                    end_of(name, first.vmm_follows_within(), ends).await
                };
                let Ended { name, how, .. } = own.unwrap_or(first);
                return Err(VmmError::Died {
                    name,
                    how,
                    said: String::new(),
                });
            }
            if Instant::now() >= until {
                return Err(VmmError::NoSocket {
                    name,
                    socket: socket.to_owned(),
                    seconds: limit.as_secs(),
                    said: last_words(log),
                });
            }
            sleep(SOCKET_POLL).await;
        }
    }
}

/// The end of this one, if it comes in time. Those of others that come first are passed over.
pub async fn end_of(
    wanted: &str,
    limit: Duration,
    ends: &mut mpsc::UnboundedReceiver<Ended>,
) -> Option<Ended> {
    let until = Instant::now() + limit;
    while let Ok(Some(ended)) = timeout_at(until, ends.recv()).await {
        if ended.name == wanted {
            return Some(ended);
        }
    }
    None
}

/// True when a process listens on this Unix socket. Connecting to find out would take the one connection
/// that a vhost-user daemon gives. `/proc/net/unix` marks listeners with `__SO_ACCEPTCON`, 0x10000.
fn is_listening(socket: &Path) -> bool {
    let Ok(table) = std::fs::read_to_string("/proc/net/unix") else {
        return socket.exists();
    };
    let Some(wanted) = socket.to_str() else {
        return socket.exists();
    };
    table.lines().any(|line| listener(line) == Some(wanted))
}

/// The path on a line of the table, if it is a listener's: what follows the seventh column, blanks and all.
fn listener(line: &str) -> Option<&str> {
    let mut rest = line;
    for column in 0..7 {
        let (field, after) = rest.trim_start_matches(' ').split_once(' ')?;
        if column == 3 && field != "00010000" {
            return None;
        }
        rest = after;
    }
    Some(rest)
}

/// Empties a log that is too long; whether it was. Who writes it appends, and so goes on at its beginning.
fn empty_long(log: &Path) -> bool {
    let is_long = fs::metadata(log).is_ok_and(|found| found.len() > LOG_BYTES);
    let empty = || OpenOptions::new().write(true).open(log)?.set_len(0);
    is_long && empty().is_ok()
}

fn describe(status: &ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// The end of a log, as `: text`, fit for a terminal; nothing where there is none.
fn last_words(log: &Path) -> String {
    let text = super::console::tail(log, LAST_WORDS_BYTES, 3).join("; ");
    if text.is_empty() {
        text
    } else {
        format!(": {text}")
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::Permissions,
        io::Write,
        os::{
            fd::{AsFd, AsRawFd},
            unix::fs::PermissionsExt,
        },
    };

    use tokio::io::{AsyncBufReadExt, BufReader};

    use super::*;

    fn sh<'a>(script: &str, log: &Path) -> Launch<'a> {
        Launch {
            name: "sh",
            program: Path::new("/bin/sh"),
            args: vec!["-c".into(), script.into()],
            log: log.to_owned(),
            pipe_stdout: false,
            inherited: Vec::new(),
            dir: "/".into(),
            identity: None,
            group: None,
            lease: None,
        }
    }

    #[tokio::test]
    async fn the_end_of_a_child_comes_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("sh.log");
        let (ends, mut ended) = mpsc::unbounded_channel();
        let _child = Supervised::spawn(sh("echo no such device >&2; exit 3", &log), &ends).unwrap();
        let end = ended.recv().await.unwrap();
        assert_eq!(
            (end.how.as_str(), end.success),
            ("exit status 3: no such device", false)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_says_too_much_fills_nothing_and_its_last_words_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("sh.log");
        let (ends, mut ended) = mpsc::unbounded_channel();
        // It goes on until its log has become shorter.
        let script = format!(
            "before=0; for _ in $(seq 500); do head -c 300000 /dev/zero >&2; now=$(wc -c < '{}'); \
             if [ $now -lt $before ]; then echo last >&2; exit 3; fi; before=$now; sleep 0.01; done",
            log.display()
        );
        let _child = Supervised::spawn(sh(&script, &log), &ends).unwrap();
        let end = ended.recv().await.unwrap();
        assert_eq!(end.how, "exit status 3: last");
        let length = fs::metadata(&log).unwrap().len();
        assert!(length < 2 * LOG_BYTES, "{length} bytes");
    }

    #[tokio::test]
    async fn a_dropped_child_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let (ends, mut ended) = mpsc::unbounded_channel();
        let launch = sh("exec sleep 1000", &dir.path().join("log"));
        let (child, _) = Supervised::spawn(launch, &ends).unwrap();
        drop(child);
        assert_eq!(ended.recv().await.unwrap().how, "signal 9");
    }

    #[tokio::test]
    async fn a_file_is_open_in_the_one_child_that_is_given_it() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let file = std::fs::File::open(dir.path()).unwrap();
        let script = format!("test -e /proc/self/fd/{}", file.as_raw_fd());
        let (ends, mut ended) = mpsc::unbounded_channel();
        for (inherited, is_open) in [(vec![file.as_fd()], true), (Vec::new(), false)] {
            let launch = Launch {
                inherited,
                ..sh(&script, &log)
            };
            let _child = Supervised::spawn(launch, &ends).unwrap();
            assert_eq!(ended.recv().await.unwrap().success, is_open);
        }
    }

    #[test]
    fn a_child_dies_with_us_whoever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let other = sys::identity::can_switch().then(|| Identity::plain(1_879_048_192));
        for identity in [None, other] {
            let log = dir.path().join("log");
            // The thread that started it counts as its parent.
            let thread = std::thread::spawn(move || {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = runtime.enable_all().build().unwrap();
                let _inside = runtime.enter();
                let launch = Launch {
                    identity,
                    ..sh("exec sleep 1000", &log)
                };
                let (ends, _) = mpsc::unbounded_channel();
                let (child, _) = Supervised::spawn(launch, &ends).unwrap();
                let pid = child.info().pid;
                // Neither of them kills it.
                std::mem::forget((child, runtime.handle().clone()));
                std::mem::forget(runtime);
                pid
            });
            let pid = thread.join().unwrap();
            let until = std::time::Instant::now() + Duration::from_secs(20);
            while sys::start_time(pid).is_some() {
                assert!(std::time::Instant::now() < until, "{pid} lives on");
                std::thread::sleep(SOCKET_POLL);
            }
        }
    }

    #[tokio::test]
    async fn a_program_that_ends_before_its_socket_is_there_is_noticed_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let (ends, mut ended) = mpsc::unbounded_channel();
        let _child = Supervised::spawn(sh("exit 1", &log), &ends).unwrap();
        let socket = dir.path().join("none");
        let limit = Duration::from_secs(60);
        let starting = Starting {
            name: "sh",
            socket: &socket,
            log: &log,
        };
        let error = starting.listens(limit, &mut ended).await.unwrap_err();
        assert_eq!(error.to_string(), "sh ended at its start (exit status 1)");
    }

    #[tokio::test]
    async fn a_child_of_another_user_has_nothing_of_ours_but_its_files() {
        if !sys::identity::can_switch() {
            let why = "a child of another user needs root";
            std::io::stderr()
                .write_all(format!("SKIPPED another_user: {why}\n").as_bytes())
                .unwrap();
            return;
        }
        // Closed to others, as the program in it and the folder where it works.
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        let (log, program) = (dir.path().join("log"), dir.path().join("sh"));
        // Not by us: a child that another test is just starting would have it open for writing, and nobody could run it.
        let copied = std::process::Command::new("cp")
            .arg("/bin/sh")
            .arg(&program)
            .status();
        assert!(copied.unwrap().success());
        let (ends, mut ended) = mpsc::unbounded_channel();
        let script = "grep -E '^(Uid|Gid|Groups|Cap...):' /proc/self/status; cat log; ls; \
                      echo >/dev/stdout console; exec sleep 1000";
        let launch = Launch {
            program: &program,
            dir: dir.path().to_owned(),
            pipe_stdout: true,
            identity: Some(Identity {
                id: 1_879_048_192,
                groups: vec![rustix::fs::Gid::from_raw(77)],
                low_ports: true,
            }),
            ..sh(script, &log)
        };
        let (child, stdout) = Supervised::spawn(launch, &ends).unwrap();
        let mut lines = BufReader::new(stdout.unwrap()).lines();
        let mut said = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            if line == "console" {
                break;
            }
            said.push(line.split_whitespace().collect::<Vec<_>>().join(" "));
        }
        let id = "1879048192 1879048192 1879048192 1879048192";
        assert_eq!(
            said[..3],
            [
                format!("Uid: {id}"),
                format!("Gid: {id}"),
                "Groups: 77".into()
            ]
        );
        let low_ports = "0000000000000400";
        for name in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert!(said.contains(&format!("{name}: {low_ports}")), "{said:?}");
        }
        let refused = std::fs::read_to_string(&log).unwrap();
        assert_eq!(refused.matches("Permission denied").count(), 2, "{refused}");
        let pid = child.info().pid;
        drop(child);
        assert_eq!(ended.recv().await.unwrap().how, "signal 9");
        assert_eq!(sys::start_time(pid), None);
    }

    #[tokio::test]
    async fn only_a_socket_that_listens_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a  socket of 2");
        assert!(!is_listening(&path));
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        // The kernel gives its table in pieces, and between two of them a socket of another test that goes takes one off the list.
        assert!(comes(|| is_listening(&path)).await);
        drop(listener);
        // Another test may be between fork and exec, and hold a copy of it.
        assert!(comes(|| !is_listening(&path)).await);
        assert!(path.exists());
    }

    /// Whether it is so within far more time than it takes.
    async fn comes(is_so: impl Fn() -> bool) -> bool {
        let until = Instant::now() + Duration::from_secs(60);
        while !is_so() {
            if Instant::now() >= until {
                return false;
            }
            sleep(SOCKET_POLL).await;
        }
        true
    }
}
