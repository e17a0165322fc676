//! The programs beside the VMM: swtpm on the instance's TPM state, virtiofsd on its root and on what is shared
//! beside it, and, for QEMU, our vsock device. All start at once, and each is waited for.
//!
//! virtiofsd ends by itself when its VMM is gone; the others have to be told.

use std::{
    collections::BTreeMap,
    fs, io,
    os::{fd::AsFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{
    fs::{AtFlags, CWD, Gid, Uid, chownat},
    process::Signal,
};
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};

use super::{
    ProcessInfo, VmmError,
    foreign::Foreign,
    helpers::{self, Cache},
    process::{Ended, Launch, Starting, Supervised},
    programs::Found,
    users::Lease,
};
use crate::{
    cgroup::Group,
    sockets::connect_at_once,
    spec::VmSpec,
    sys::{self, identity::Identity},
    tpm::{self, StateDir},
};

const SWTPM: &str = "swtpm";
const VIRTIOFSD: &str = "virtiofsd";
/// The second virtiofsd, for what is shared beside the root.
const SHARE: &str = "virtiofsd-share";
const VSOCK: &str = "vsock";

/// Those that go on without their VMM: swtpm does on a channel that it was given.
const TOLD: [&str; 2] = [VSOCK, SWTPM];

/// How long the daemons may take to end by themselves after their VMM, before they are killed.
const GRACE: Duration = Duration::from_secs(2);

/// What the daemons of a machine are started with.
#[derive(Debug)]
pub(super) struct Start<'a> {
    pub(super) spec: &'a VmSpec,
    pub(super) tpm: &'a StateDir,
    pub(super) found: &'a Found,
    /// Where they run.
    pub(super) group: Option<&'a Arc<Group>>,
    /// How long each may take.
    pub(super) limit: Duration,
    pub(super) ends: &'a mpsc::UnboundedSender<Ended>,
    pub(super) ended: &'a mut mpsc::UnboundedReceiver<Ended>,
}

/// Connections to the daemons, for a VMM that takes open files.
#[derive(Debug)]
pub(super) struct Connections {
    pub(super) tpm: UnixStream,
    pub(super) root: UnixStream,
    pub(super) vsock: UnixStream,
    pub(super) share: Option<UnixStream>,
}

/// The running ones. Dropping it kills them.
#[derive(Debug, Default)]
pub(super) struct Daemons {
    children: Vec<Supervised>,
    /// The TPM, where somebody else serves it.
    foreign: Option<Foreign>,
}

impl Daemons {
    /// Starts all, as the shim's own user, and returns when each listens where the VMM will look for it, or at the end of
    /// the first that ends.
    pub(super) async fn listening(start: Start<'_>) -> Result<Self, VmmError> {
        let mut daemons = Self::default();
        let socket = start.spec.paths.tpm_socket();
        daemons.swtpm(&start, &tpm::Control::Socket(&socket), None)?;
        let others = daemons.others(&start, None)?;
        let swtpm = start.spec.tpm_socket.is_none().then_some((SWTPM, socket));
        for (name, socket) in swtpm.into_iter().chain(others) {
            let log = start.spec.paths.helper_log(name);
            let starting = Starting {
                name,
                socket: &socket,
                log: &log,
            };
            starting.listens(start.limit, start.ended).await?;
        }
        Ok(daemons)
    }

