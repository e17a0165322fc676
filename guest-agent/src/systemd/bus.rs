//! One connection to the system bus: the proxies on it, and the one task that takes its signals.
//!
//! The task never waits for an answer of its own, so a flood of signals cannot hold up the answers that
//! others wait for. Signals count only when they come from the owner of `org.freedesktop.systemd1`: on a
//! system bus everybody may send a signal of any name.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};
use zbus::{
    Address, Connection, MatchRule, Message, MessageStream, OwnedObjectPath, connection,
    fdo::DBusProxy, message::Type, names::OwnedUniqueName, proxy::CacheProperties,
};

use super::{jobs::Jobs, proxy::ManagerProxy};

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
    closed: watch::Receiver<bool>,
}

/// Who wants to hear of changes of a unit, by the unit's object path: one for each.
#[derive(Debug, Default)]
struct Watchers {
    by_path: Mutex<HashMap<String, Arc<Notify>>>,
}

/// Hears of changes of one unit for as long as it lives. One at a time for each unit: it is made by
/// whoever started the unit.
#[derive(Debug)]
pub(super) struct UnitWatch {
    path: String,
    changed: Arc<Notify>,
    watchers: Arc<Watchers>,
}

impl Bus {
    /// Connects, subscribes to systemd's signals and starts the task that takes them.
    pub(super) async fn connect(socket: &Path) -> zbus::Result<Self> {
        match timeout(CONNECT_LIMIT, Self::connect_unlimited(socket)).await {
            Ok(bus) => bus,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }

    async fn connect_unlimited(socket: &Path) -> zbus::Result<Self> {
        let address: Address = format!("unix:path={}", socket.display())
            .as_str()
            .try_into()?;
        let connection = connection::Builder::address(address)
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

        let (closing, closed) = watch::channel(false);
        let bus = Self {
            connection,
            manager,
            jobs: Arc::default(),
            watchers: Arc::default(),
            dirty: Arc::default(),
            closed,
        };
        let dispatcher = Dispatcher {
            owner,
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

    /// Waits until the connection is of no use any more.
    pub(super) async fn closed(&self) {
        // The sender never goes away before it has said so; if it did, that would be the same.
        let _ = self.closed.clone().wait_for(|closed| *closed).await;
    }

    /// Hears of changes of this unit from now on.
    pub(super) fn watch_unit(&self, path: &OwnedObjectPath) -> UnitWatch {
        let path = path.as_str().to_owned();
        let changed = Arc::new(Notify::new());
        self.watchers
            .lock()
            .insert(path.clone(), Arc::clone(&changed));
        UnitWatch {
            path,
            changed,
            watchers: Arc::clone(&self.watchers),
        }
    }
}

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Notify>>> {
        self.by_path.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnitWatch {
    /// Waits for a change. One that happened since the last call counts.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for UnitWatch {
    fn drop(&mut self) {
        self.watchers.lock().remove(&self.path);
    }
}

/// What we want to hear: ends of jobs, the end of the boot, changes of units, and systemd leaving the bus
/// (it does at `daemon-reexec`).
fn rules(owner: &OwnedUniqueName) -> zbus::Result<[MatchRule<'static>; 4]> {
    let from_systemd = || {
        MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(owner.as_str().to_owned())
    };
    Ok([
        from_systemd()
            .interface(MANAGER_INTERFACE)
            .member("JobRemoved")
            .build()?,
        from_systemd()
            .interface(MANAGER_INTERFACE)
            .member("StartupFinished")
            .build()?,
        from_systemd()
            .interface(PROPERTIES_INTERFACE)
            .member("PropertiesChanged")
            .path_namespace(UNIT_PATHS)
            .arg(0, UNIT_INTERFACE)
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

struct Dispatcher {
    owner: OwnedUniqueName,
    jobs: Arc<Jobs>,
    watchers: Arc<Watchers>,
    dirty: Arc<Notify>,
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
        self.watchers
            .lock()
            .values()
            .for_each(|changed| changed.notify_one());
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
            "StartupFinished" => self.dirty.notify_one(),
            "PropertiesChanged" => {
                if let Some(path) = header.path()
                    && let Some(changed) = self.watchers.lock().get(path.as_str())
                {
                    changed.notify_one();
                }
                self.dirty.notify_one();
            }
            _ => {}
        }
        true
    }
}
