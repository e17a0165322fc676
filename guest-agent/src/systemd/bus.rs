//! One connection to the system bus: the proxies on it, and the one task that takes its signals.
//!
//! The task never waits for an answer of its own, so a flood of signals cannot hold up the answers that
//! others wait for. Signals count only when they come from the owner of `org.freedesktop.systemd1`: on a
//! system bus everybody may send a signal of any name.

use std::{
    collections::HashMap,
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use tokio::{
    sync::{Notify, OnceCell, watch},
    time::timeout,
};
use tracing::warn;
use zbus::{
    Connection, MatchRule, Message, MessageStream, Variant, connection, fdo::DBusProxy, match_rule,
    message::Type, names::OwnedUniqueName, proxy::CacheProperties,
};

use super::{
    jobs::Jobs,
    proxy::{ManagerProxy, ServiceProxy},
};
use crate::sys::{clock, descriptors::Keeper};

/// How the names of connections begin among descriptors that outlive the agent. Each has a name of its own: the
/// last agent's is needed until the next one refers to all that the last one did.
pub const HELD_CONNECTION: &str = "bus-";

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_INTERFACE: &str = "org.freedesktop.systemd1.Manager";
const UNIT_INTERFACE: &str = "org.freedesktop.systemd1.Unit";
const PROPERTIES_INTERFACE: &str = "org.freedesktop.DBus.Properties";
const UNIT_PATHS: &str = "/org/freedesktop/systemd1/unit";

/// The longest wait for one answer. systemd answers within milliseconds, except while it reloads.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// The longest wait for the bus to greet us: under socket activation the daemon starts first.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// A live connection.
#[derive(Debug)]
pub(super) struct Bus {
    pub(super) connection: Connection,
    pub(super) manager: ManagerProxy<'static>,
    pub(super) jobs: Arc<Jobs>,
    watchers: Arc<Watchers>,
    /// Something changed that may change the state of the whole system.
    pub(super) dirty: Arc<Notify>,
    /// The boot is over.
    pub(super) finished: Arc<Notify>,
    daemon: DBusProxy<'static>,
    owner: OwnedUniqueName,
    hears_changes: OnceCell<()>,
    held: HeldConnection,
    closed: watch::Receiver<bool>,
}

/// A copy of the connection that outlives the agent.
#[derive(Debug)]
struct HeldConnection {
    name: String,
    keeper: Keeper,
}

/// Who wants to hear of changes of a unit, by the unit's object path.
#[derive(Debug, Default)]
struct Watchers {
    by_path: Mutex<HashMap<String, Vec<Arc<Watched>>>>,
}

#[derive(Debug, Default)]
struct Watched {
    changed: Notify,
    /// Whether the unit's conditions were met when they were last checked.
    conditions_met: Mutex<Option<bool>>,
}

/// Hears of changes of one unit for as long as it lives.
#[derive(Debug)]
pub(super) struct UnitWatch {
    path: String,
    watched: Arc<Watched>,
    watchers: Arc<Watchers>,
}

impl Bus {
    /// Connects, subscribes to systemd's signals and starts the task that takes them.
    pub(super) async fn connect(socket: &Path, keeper: &Keeper) -> zbus::Result<Self> {
        match timeout(CONNECT_LIMIT, Self::connect_unlimited(socket, keeper)).await {
            Ok(bus) => bus,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }

    async fn connect_unlimited(socket: &Path, keeper: &Keeper) -> zbus::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        let copy = stream.try_clone()?;
        let connection = connection::Builder::unix_stream(stream)
            .method_timeout(CALL_LIMIT)
            .build()
            .await?;
        let daemon = DBusProxy::builder(&connection)
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        let manager = ManagerProxy::builder(&connection)
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        // The stream exists before the first match rule, so no signal is missed.
        let signals = MessageStream::from(&connection);
        let owner = daemon.get_name_owner(SYSTEMD.try_into()?).await?;
        for rule in rules(&owner)? {
            daemon.add_match_rule(rule).await?;
        }
        manager.subscribe().await?;
        // Only now: a copy of a connection that came to nothing would keep it open for good.
        let held = HeldConnection {
            name: format!("{HELD_CONNECTION}{:x}", clock::boottime_us()),
            keeper: keeper.clone(),
        };
        if let Err(error) = keeper.hold(&held.name, copy.as_fd()) {
            warn!(%error, "the connection to systemd cannot be held for another agent");
        }
        drop(copy);

        let (closing, closed) = watch::channel(false);
        let bus = Self {
            connection,
            manager,
            jobs: Arc::default(),
            watchers: Arc::default(),
            dirty: Arc::default(),
            finished: Arc::default(),
            daemon,
            owner: owner.clone(),
            hears_changes: OnceCell::new(),
            held,
            closed,
        };
        let dispatcher = Dispatcher {
            owner,
            finished: Arc::clone(&bus.finished),
            jobs: Arc::clone(&bus.jobs),
            watchers: Arc::clone(&bus.watchers),
            dirty: Arc::clone(&bus.dirty),
        };
        tokio::spawn(async move {
            dispatcher.run(signals).await;
            // Nobody is left to tell when the bus was dropped already.
            let _ = closing.send(true);
        });
        Ok(bus)
    }

    /// Lets go of the copy of a connection that is of no use any more.
    pub(super) fn let_go(&self) {
        if let Err(error) = self.held.keeper.let_go(&self.held.name) {
            warn!(%error, "a connection to systemd that is gone is still held");
        }
    }

    /// Whether the connection is of no use any more.
    pub(super) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Waits until the connection is of no use any more.
    pub(super) async fn closed(&self) {
        // The sender never goes away before it has said so; if it did, that would be the same.
        let _ = self.closed.clone().wait_for(|closed| *closed).await;
    }

    /// Hears of the ends of jobs and of changes of units from now on. A boot has hundreds of them, so this waits until somebody
    /// wants to know; a second call asks for nothing.
    pub(super) async fn hear_changes(&self) -> zbus::Result<()> {
        let add = async || {
            let job_ended = from_systemd(&self.owner)
                .interface(MANAGER_INTERFACE)
                .member("JobRemoved")
                .build()?;
            self.daemon.add_match_rule(job_ended).await?;
            let unit_changed = from_systemd(&self.owner)
                .interface(PROPERTIES_INTERFACE)
                .member("PropertiesChanged")
                .path_namespace(UNIT_PATHS)
                .arg(0, UNIT_INTERFACE)
                .build()?;
            self.daemon.add_match_rule(unit_changed).await
        };
        self.hears_changes.get_or_try_init(add).await?;
        Ok(())
    }

    /// Takes the changes of this unit from now on, whether it is loaded or not, once they are heard of
    /// ([`Self::hear_changes`]).
    pub(super) fn watch_unit(&self, name: &str) -> UnitWatch {
        let path = unit_path(name);
        let watched = Arc::new(Watched::default());
        self.watchers
            .lock()
            .entry(path.clone())
            .or_default()
            .push(Arc::clone(&watched));
        UnitWatch {
            path,
            watched,
            watchers: Arc::clone(&self.watchers),
        }
    }

    /// The answer with all properties of a unit, of all of its interfaces, as they are at one moment.
    pub(super) async fn unit_properties(&self, name: &str) -> zbus::Result<Message> {
        let path = unit_path(name);
        let interface = Some(PROPERTIES_INTERFACE);
        self.connection
            .call_method(Some(SYSTEMD), path.as_str(), interface, "GetAll", &"")
            .await
    }

    /// The properties of a service at this object path.
    pub(super) async fn service<'p>(&self, path: &'p str) -> zbus::Result<ServiceProxy<'p>> {
        ServiceProxy::builder(&self.connection)
            .path(path)
            .cache_properties(CacheProperties::No)
            .build()
            .await
    }
}

