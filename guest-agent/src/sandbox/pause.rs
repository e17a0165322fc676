//! The pause container of a pod. Outside of a VM it holds the pod's namespaces; here the guest does that, so
//! it is accepted and does nothing but wait for its end.

use std::sync::Arc;

use seed_protocol::kata::oci;
use tokio::sync::watch;

use super::ContainerId;

/// Who says so, and in which word: Kata's shims, then container engines.
const MARKS: [(&str, &str); 3] = [
    ("io.katacontainers.pkg.oci.container_type", "pod_sandbox"),
    ("io.kubernetes.cri.container-type", "sandbox"),
    ("io.kubernetes.cri-o.ContainerType", "sandbox"),
];

/// What a shell says of a process that a signal ended.
const SIGNALLED: i32 = 128;

/// True when this container is a pod's pause container.
pub fn is_pause(spec: &oci::Spec) -> bool {
    MARKS.iter().any(|(key, value)| {
        let mark = spec.Annotations.get(*key);
        mark.is_some_and(|mark| mark == value)
    })
}

/// A pause container. Clones share it.
#[derive(Debug, Clone)]
pub struct Pause {
    id: ContainerId,
    /// Its exit status, once it has one.
    status: Arc<watch::Sender<Option<i32>>>,
}

impl Pause {
    pub(super) fn new(id: ContainerId, status: Option<i32>) -> Self {
        Self {
            id,
            status: Arc::new(watch::Sender::new(status)),
        }
    }

    /// Its exit status, once it has ended.
    pub fn status(&self) -> Option<i32> {
        *self.status.borrow()
    }

    /// Its id.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Ends it as this signal ends a process; the first one counts.
    pub fn end(&self, signal: i32) {
        self.status.send_if_modified(|status| {
            let first = status.is_none();
            status.get_or_insert(SIGNALLED.saturating_add(signal));
            first
        });
    }

    /// Waits for its end. Any number may wait, before and after it.
    pub async fn wait(&self) -> i32 {
        let mut status = self.status.subscribe();
        // The sender is `self`'s own, so the wait ends with a status only.
        let ended = status.wait_for(Option::is_some).await;
        ended.ok().and_then(|status| *status).unwrap_or(SIGNALLED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_hears_of_the_first_signal_before_and_after() {
        let pause = Pause::new(ContainerId::try_from("pod").unwrap(), None);
        let early: Vec<_> = (0..3)
            .map(|_| {
                let pause = pause.clone();
                tokio::spawn(async move { pause.wait().await })
            })
            .collect();
        tokio::task::yield_now().await;
        pause.end(15);
        pause.end(9);
        for waiter in early {
            assert_eq!(waiter.await.unwrap(), 143);
        }
        assert_eq!(pause.wait().await, 143);
    }

    #[test]
    fn a_pause_container_is_known_by_its_annotation() {
        let mut spec = oci::Spec::default();
        assert!(!is_pause(&spec));
        let key = "io.katacontainers.pkg.oci.container_type".to_owned();
        spec.Annotations
            .insert(key.clone(), "pod_container".to_owned());
        assert!(!is_pause(&spec));
        spec.Annotations.insert(key, "pod_sandbox".to_owned());
        assert!(is_pause(&spec));
    }
}