    /// Starts all, as other users where there are numbers for them, and connects to each; at the end of the first that
    /// ends it gives up.
    pub(super) async fn connected(
        start: Start<'_>,
        lease: Option<&Arc<Lease>>,
    ) -> Result<(Self, Connections), VmmError> {
        let mut daemons = Self::default();
        let paths = &start.spec.paths;
        let socket = |path: &Path| {
            let path = path.to_owned();
            move |source| VmmError::Socket { path, source }
        };
        let (ours, theirs) = UnixStream::pair().map_err(socket(&paths.tpm_socket()))?;
        daemons.swtpm(&start, &tpm::Control::Open(theirs.as_fd()), lease)?;
        // Its end is seen on ours.
        drop(theirs);
        let others = daemons.others(&start, lease)?;
        let tpm = match &start.spec.tpm_socket {
            Some(path) => {
                let connection = reach(path).map_err(socket(path))?;
                let watched = Foreign::watch(SWTPM, &connection, path, start.ends);
                daemons.foreign = Some(watched.map_err(socket(path))?);
                connection
            }
            None => answering(ours, start.spec, start.limit, start.ended).await?,
        };
        let mut streams = BTreeMap::new();
        for (name, path) in others {
            let log = start.spec.paths.helper_log(name);
            let starting = Starting {
                name,
                socket: &path,
                log: &log,
            };
            let stream = starting.connect(start.limit, start.ended).await?;
            streams.insert(name, stream);
        }
        let share = streams.remove(SHARE);
        let mut of = |name| {
            let stream = streams.remove(name);
            stream.expect("a machine behind connections has this daemon, and it was connected to")
        };
        let connections = Connections {
            tpm,
            root: of(VIRTIOFSD),
            vsock: of(VSOCK),
            share,
        };
        Ok((daemons, connections))
    }

    /// Starts swtpm, if the TPM is ours: one that somebody else runs is not ours to start.
    fn swtpm(
        &mut self,
        start: &Start<'_>,
        control: &tpm::Control<'_>,
        lease: Option<&Arc<Lease>>,
    ) -> Result<(), VmmError> {
        let Start {
            spec, tpm, found, ..
        } = start;
        if spec.tpm_socket.is_some() {
            return Ok(());
        }
        let identity = lease.map(|lease| lease.swtpm());
        if let Some(identity) = &identity {
            tpm.lend(identity.id).map_err(|source| VmmError::File {
                path: tpm.path().to_owned(),
                source,
            })?;
        }
        let inherited = match control {
            tpm::Control::Open(fd) => vec![*fd],
            tpm::Control::Socket(_) => Vec::new(),
        };
        self.spawn(
            Launch {
                name: SWTPM,
                program: &found.swtpm,
                args: tpm::args(control),
                log: spec.paths.helper_log(SWTPM),
                pipe_stdout: false,
                inherited,
                dir: tpm.path().to_owned(),
                identity,
                group: start.group.cloned(),
                lease: lease.cloned(),
            },
            start.ends,
        )
    }

    /// Starts all but swtpm; their names and sockets.
    fn others(
        &mut self,
        start: &Start<'_>,
        lease: Option<&Arc<Lease>>,
    ) -> Result<Vec<(&'static str, PathBuf)>, VmmError> {
        let Start { spec, found, .. } = start;
        let paths = &spec.paths;
        let mut sockets = Vec::new();
        let mut run = |name, program, args, dir, identity: Option<Identity>, socket| {
            let launch = Launch {
                lease: lease.filter(|_| identity.is_some()).cloned(),
                name,
                program,
                args,
                log: paths.helper_log(name),
                pipe_stdout: false,
                inherited: Vec::new(),
                dir,
                identity,
                group: start.group.cloned(),
            };
            sockets.push((name, socket));
            self.spawn(launch, start.ends)
        };
        let socket = paths.virtiofs_socket();
        let args = helpers::virtiofsd(&socket, &spec.rootfs, Cache::Always);
        run(
            VIRTIOFSD,
            &found.virtiofsd,
            args,
            paths.vm_dir(),
            None,
            socket,
        )?;
        if let Some(program) = &found.vsock {
            let dir = paths.vsock_dir();
            let identity = lease.map(|lease| lease.vsock());
            if let Some(identity) = &identity {
                // The beacons' listener is in it already.
                for path in [paths.vsock_listener(spec.beacon_port), dir.clone()] {
                    let given = give(&path, identity.id);
                    given.map_err(|source| VmmError::File { path, source })?;
                }
            }
            let socket = paths.vhost_socket();
            run(VSOCK, program, helpers::vsock(), dir, identity, socket)?;
        }
        if !spec.shared.is_empty() {
            let socket = paths.share_socket();
            let args = helpers::virtiofsd(&socket, &paths.share_dir(), Cache::Auto);
            run(SHARE, &found.virtiofsd, args, paths.vm_dir(), None, socket)?;
        }
        Ok(sockets)
    }

