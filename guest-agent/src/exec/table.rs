//! All execs by id. One that has ended stays until its output was read to the end; then its exit status
//! alone is kept, for those who ask late. Nobody has to say that an exec can be forgotten: Kata's API has
//! no word for it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tracing::debug;

use super::{ExecError, ProcessSpec, Size, session::Session};
use crate::{
    sys::clock,
    systemd::{EXEC_UNIT_PREFIX, Handle, SystemdError, UnitName},
};

/// The most execs that run at the same time.
pub const MAX_RUNNING: usize = 64;

/// The most that are kept with open streams, those that have ended included.
const MAX_OPEN: usize = 2 * MAX_RUNNING;

/// One that ended this long ago and was not read to its end may be forgotten when there are
/// [`MAX_OPEN`].
const UNREAD_GRACE: Duration = Duration::from_secs(60);

/// The exit statuses that are kept.
const MAX_STATUSES: usize = 256;

/// Which exec: the container and the id that the host chose.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExecKey {
    /// The container's id.
    pub container: String,
    /// The exec's id.
    pub exec: String,
}

/// The table of execs. Clones share it.
#[derive(Debug, Clone)]
pub struct Sessions {
    pub(super) systemd: Handle,
    table: Arc<Mutex<Table>>,
    /// Numbers the services.
    next: Arc<AtomicU32>,
}

#[derive(Debug, Default)]
struct Table {
    starting: HashSet<ExecKey>,
    open: HashMap<ExecKey, Arc<Session>>,
    statuses: VecDeque<(ExecKey, i32)>,
}

/// An id that is taken while its process starts.
struct Reservation<'a> {
    sessions: &'a Sessions,
    key: ExecKey,
}

enum Found {
    Open(Arc<Session>),
    Status(i32),
}

impl Sessions {
    /// An empty table.
    pub fn new(systemd: Handle) -> Self {
        Self {
            systemd,
            table: Arc::default(),
            next: Arc::default(),
        }
    }

    /// Starts a process; it runs when this returns.
    pub async fn start(&self, key: ExecKey, spec: &ProcessSpec) -> Result<(), ExecError> {
        let reservation = self.reserve(key)?;
        let unit = self.unit_name()?;
        let session = Session::start(&reservation.key.exec, unit, spec, &self.systemd).await?;
        self.lock().open.insert(reservation.key.clone(), session);
        Ok(())
    }

    /// The exit status, when it has ended: any number may wait, and ask again later.
    pub async fn wait(&self, key: &ExecKey) -> Result<i32, ExecError> {
        match self.find(key)? {
            Found::Open(session) => Ok(session.wait().await),
            Found::Status(status) => Ok(status),
        }
    }

    /// The next bytes of standard output (all output, with a terminal). None: this was the end.
    pub async fn read_stdout(&self, key: &ExecKey, max: usize) -> Result<Vec<u8>, ExecError> {
        match self.find(key)? {
            Found::Open(session) => {
                let data = session.read_output(max).await?;
                self.settle(key, &data);
                Ok(data)
            }
            Found::Status(_) => Ok(Vec::new()),
        }
    }

    /// The same for standard error. With a terminal it is at its end from the start.
    pub async fn read_stderr(&self, key: &ExecKey, max: usize) -> Result<Vec<u8>, ExecError> {
        match self.find(key)? {
            Found::Open(session) => {
                let data = session.read_error(max).await?;
                self.settle(key, &data);
                Ok(data)
            }
            Found::Status(_) => Ok(Vec::new()),
        }
    }

    /// Writes to standard input and returns when the process's pipe has taken it all.
    pub async fn write_stdin(&self, key: &ExecKey, data: &[u8]) -> Result<(), ExecError> {
        self.running(key)?.write_input(data).await
    }

    /// Closes standard input. Closed already, or ended, is fine.
    pub async fn close_stdin(&self, key: &ExecKey) -> Result<(), ExecError> {
        match self.find(key)? {
            Found::Open(session) => session.close_input().await,
            Found::Status(_) => Ok(()),
        }
    }

