//! All execs by id. One that has ended stays until its output was read to the end; then its exit status
//! alone is kept, for those who ask late, also by the next agent. Nobody has to say that an exec can be forgotten: Kata's API has
//! no word for it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::sync::oneshot;
use tracing::{debug, info, warn};

use super::{
    ExecError, ProcessSpec, Size,
    record::{Connections, Memory, Record},
    session::Session,
};
use crate::{
    sys::{clock, descriptors::Held},
    systemd::{EXEC_UNIT_PREFIX, Handle, SystemdError, UnitName},
};

/// The most execs that run at the same time.
pub const MAX_RUNNING: usize = 64;

/// The most that are kept with open streams, those that have ended included.
pub const MAX_OPEN: usize = 2 * MAX_RUNNING;

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
    /// What the next agent finds.
    memory: Memory,
}

#[derive(Debug, Default)]
struct Table {
    starting: HashSet<ExecKey>,
    open: HashMap<ExecKey, Arc<Session>>,
    statuses: VecDeque<Known>,
}

/// One that has ended and was read.
#[derive(Debug)]
struct Known {
    key: ExecKey,
    unit: String,
    status: i32,
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
    /// The table that `memory` has: at the first start of an agent, an empty one. Must be called inside the
    /// runtime.
    pub fn new(systemd: Handle, memory: Memory) -> Self {
        let sessions = Self {
            systemd,
            table: Arc::default(),
            next: Arc::default(),
            memory,
        };
        sessions.resume();
        sessions
    }

    /// Takes over what an earlier agent started.
    fn resume(&self) {
        let mut held = self.memory.keeper().handed_over().unwrap_or_else(|error| {
            warn!(%error, "what an earlier agent held is lost");
            Held::new()
        });
        let connections = Arc::new(Connections::take(&mut held, self.memory.keeper()));
        let mut table = self.lock();
        for record in self.memory.records() {
            let key = record.key();
            let unit = record.unit.clone();
            let is_open = held.keys().any(|name| record.is_its(name));
            if let Some(status) = record.status.filter(|_| !is_open) {
                table.statuses.push_back(Known { key, unit, status });
                continue;
            }
            let name = UnitName::try_from(unit.as_str()).map_err(io::Error::other);
            let session = name.as_ref().map_err(ToString::to_string).and_then(|name| {
                let (systemd, memory) = (&self.systemd, &self.memory);
                Session::resume(
                    &record,
                    name.clone(),
                    &mut held,
                    systemd,
                    memory,
                    &connections,
                )
                .map_err(|error| error.to_string())
            });
            let error = match session {
                Ok(session) => {
                    table.open.insert(key, session);
                    continue;
                }
                Err(error) => error,
            };
            if let Ok(name) = &name {
                self.memory.let_go_of_all(name);
            }
            match record.status {
                // The earlier agent ended while it let go of the streams.
                Some(status) => table.statuses.push_back(Known { key, unit, status }),
                None => {
                    warn!(
                        exec_id = key.exec,
                        error, "an exec of an earlier agent is lost"
                    );
                    self.memory.forget(&unit);
                }
            }
        }
        Connections::done(connections);
        for name in held.keys() {
            // Nobody's any more.
            let _ = self.memory.keeper().let_go(name);
        }
    }

    /// Starts a process; it runs when this returns. When this is given up before, it is ended as soon as it has
    /// started: whoever asked for it takes it for failed.
    pub async fn start(&self, key: ExecKey, spec: &ProcessSpec) -> Result<(), ExecError> {
        let (tell, told) = oneshot::channel();
        let (sessions, spec) = (self.clone(), spec.clone());
        let id = key.exec.clone();
        tokio::spawn(async move {
            let started = sessions.start_whole(key.clone(), &spec).await;
            if let Err(Ok(session)) = tell.send(started) {
                sessions.end_unwanted(key, &session).await;
            }
        });
        // The task ends before it has told only with the whole runtime.
        let started = told.await.map_err(|_| ExecError::Ended(id))?;
        started.map(drop)
    }

    /// Ends a process that nobody waits for, and forgets all of it but its exit status.
    async fn end_unwanted(&self, key: ExecKey, session: &Arc<Session>) {
        info!(
            exec_id = key.exec,
            "exec ended: whoever asked for it gave up"
        );
        session.end(&self.systemd).await;
        let status = session.wait().await;
        let mut table = self.lock();
        let is_it = |open: &Arc<Session>| Arc::ptr_eq(open, session);
        if table.open.get(&key).is_some_and(is_it) {
            table.close(key, status, &self.memory);
        }
    }

    async fn start_whole(
        &self,
        key: ExecKey,
        spec: &ProcessSpec,
    ) -> Result<Arc<Session>, ExecError> {
        let reservation = self.reserve(key)?;
        let unit = self.unit_name()?;
        let key = &reservation.key;
        // Before it runs: an agent that ends in between leaves nothing that nobody knows.
        let record = Record {
            container: key.container.clone(),
            exec: key.exec.clone(),
            unit: unit.to_string(),
            status: None,
        };
        self.memory.remember(&record);
        let memory = Some((&self.memory, &record));
        let started = Session::start(&key.exec, unit, spec, &self.systemd, memory).await;
        if started.is_err() {
            self.memory.forget(&record.unit);
        }
        let session = started?;
        self.lock().open.insert(key.clone(), Arc::clone(&session));
        Ok(session)
    }

