//! The driver's long work: each piece runs in a task of its own and reports back by an [`Input`].

use std::{
    fs::{self, DirBuilder},
    io, iter,
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use seed_protocol::paths::SHARE_DIR;
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::{Driver, Input};
use crate::{
    agent::{self, Journal},
    cgroup, logs,
    sandbox::{
        follow, start,
        state::{Event, Phase},
    },
    text::chain,
    vmm::{Control, VmmError},
};

/// SIGTERM.
const SIGTERM: u32 = 15;

/// How much later the end of a VM may be seen than that its agent fell silent: a VMM whose daemon died is given
/// some seconds to end by itself.
const END_IS_SEEN: Duration = Duration::from_secs(5);

/// What the guest may still say when it is killed without being asked.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How often, and how long apart, a control group is tried to be removed while somebody is in it.
const GROUP_LOOKS: u32 = 50;
const GROUP_POLL: Duration = Duration::from_millis(10);

impl Driver {
    pub(super) fn launch(&mut self) {
        let paths = &self.spec.paths;
        // The lock on the TPM state says that whatever is there is of a shim that was killed.
        cgroup::forget(paths);
        remove_dir(&paths.vm_dir());
        let prepared = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(paths.vsock_dir())
            .and_then(|()| agent::listen_for_beacons(&paths.vsock_listener(self.spec.beacon_port)));
        let (listener, mut beacons) = match prepared {
            Ok(prepared) => prepared,
            Err(source) => {
                let path = paths.vm_dir();
                let error = VmmError::File { path, source };
                return self.feed(Event::LaunchFailed(chain(&error)));
            }
        };
        self.beacons = Some(listener);
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            while let Some(beacon) = beacons.recv().await {
                let Some(inputs) = inputs.upgrade() else {
                    break;
                };
                let _ = inputs.send(Input::Beacon(beacon));
            }
        });
        let Some(tpm) = self.tpm.clone() else { return };
        let (vmm, spec) = (Arc::clone(&self.vmm), Arc::clone(&self.spec));
        let (launching, given_up) = oneshot::channel();
        self.launching = Some(launching);
        self.report(async move {
            tokio::select! {
                launched = vmm.launch(&spec, &tpm) => Input::Launched(launched),
                // Dropped, it kills what it has started, as it does after an error.
                _ = given_up => Input::LaunchGivenUp,
            }
        });
    }

    pub(super) fn provision(&mut self) {
        let (agent, spec) = (self.agent.clone(), Arc::clone(&self.spec));
        let limits = self.limits.clone();
        let mut alive = self.alive.subscribe();
        self.report(async move {
            let done = start::provision(&agent, &spec, &limits).await;
            if done.as_ref().is_err_and(|error| error.code().is_none()) {
                // The agent fell silent. If its VM is ending, that is the reason, and it is seen a little later.
                let _ = timeout(END_IS_SEEN, alive.wait_for(|alive| !alive)).await;
            }
            Input::Provisioned(done)
        });
    }

    pub(super) fn ask_poweroff(&mut self) {
        let (agent, id) = (self.agent.clone(), self.spec.id.clone());
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            if let Err(error) = agent.signal(&id, None, SIGTERM).await {
                tracing::warn!(sandbox_id = %id, %error, "agent did not take the power-off");
                if let Some(inputs) = inputs.upgrade() {
                    let _ = inputs.send(Input::Unheard);
                }
            }
        });
    }

    pub(super) fn drain_and_kill(&mut self) {
        let Some(control) = self.control.clone() else {
            return;
        };
        let puller = self.puller.take();
        tokio::spawn(async move {
            if let Some(puller) = puller {
                puller.drain(LAST_WORDS).await;
            }
            let _ = control.send(Control::Kill);
        });
    }

    pub(super) fn clean_up(&mut self) {
        self.alive.send_replace(false);
        self.beacons = None;
        for follower in self.followers.drain(..) {
            follower.abort();
        }
        let puller = self.puller.take();
        let limit = self.limits.drain();
        let spec = Arc::clone(&self.spec);
        self.report(async move {
            if let Some(puller) = puller {
                puller.drain(limit).await;
            }
            // A helper's own child may end a little after it.
            for _ in 0..GROUP_LOOKS {
                if cgroup::forget(&spec.paths) {
                    break;
                }
                sleep(GROUP_POLL).await;
            }
            Input::CleanedUp
        });
    }

    /// Has the guest ask something of the files that the host gives it: whoever waits for an answer that virtiofsd was not called
    /// for while the machine stood still waits until the next one asks.
    pub(super) fn stir(&self) {
        if !matches!(self.state.phase(), Phase::Running | Phase::PoweringOff) {
            return;
        }
        let (agent, has_share) = (self.agent.clone(), !self.spec.shared.is_empty());
        tokio::spawn(async move {
            let share = has_share.then_some(SHARE_DIR);
            for path in iter::once("/").chain(share) {
                if let Err(error) = agent.look_at(path).await {
                    tracing::debug!(path, %error, "guest's files were not looked at");
                }
            }
        });
    }

    /// Begins to follow status, memory and journal.
    pub(super) fn follow(&mut self) {
        let agent = &self.agent;
        self.followers = vec![
            follow::status(agent.apart(), self.inputs.clone()),
            follow::memory(agent.apart(), self.inputs.clone()),
        ];
        let journal = Journal::new(&self.agent, self.alive.subscribe());
        let dir = self.spec.paths.logs_dir();
        let puller = logs::puller::spawn_with(journal, dir, self.stdout.take(), self.log_limits);
        let _ = self.log.set(puller.counters());
        self.puller = Some(puller);
    }

    fn report(&self, work: impl Future<Output = Input> + Send + 'static) {
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let input = work.await;
            if let Some(inputs) = inputs.upgrade() {
                let _ = inputs.send(input);
            }
        });
    }
}

pub(super) fn remove_dir(path: &Path) {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "folder was not removed");
        }
        _ => {}
    }
}