    fn spawn(
        &mut self,
        launch: Launch<'_>,
        ends: &mpsc::UnboundedSender<Ended>,
    ) -> Result<(), VmmError> {
        self.children.push(Supervised::spawn(launch, ends)?.0);
        Ok(())
    }

    /// One has ended.
    pub(super) fn forget(&mut self, name: &str) {
        self.children.retain(|daemon| daemon.info().name != name);
    }

    /// Returns when none is left. Their ends arrive on `ended`.
    pub(super) async fn stop(&mut self, ended: &mut mpsc::UnboundedReceiver<Ended>) {
        if let Some(foreign) = self.foreign.take() {
            tracing::info!("TPM is somebody else's and is left to them");
            foreign.end().await;
        }
        for daemon in self
            .children
            .iter()
            .filter(|one| TOLD.contains(&one.info().name))
        {
            daemon.signal(Signal::TERM);
        }
        let until = Instant::now() + GRACE;
        // The first that ended, if it was a daemon, is still in the list: its pid tells.
        self.only_living();
        while !self.children.is_empty() {
            match timeout_at(until, ended.recv()).await {
                Ok(Some(ended)) => self.forget(ended.name),
                Ok(None) | Err(_) => break,
            }
        }
        for daemon in &self.children {
            tracing::warn!(process = daemon.info().name, "daemon had to be killed");
            daemon.signal(Signal::KILL);
        }
        let until = Instant::now() + GRACE;
        while !self.children.is_empty() && Instant::now() < until {
            self.only_living();
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn only_living(&mut self) {
        self.children
            .retain(|daemon| sys::start_time(daemon.info().pid).is_some());
    }

    /// The VMM and these; written down for a clean-up after a crash of the shim.
    pub(super) fn record(
        &self,
        vmm: &Supervised,
        spec: &VmSpec,
    ) -> Result<Vec<ProcessInfo>, VmmError> {
        let entry =
            |name: &str, pid: u32| json!({"name": name, "pid": pid, "start": sys::start_time(pid)});
        let all = [vmm].into_iter().chain(&self.children);
        let processes: Vec<ProcessInfo> = all.map(|child| child.info().clone()).collect();
        let mut written = vec![entry("shim", std::process::id())];
        written.extend(processes.iter().map(|one| entry(one.name, one.pid)));
        let path = spec.paths.pids();
        match fs::write(&path, json!(written).to_string()) {
            Ok(()) => Ok(processes),
            Err(source) => Err(VmmError::File { path, source }),
        }
    }
}

/// A channel to swtpm, when swtpm has answered over it.
async fn answering(
    channel: UnixStream,
    spec: &VmSpec,
    limit: Duration,
    ended: &mut mpsc::UnboundedReceiver<Ended>,
) -> Result<UnixStream, VmmError> {
    let socket = spec.paths.tpm_socket();
    let wrap = |source| VmmError::Socket {
        path: socket.clone(),
        source,
    };
    let log = spec.paths.helper_log(SWTPM);
    let starting = Starting {
        name: SWTPM,
        socket: &socket,
        log: &log,
    };
    let mut asked = tpm::Asked::over(channel).map_err(wrap)?;
    starting
        .until(limit, ended, || asked.answered().then_some(()))
        .await?;
    asked.channel().map_err(wrap)
}

/// A connection to somebody else's socket. One that takes no more is an error at once: nobody waits for it.
fn reach(path: &Path) -> io::Result<UnixStream> {
    let stream = connect_at_once(path)?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Gives a file of ours to the user and group of this number. No link is followed: the one who had the folder before may
/// have left it.
fn give(path: &Path, id: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    let at = AtFlags::SYMLINK_NOFOLLOW;
    Ok(chownat(CWD, path, Some(uid), Some(gid), at)?)
}
