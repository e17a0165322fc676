//! What the host has asked for so far: the [`State`] machine behind one handle, the provisioning that it
//! orders, and the record that lets an agent which starts again go on where it was.

mod pause;
mod provision;
mod record;
mod state;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use thiserror::Error;
use tokio::sync::watch;

pub use pause::{Pause, is_pause};
pub use provision::{Order, ProvisionError, alone, bring_up_shares, drop_privileges, provision};
pub use record::{Record, read as read_record, write as write_record};
pub use state::{Action, Event, State};

/// The longest container id, as containerd has it.
const MAX_ID_BYTES: usize = 76;

/// `signal(7)`.
const SIGKILL: i32 = 9;

/// Why a request does not fit.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// Not an id.
    #[error(
        "{0:?} is no container id: 1 to {MAX_ID_BYTES} of letters, digits, \".\", \"_\" and \"-\""
    )]
    Id(String),
    /// There is no such container.
    #[error("container {0} does not exist in this guest")]
    NoContainer(ContainerId),
    /// It is there already.
    #[error("container {0} exists already")]
    Exists(ContainerId),
    /// One instance is one container.
    #[error(
        "this guest is instance {existing} and runs no second container: {asked} needs a guest of its own"
    )]
    Second {
        /// The instance.
        existing: ContainerId,
        /// What was asked for.
        asked: ContainerId,
    },
    /// Start came before the end of create.
    #[error("the container is still being provisioned")]
    StillProvisioning,
    /// The sandbox has its container.
    #[error("the sandbox has its container and cannot be set up again")]
    SandboxInUse,
    /// The guest gave up waiting.
    #[error("nobody called in time, so this guest went on with what its own closure says")]
    Alone,
    /// An event that cannot come now.
    #[error("this request cannot come now")]
    OutOfOrder,
    /// The task that provisions ended without an answer.
    #[error("provisioning ended without an answer")]
    Interrupted,
}

/// A container's id, as containerd allows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerId(String);

impl ContainerId {
    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<&str> for ContainerId {
    type Error = SandboxError;

    fn try_from(id: &str) -> Result<Self, SandboxError> {
        let starts = id.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
        let plain = id
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if starts && plain && id.len() <= MAX_ID_BYTES {
            return Ok(Self(id.to_owned()));
        }
        Err(SandboxError::Id(id.chars().take(MAX_ID_BYTES).collect()))
    }
}

/// The one holder of the state. The lock is held for a step of the machine only, never across a wait,
/// so that no request queues behind another.
#[derive(Debug, Clone)]
pub struct Handle {
    state: Arc<Mutex<State>>,
    /// The pod's pause container, when there is a pod.
    pause: Arc<Mutex<Option<Pause>>>,
    /// True once the boot may go on.
    released: Arc<watch::Sender<bool>>,
}

/// Whom a request means.
#[derive(Debug, Clone)]
pub enum Container {
    /// This guest.
    Instance(ContainerId),
    /// The pod's pause container.
    Pause(Pause),
}

impl Default for Handle {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Handle {
    /// A sandbox that nobody has asked for, or the one of `record`.
    pub fn new(record: Option<&Record>) -> Self {
        let state = record.map_or(State::Waiting, Record::state);
        let released = matches!(state, State::Started(_) | State::Alone);
        Self {
            state: Arc::new(Mutex::new(state)),
            pause: Arc::new(Mutex::new(record.and_then(Record::pause))),
            released: Arc::new(watch::Sender::new(released)),
        }
    }

    /// Takes one event and says what to do now.
    pub fn step(&self, event: Event) -> Result<Action, SandboxError> {
        self.lock().step(event)
    }

    /// The state at this moment.
    pub fn state(&self) -> State {
        self.lock().clone()
    }

    /// Checks that `id` is this guest's container.
    pub fn expect_container(&self, id: &str) -> Result<ContainerId, SandboxError> {
        let asked = ContainerId::try_from(id)?;
        match self.lock().container() {
            Some(ours) if *ours == asked => Ok(asked),
            _ => Err(SandboxError::NoContainer(asked)),
        }
    }

    /// Whom this id means.
    pub fn find(&self, id: &str) -> Result<Container, SandboxError> {
        if let Some(pause) = self.pause().filter(|pause| pause.id().as_str() == id) {
            return Ok(Container::Pause(pause));
        }
        self.expect_container(id).map(Container::Instance)
    }

    /// Accepts a pod's pause container: one, and none after the instance.
    pub fn add_pause(&self, id: ContainerId) -> Result<(), SandboxError> {
        if let Some(existing) = self.lock().container() {
            return Err(SandboxError::Second {
                existing: existing.clone(),
                asked: id,
            });
        }
        let mut pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        match &*pause {
            Some(other) if *other.id() == id => Err(SandboxError::Exists(id)),
            Some(other) => Err(SandboxError::Second {
                existing: other.id().clone(),
                asked: id,
            }),
            None => {
                *pause = Some(Pause::new(id, None));
                Ok(())
            }
        }
    }

    /// The pause container, when there is one.
    pub fn pause(&self) -> Option<Pause> {
        let pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        pause.clone()
    }

    /// Forgets the pause container, for whom nobody waits any more.
    pub fn remove_pause(&self) {
        let mut pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pause) = pause.take() {
            pause.end(SIGKILL);
        }
    }

    /// The boot may go on.
    pub fn release(&self) {
        self.released.send_replace(true);
    }

    /// Waits until the boot may go on.
    pub async fn released(&self) {
        // The sender is `self`'s own, so the wait ends with a true value only.
        let _ = self
            .released
            .subscribe()
            .wait_for(|released| *released)
            .await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A step never leaves the state half changed, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_containerds() {
        assert!(ContainerId::try_from("demo-1_x.y").is_ok());
        for id in ["", "-a", "a/b", "..", "a b", &"a".repeat(77)] {
            assert!(ContainerId::try_from(id).is_err(), "{id:?}");
        }
    }

    #[tokio::test]
    async fn only_the_guests_own_container_is_known_and_release_wakes_who_waits() {
        let handle = Handle::default();
        assert!(handle.expect_container("a").is_err());
        handle
            .step(Event::CreateContainer(ContainerId::try_from("a").unwrap()))
            .unwrap();
        assert!(handle.expect_container("a").is_ok());
        assert!(matches!(
            handle.expect_container("b"),
            Err(SandboxError::NoContainer(_))
        ));
        let waiter = tokio::spawn({
            let handle = handle.clone();
            async move { handle.released().await }
        });
        handle.release();
        waiter.await.unwrap();
    }
}