/// The object path of a unit: everything but ASCII letters and digits is `_` and two hexadecimal digits,
/// as in systemd's `bus_label_escape()`.
fn unit_path(name: &str) -> String {
    let mut path = format!("{UNIT_PATHS}/");
    for (index, byte) in name.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit()) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Arc<Watched>>>> {
        self.by_path.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the new properties of a unit.
    fn changed(&self, path: &str, message: &Message) {
        let by_path = self.lock();
        let Some(watchers) = by_path.get(path) else {
            return;
        };
        let conditions_met = conditions_met(message);
        for watched in watchers {
            if conditions_met.is_some() {
                *watched
                    .conditions_met
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = conditions_met;
            }
            watched.changed.notify_one();
        }
    }

    /// Nothing more will be heard.
    fn close(&self) {
        self.lock()
            .values()
            .flatten()
            .for_each(|watched| watched.changed.notify_one());
    }
}

/// What a `PropertiesChanged` of a unit says of its conditions, if they were checked at all.
fn conditions_met(message: &Message) -> Option<bool> {
    let body = message.body();
    let (_, properties, _): (&str, HashMap<&str, Variant<'_>>, Vec<&str>) =
        body.deserialize().ok()?;
    let Some(Variant::U64(1..)) = properties.get("ConditionTimestampMonotonic") else {
        return None;
    };
    match properties.get("ConditionResult") {
        Some(Variant::Bool(met)) => Some(*met),
        _ => None,
    }
}

impl UnitWatch {
    /// The unit's object path.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Waits for a change. One that happened since the last call counts.
    pub(super) async fn changed(&self) {
        self.watched.changed.notified().await;
    }

    /// Whether the unit's conditions were met, if they were checked since the watch began. systemd sends
    /// a unit's last changes before the end of its job.
    pub(super) fn conditions_met(&self) -> Option<bool> {
        *self
            .watched
            .conditions_met
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnitWatch {
    fn drop(&mut self) {
        let mut by_path = self.watchers.lock();
        if let Some(watchers) = by_path.get_mut(&self.path) {
            watchers.retain(|watched| !Arc::ptr_eq(watched, &self.watched));
            if watchers.is_empty() {
                by_path.remove(&self.path);
            }
        }
    }
}

/// What we want to hear from the beginning: the end of the boot, and systemd leaving the bus (it does at `daemon-reexec`).
fn rules(owner: &OwnedUniqueName) -> zbus::Result<[MatchRule<'static>; 2]> {
    Ok([
        from_systemd(owner)
            .interface(MANAGER_INTERFACE)
            .member("StartupFinished")
            .build()?,
        MatchRule::builder()
            .msg_type(Type::Signal)
            .sender("org.freedesktop.DBus")
            .interface("org.freedesktop.DBus")
            .member("NameOwnerChanged")
            .arg(0, SYSTEMD)
            .build()?,
    ])
}

fn from_systemd(owner: &OwnedUniqueName) -> match_rule::Builder<'static> {
    MatchRule::builder()
        .msg_type(Type::Signal)
        .sender(owner.as_str().to_owned())
}

struct Dispatcher {
    owner: OwnedUniqueName,
    jobs: Arc<Jobs>,
    watchers: Arc<Watchers>,
    dirty: Arc<Notify>,
    finished: Arc<Notify>,
}

impl Dispatcher {
    /// Runs until the connection ends or systemd leaves the bus.
    async fn run(self, mut signals: MessageStream) {
        while let Some(Ok(message)) = signals.next().await {
            if message.message_type() == Type::Signal && !self.take(&message) {
                break;
            }
        }
        self.jobs.close();
        self.watchers.close();
    }

    /// Takes one signal; false says that this connection is over.
    fn take(&self, message: &Message) -> bool {
        let header = message.header();
        let (Some(sender), Some(member)) = (header.sender(), header.member()) else {
            return true;
        };
        if sender.as_str() == "org.freedesktop.DBus" {
            let owner_changed = member.as_str() == "NameOwnerChanged"
                && message
                    .body()
                    .deserialize::<(&str, &str, &str)>()
                    .is_ok_and(|(name, ..)| name == SYSTEMD);
            return !owner_changed;
        }
        if sender.as_str() != self.owner.as_str() {
            return true;
        }
        match member.as_str() {
            "JobRemoved" => {
                let body = message.body();
                if let Ok((_, job, _, result)) =
                    body.deserialize::<(u32, zbus::ObjectPath<'_>, &str, &str)>()
                {
                    self.jobs.ended(job.as_str(), result);
                }
                self.dirty.notify_one();
            }
            "StartupFinished" => self.finished.notify_one(),
            "PropertiesChanged" => {
                if let Some(path) = header.path() {
                    self.watchers.changed(path.as_str(), message);
                }
                self.dirty.notify_one();
            }
            _ => {}
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_paths_are_escaped_as_systemd_does() {
        assert_eq!(
            unit_path("a-b@1.service"),
            format!("{UNIT_PATHS}/a_2db_401_2eservice")
        );
        assert_eq!(unit_path("1.mount"), format!("{UNIT_PATHS}/_31_2emount"));
    }
}
