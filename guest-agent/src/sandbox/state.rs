//! What the host has asked for so far, as a pure machine: events in, a verdict out, no I/O.
//!
//! ```text
//! Waiting --CreateSandbox--> Ready --CreateContainer--> Provisioning --done--> Created
//!    |                         |                             |                    |
//!    |                         |                             +--refused--> Ready  | StartContainer
//!    +--------nobody called----+--------> Alone                                   v
//!                                                                              Started
//! ```
//!
//! A request that does not fit its moment is refused and changes nothing. `Alone` is the end of the road
//! for a guest without a host: a host that calls later may look, but provisions nothing any more. An
//! agent that starts again begins in `Created` or `Started`, as its record says.

use super::{ContainerId, SandboxError};

/// Where the sandbox is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The agent listens and nobody has asked for anything.
    Waiting,
    /// There is a sandbox without a container.
    Ready,
    /// The container's environment, volumes and identity are being made.
    Provisioning(ContainerId),
    /// All is in place; the boot waits for the word.
    Created(ContainerId),
    /// The boot goes on.
    Started(ContainerId),
    /// There is no host; the boot goes on with what the closure says.
    Alone,
}

/// Something that happens to the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The host sets up the sandbox. Again is fine, before there is a container.
    CreateSandbox,
    /// The host describes the container.
    CreateContainer(ContainerId),
    /// What it described has been done.
    Provisioned,
    /// What it described cannot be meant; the host may try again.
    Refused,
    /// The host lets the boot go on.
    StartContainer(ContainerId),
    /// Nobody has called within the limit, or nobody was expected.
    NoHost,
}

/// What the caller does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing: the request is fulfilled, or was before.
    Nothing,
    /// Make environment, volumes and identity; then report `Provisioned` or `Refused`.
    Provision,
    /// Tell systemd that the boot may go on.
    LetBootGoOn,
    /// Do what the closure says, then let the boot go on.
    ProvisionAlone,
}

impl State {
    /// Takes one event. A refusal leaves the state as it is.
    pub fn step(&mut self, event: Event) -> Result<Action, SandboxError> {
        let (next, action) = match (&*self, event) {
            (Self::Waiting | Self::Ready, Event::CreateSandbox) => (Self::Ready, Action::Nothing),
            // Kata's runtime-rs and ours always make the sandbox first; without one there is nothing lost.
            (Self::Waiting | Self::Ready, Event::CreateContainer(id)) => {
                (Self::Provisioning(id), Action::Provision)
            }
            (Self::Waiting | Self::Ready, Event::NoHost) => (Self::Alone, Action::ProvisionAlone),
            (Self::Provisioning(id), Event::Provisioned) => {
                (Self::Created(id.clone()), Action::Nothing)
            }
            (Self::Provisioning(_), Event::Refused) => (Self::Ready, Action::Nothing),
            (Self::Created(id), Event::StartContainer(asked)) if *id == asked => {
                (Self::Started(asked), Action::LetBootGoOn)
            }
            (Self::Started(id), Event::StartContainer(asked)) if *id == asked => {
                return Ok(Action::Nothing);
            }
            // The host has called in the meantime.
            (_, Event::NoHost) => return Ok(Action::Nothing),
            (state, event) => return Err(refusal(state, &event)),
        };
        *self = next;
        Ok(action)
    }

    /// The container, once the host has described it.
    pub fn container(&self) -> Option<&ContainerId> {
        match self {
            Self::Provisioning(id) | Self::Created(id) | Self::Started(id) => Some(id),
            Self::Waiting | Self::Ready | Self::Alone => None,
        }
    }
}

fn refusal(state: &State, event: &Event) -> SandboxError {
    match (state.container(), event) {
        (Some(id), Event::CreateContainer(asked)) if id == asked => {
            SandboxError::Exists(id.clone())
        }
        (Some(id), Event::CreateContainer(asked)) => SandboxError::Second {
            existing: id.clone(),
            asked: asked.clone(),
        },
        (Some(id), Event::StartContainer(asked)) if id != asked => {
            SandboxError::NoContainer(asked.clone())
        }
        (None, Event::StartContainer(asked)) => SandboxError::NoContainer(asked.clone()),
        (Some(_), Event::StartContainer(_)) => SandboxError::StillProvisioning,
        (Some(_), Event::CreateSandbox) => SandboxError::SandboxInUse,
        _ if *state == State::Alone => SandboxError::Alone,
        _ => SandboxError::OutOfOrder,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(name: &str) -> ContainerId {
        ContainerId::try_from(name).unwrap()
    }

    #[test]
    fn the_hosts_order_of_calls_lets_the_boot_go_on_once() {
        let mut state = State::Waiting;
        let mut step = |event| state.step(event).unwrap();
        assert_eq!(step(Event::CreateSandbox), Action::Nothing);
        assert_eq!(step(Event::CreateContainer(id("a"))), Action::Provision);
        assert_eq!(step(Event::Provisioned), Action::Nothing);
        assert_eq!(step(Event::StartContainer(id("a"))), Action::LetBootGoOn);
        assert_eq!(step(Event::StartContainer(id("a"))), Action::Nothing);
        assert_eq!(step(Event::NoHost), Action::Nothing);
    }

    #[test]
    fn a_second_container_is_refused_with_a_sentence() {
        let mut state = State::Started(id("a"));
        let error = state.step(Event::CreateContainer(id("b"))).unwrap_err();
        assert!(matches!(error, SandboxError::Second { .. }), "{error}");
        let error = state.step(Event::CreateContainer(id("a"))).unwrap_err();
        assert!(matches!(error, SandboxError::Exists(_)));
    }

    #[test]
    fn a_start_out_of_order_is_told_apart() {
        let mut state = State::Ready;
        let start = |name| Event::StartContainer(id(name));
        assert!(matches!(
            state.step(start("a")),
            Err(SandboxError::NoContainer(_))
        ));
        let mut state = State::Provisioning(id("a"));
        assert!(matches!(
            state.step(start("a")),
            Err(SandboxError::StillProvisioning)
        ));
        assert!(matches!(
            state.step(start("b")),
            Err(SandboxError::NoContainer(_))
        ));
    }

    #[test]
    fn after_a_refusal_the_host_may_try_again() {
        let mut state = State::Ready;
        state.step(Event::CreateContainer(id("a"))).unwrap();
        state.step(Event::Refused).unwrap();
        assert_eq!(
            state.step(Event::CreateContainer(id("a"))).unwrap(),
            Action::Provision
        );
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let name = prop_oneof![Just("a"), Just("b")].prop_map(id);
        prop_oneof![
            Just(Event::CreateSandbox),
            name.clone().prop_map(Event::CreateContainer),
            Just(Event::Provisioned),
            Just(Event::Refused),
            name.prop_map(Event::StartContainer),
            Just(Event::NoHost),
        ]
    }

    proptest! {
        #[test]
        fn no_order_of_events_lets_the_boot_go_on_twice_or_unprovisioned(
            events in prop::collection::vec(any_event(), 0..40)
        ) {
            let mut state = State::Waiting;
            let (mut released, mut provisioned) = (0, false);
            for event in events {
                let before = state.clone();
                match state.step(event.clone()) {
                    Ok(Action::LetBootGoOn) => { released += 1; prop_assert!(provisioned); }
                    Ok(Action::ProvisionAlone) => released += 1,
                    Ok(_) => provisioned |= event == Event::Provisioned,
                    Err(_) => prop_assert_eq!(&before, &state),
                }
            }
            prop_assert!(released <= 1);
        }
    }
}
