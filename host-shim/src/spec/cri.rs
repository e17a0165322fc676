//! What a CRI engine says of a container in its annotations: whether it is a pod's sandbox or belongs to one,
//! and how Kubernetes calls it. Both engines' names are known: containerd's (`internal/cri/annotations`) and
//! CRI-O's (`pkg/annotations`).

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::Resources;
use crate::{
    names::{ContainerId, MAX_NAME_BYTES, NameError},
    text::hex,
};

const TYPE: [&str; 2] = [
    "io.kubernetes.cri.container-type",
    "io.kubernetes.cri-o.ContainerType",
];
const SANDBOX_ID: [&str; 2] = [
    "io.kubernetes.cri.sandbox-id",
    "io.kubernetes.cri-o.SandboxID",
];
const POD_NAMESPACE: [&str; 2] = [
    "io.kubernetes.cri.sandbox-namespace",
    "io.kubernetes.cri-o.Namespace",
];
const POD_NAME: [&str; 2] = [
    "io.kubernetes.cri.sandbox-name",
    "io.kubernetes.cri-o.KubeName",
];
const CONTAINER_NAME: [&str; 2] = [
    "io.kubernetes.cri.container-name",
    "io.kubernetes.container.name",
];

/// The pod's limits on its sandbox: microseconds, microseconds, bytes. CRI-O has none of these.
const CPU_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
const CPU_PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";
const MEMORY: &str = "io.kubernetes.cri.sandbox-memory";

/// A longer name is cut, and told from others by its hash: each is one that `seed` takes for an instance's.
const MAX_STATE_NAME_BYTES: usize = MAX_NAME_BYTES;

/// What a container is to its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// There is no pod.
    Alone,
    /// It stands for the pod itself.
    Sandbox,
    /// It runs in the pod of this sandbox.
    Member(ContainerId),
}

fn find<'a>(all: &'a BTreeMap<String, String>, names: [&str; 2]) -> Option<&'a str> {
    names
        .iter()
        .find_map(|name| all.get(*name))
        .map(String::as_str)
        .filter(|value| !value.is_empty())
}

impl Role {
    /// What the annotations say.
    pub fn of(annotations: &BTreeMap<String, String>) -> Result<Self, NameError> {
        match (find(annotations, TYPE), find(annotations, SANDBOX_ID)) {
            (Some("sandbox"), _) => Ok(Self::Sandbox),
            (Some("container"), Some(sandbox)) => Ok(Self::Member(ContainerId::try_from(sandbox)?)),
            _ => Ok(Self::Alone),
        }
    }
}

/// `namespace/name` of the pod that a container belongs to.
pub fn pod(annotations: &BTreeMap<String, String>) -> Option<String> {
    let namespace = find(annotations, POD_NAMESPACE).filter(|name| is_label(name))?;
    Some(format!("{namespace}/{}", pod_name(annotations)?))
}

/// A container of a pod, as Kubernetes calls both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InPod<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod's name.
    pub pod: &'a str,
    /// The container's name in it.
    pub container: &'a str,
}

impl<'a> InPod<'a> {
    /// What the annotations say. Nothing without a pod, or where a name is none.
    pub fn of(annotations: &'a BTreeMap<String, String>) -> Option<Self> {
        let part = |names| find(annotations, names).filter(|name| is_label(name));
        Some(Self {
            namespace: part(POD_NAMESPACE)?,
            pod: part(POD_NAME)?,
            container: part(CONTAINER_NAME)?,
        })
    }
}

/// The name under which a pod's container keeps what outlives it: Kubernetes gives a pod that it starts again
/// the same name, and a container another id. Nothing without a pod, or where a name is none.
///
/// A name of Kubernetes has no `_` (RFC 1123), so two pods never share one.
pub fn state_name(annotations: &BTreeMap<String, String>) -> Option<String> {
    let InPod {
        namespace,
        pod,
        container,
    } = InPod::of(annotations)?;
    let whole = format!("{namespace}_{pod}_{container}");
    if whole.len() <= MAX_STATE_NAME_BYTES {
        return Some(whole);
    }
    let hash = Sha256::digest(&whole);
    let hash = hex(&hash[..12]);
    let kept: String = whole.chars().take(MAX_STATE_NAME_BYTES - 25).collect();
    Some(format!("{kept}_{hash}"))
}

/// The limits that a sandbox's annotations give its pod.
pub fn pod_limits(annotations: &BTreeMap<String, String>) -> Resources {
    let number = |key: &str| {
        annotations
            .get(key)
            .and_then(|text| text.parse::<i64>().ok())
    };
    let period = number(CPU_PERIOD).and_then(|period| u64::try_from(period).ok());
    Resources::new(number(CPU_QUOTA), period, number(MEMORY))
}

/// The pod's name.
pub fn pod_name(annotations: &BTreeMap<String, String>) -> Option<&str> {
    find(annotations, POD_NAME).filter(|name| is_label(name))
}

fn is_label(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn both_engines_say_what_a_container_is() {
        let of = |pairs: &[(&str, &str)]| Role::of(&annotations(pairs)).unwrap();
        assert_eq!(of(&[]), Role::Alone);
        let pod = ContainerId::try_from("pod").unwrap();
        assert_eq!(
            of(&[(TYPE[0], "container"), (SANDBOX_ID[0], "pod")]),
            Role::Member(pod.clone())
        );
        assert_eq!(
            of(&[(TYPE[1], "container"), (SANDBOX_ID[1], "pod")]),
            Role::Member(pod)
        );
        assert_eq!(
            of(&[(TYPE[1], "sandbox"), (SANDBOX_ID[1], "pod")]),
            Role::Sandbox
        );
        let bad = annotations(&[(TYPE[0], "container"), (SANDBOX_ID[0], "../pod")]);
        assert!(Role::of(&bad).is_err());
    }

    #[test]
    fn a_sandboxs_limits_are_its_pods() {
        let limits = pod_limits(&annotations(&[
            (CPU_QUOTA, "150000"),
            (CPU_PERIOD, "100000"),
            (MEMORY, "734003200"),
        ]));
        assert_eq!(limits.vcpus().unwrap().unwrap().get(), 2);
        assert_eq!(limits.memory().unwrap().unwrap().get(), 700);
        let none = pod_limits(&annotations(&[(CPU_QUOTA, "0"), (MEMORY, "much")]));
        assert_eq!((none.vcpus(), none.memory()), (Ok(None), Ok(None)));
    }

    #[test]
    fn state_is_kept_under_the_names_that_kubernetes_gives_again() {
        let named = |namespace: &str, pod: &str, container: &str| {
            state_name(&annotations(&[
                (POD_NAMESPACE[0], namespace),
                (POD_NAME[0], pod),
                (CONTAINER_NAME[0], container),
            ]))
        };
        assert_eq!(
            named("prod", "web-0", "app").as_deref(),
            Some("prod_web-0_app")
        );
        for wrong in ["", "..", "a/b", "a_b", "-a"] {
            assert_eq!(named("prod", wrong, "app"), None, "{wrong:?}");
        }
        let (a, b) = ("a".repeat(253), format!("{}b", "a".repeat(252)));
        let (a, b) = (named("n", &a, "c").unwrap(), named("n", &b, "c").unwrap());
        assert!(a != b && a.len() <= MAX_STATE_NAME_BYTES, "{a}");
    }
}