    /// The exit status, when it has ended: any number may wait, and ask again later.
    pub async fn wait(&self, key: &ExecKey) -> Result<i32, ExecError> {
        match self.find(key)? {
            Found::Open(session) => Ok(session.wait().await),
            Found::Status(status) => Ok(status),
        }
    }

    /// The next bytes of standard output (all output, with a terminal). None: this was the end. With `position`
    /// they are those after so many; what comes before is let go.
    pub async fn read_stdout(
        &self,
        key: &ExecKey,
        max: usize,
        position: Option<u64>,
    ) -> Result<Vec<u8>, ExecError> {
        match self.find(key)? {
            Found::Open(session) => {
                let data = session.read_output(max, position).await?;
                self.settle(key, &data);
                Ok(data)
            }
            Found::Status(_) => Ok(Vec::new()),
        }
    }

    /// The same for standard error. With a terminal it is at its end from the start.
    pub async fn read_stderr(
        &self,
        key: &ExecKey,
        max: usize,
        position: Option<u64>,
    ) -> Result<Vec<u8>, ExecError> {
        match self.find(key)? {
            Found::Open(session) => {
                let data = session.read_error(max, position).await?;
                self.settle(key, &data);
                Ok(data)
            }
            Found::Status(_) => Ok(Vec::new()),
        }
    }

    /// Writes to standard input and returns when the process's pipe has taken it all. With `position`, `data`
    /// begins after so many bytes, and what was taken already is left out.
    pub async fn write_stdin(
        &self,
        key: &ExecKey,
        data: &[u8],
        position: Option<u64>,
    ) -> Result<(), ExecError> {
        self.running(key)?.write_input(data, position).await
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

    /// A name of its own for each, also after a restart of the agent. Names sort in the order in which they were given.
    pub(super) fn unit_name(&self) -> Result<UnitName, SystemdError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!(
            "{EXEC_UNIT_PREFIX}{:012x}-{number:08}.service",
            clock::boottime_us()
        );
        UnitName::try_from(name.as_str())
    }

    fn reserve(&self, key: ExecKey) -> Result<Reservation<'_>, ExecError> {
        let mut table = self.lock();
        table.move_finished(&self.memory);
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
        if table.open.len() + table.starting.len() >= MAX_OPEN && !table.forget_unread(&self.memory)
        {
            return Err(ExecError::Unread);
        }
        table.statuses.retain(|known| {
            let same = known.key == key;
            if same {
                self.memory.forget(&known.unit);
            }
            !same
        });
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
        let status = table.statuses.iter().find(|known| known.key == *key);
        let status = status.map(|known| Found::Status(known.status));
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
            self.lock().move_finished_one(key, &self.memory);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn move_finished(&mut self, memory: &Memory) {
        let keys: Vec<ExecKey> = self.open.keys().cloned().collect();
        keys.iter()
            .for_each(|key| self.move_finished_one(key, memory));
    }

    /// Keeps only the exit status of one that has ended and was read to its end.
    fn move_finished_one(&mut self, key: &ExecKey, memory: &Memory) {
        let Some(session) = self.open.get(key) else {
            return;
        };
        if let Some((status, _)) = session.ended().filter(|_| session.is_drained()) {
            self.close(key.clone(), status, memory);
        }
    }

    /// Makes room for one; false if there is none.
    fn forget_unread(&mut self, memory: &Memory) -> bool {
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
        self.close(key, status, memory);
        true
    }

    fn close(&mut self, key: ExecKey, status: i32, memory: &Memory) {
        let Some(session) = self.open.remove(&key) else {
            return;
        };
        let unit = session.unit().to_string();
        memory.remember(&Record {
            container: key.container.clone(),
            exec: key.exec.clone(),
            unit: unit.clone(),
            status: Some(status),
        });
        memory.let_go_of_all(session.unit());
        if self.statuses.len() >= MAX_STATUSES
            && let Some(oldest) = self.statuses.pop_front()
        {
            memory.forget(&oldest.unit);
        }
        self.statuses.push_back(Known { key, unit, status });
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.sessions.lock().starting.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{exec::User, status::Board, sys::descriptors::Keeper};

    #[tokio::test]
    async fn before_the_bus_nothing_is_given_to_systemd_to_hold() {
        let folder = tempfile::tempdir().unwrap();
        let held = Arc::new(Mutex::new(Held::new()));
        let keeper = || Keeper::Memory(Arc::clone(&held));
        let systemd = Handle::spawn_at(folder.path().join("bus"), Board::new(), keeper());
        let memory = Memory::new(folder.path().to_owned(), keeper());
        let sessions = Sessions::new(systemd, memory);
        let key = ExecKey {
            container: "demo".to_owned(),
            exec: "e".to_owned(),
        };
        let spec = ProcessSpec {
            arguments: vec!["/bin/sh".to_owned()],
            environment: Vec::new(),
            directory: String::new(),
            user: User::Number { uid: 0, gid: None },
            no_new_privileges: false,
            terminal: None,
        };
        let error = sessions.start(key, &spec).await.unwrap_err();
        assert!(error.to_string().contains("not yet"), "{error}");
        // A map has room once something was in it, also when that was taken out again.
        assert_eq!(held.lock().unwrap().capacity(), 0);
    }
}