    /// Sets the size of the terminal.
    pub fn resize(&self, key: &ExecKey, size: Size) -> Result<(), ExecError> {
        self.running(key)?.resize(size)
    }

    /// Sends a signal.
    pub async fn signal(&self, key: &ExecKey, signal: i32) -> Result<(), ExecError> {
        self.running(key)?.signal(signal, &self.systemd).await
    }

    /// A name of its own for each, also after a restart of the agent.
    pub(super) fn unit_name(&self) -> Result<UnitName, SystemdError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!(
            "{EXEC_UNIT_PREFIX}{:x}-{number}.service",
            clock::boottime_us()
        );
        UnitName::try_from(name.as_str())
    }

    fn reserve(&self, key: ExecKey) -> Result<Reservation<'_>, ExecError> {
        let mut table = self.lock();
        table.move_finished();
        if table.starting.contains(&key) || table.open.contains_key(&key) {
            return Err(ExecError::Exists(key.exec));
        }
        let running = table
            .open
            .values()
            .filter(|session| session.ended().is_none())
            .count();
        if running + table.starting.len() >= MAX_RUNNING {
            return Err(ExecError::TooMany);
        }
        if table.open.len() + table.starting.len() >= MAX_OPEN && !table.forget_unread() {
            return Err(ExecError::TooMany);
        }
        table.statuses.retain(|(known, _)| *known != key);
        table.starting.insert(key.clone());
        drop(table);
        Ok(Reservation {
            sessions: self,
            key,
        })
    }

    fn find(&self, key: &ExecKey) -> Result<Found, ExecError> {
        let table = self.lock();
        if let Some(session) = table.open.get(key) {
            return Ok(Found::Open(Arc::clone(session)));
        }
        let status = table.statuses.iter().find(|(known, _)| known == key);
        let status = status.map(|(_, status)| Found::Status(*status));
        status.ok_or_else(|| ExecError::NotFound(key.exec.clone()))
    }

    fn running(&self, key: &ExecKey) -> Result<Arc<Session>, ExecError> {
        match self.find(key)? {
            Found::Open(session) => Ok(session),
            Found::Status(_) => Err(ExecError::Ended(key.exec.clone())),
        }
    }

    /// After a read: if that was the last end, the streams can go.
    fn settle(&self, key: &ExecKey, data: &[u8]) {
        if data.is_empty() {
            self.lock().move_finished_one(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn move_finished(&mut self) {
        let keys: Vec<ExecKey> = self.open.keys().cloned().collect();
        keys.iter().for_each(|key| self.move_finished_one(key));
    }

    /// Keeps only the exit status of one that has ended and was read to its end.
    fn move_finished_one(&mut self, key: &ExecKey) {
        let Some(session) = self.open.get(key) else {
            return;
        };
        if let Some((status, _)) = session.ended().filter(|_| session.is_drained()) {
            self.close(key.clone(), status);
        }
    }

    /// Makes room for one; false if there is none.
    fn forget_unread(&mut self) -> bool {
        let ended = self.open.iter().filter_map(|(key, session)| {
            session
                .ended()
                .map(|(status, at)| (at, status, key.clone()))
        });
        let oldest = ended.min_by_key(|(at, ..)| *at);
        let Some((_, status, key)) = oldest.filter(|(at, ..)| at.elapsed() >= UNREAD_GRACE) else {
            return false;
        };
        debug!(
            exec_id = key.exec,
            "exec forgotten with output that nobody read"
        );
        self.close(key, status);
        true
    }

    fn close(&mut self, key: ExecKey, status: i32) {
        self.open.remove(&key);
        if self.statuses.len() >= MAX_STATUSES {
            self.statuses.pop_front();
        }
        self.statuses.push_back((key, status));
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.sessions.lock().starting.remove(&self.key);
    }
}
