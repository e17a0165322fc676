//! The instance's environment: what the bundle says, checked, and the variables that every instance has
//! ([`seed_protocol::env`]). What the bundle says wins.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use seed_protocol::env::{INSTANCE, MAX_ASSIGNMENT_BYTES, MAX_TOTAL_BYTES, NAMESPACE, NODE_IP};

use super::{EnvVar, SpecError, bundle::Bundle};
use crate::names::{ContainerId, Namespace};

/// Where CRI says which namespace of Kubernetes a pod is in. containerd's own is `k8s.io` for all of them.
const POD_NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";

/// Addresses for documentation (RFC 5737, RFC 3849): nobody is there, and nothing is sent to them.
const SOMEBODY: [(IpAddr, IpAddr); 2] = [
    (
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    ),
    (
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    ),
];

/// Checks the bundle's variables and adds what is missing.
pub(super) fn build(
    bundle: &Bundle,
    namespace: &Namespace,
    id: &ContainerId,
    host_address: Option<IpAddr>,
) -> Result<Vec<EnvVar>, SpecError> {
    let entries = bundle.env.iter().enumerate();
    let mut all: Vec<EnvVar> = entries.map(parse).collect::<Result<_, _>>()?;
    for own in own(&bundle.annotations, namespace, id, host_address) {
        if !all.iter().any(|given| given.name == own.name) {
            all.push(own);
        }
    }
    let bytes = all.iter().map(|var| var.assignment().len()).sum();
    if bytes > MAX_TOTAL_BYTES {
        return Err(SpecError::EnvTotal(bytes));
    }
    Ok(all)
}

fn own(
    annotations: &BTreeMap<String, String>,
    namespace: &Namespace,
    id: &ContainerId,
    host_address: Option<IpAddr>,
) -> Vec<EnvVar> {
    let var = |name: &str, value: String| EnvVar {
        name: name.to_owned(),
        value,
    };
    let mut own = match annotations.get(POD_NAMESPACE) {
        // A pod's container id says nothing to anybody: the guest's own name does.
        Some(pod) => vec![var(NAMESPACE, pod.clone())],
        None => vec![
            var(NAMESPACE, namespace.to_string()),
            var(INSTANCE, id.to_string()),
        ],
    };
    own.extend(host_address.map(|address| var(NODE_IP, address.to_string())));
    own
}

/// The host's address on the way to everybody else, if there is such a way. To be asked for in the host's
/// network, not in a pod's.
pub fn host_address() -> Option<IpAddr> {
    SOMEBODY.iter().find_map(|(any, somebody)| {
        // Connecting a datagram socket looks up the route, and no more.
        let socket = UdpSocket::bind(SocketAddr::new(*any, 0)).ok()?;
        socket.connect(SocketAddr::new(*somebody, 9)).ok()?;
        let address = socket.local_addr().ok()?.ip();
        (!address.is_unspecified() && !address.is_loopback()).then_some(address)
    })
}

fn parse((index, entry): (usize, &String)) -> Result<EnvVar, SpecError> {
    // The value may be a secret: only the name, or the entry's place, goes into the message.
    let Some((name, value)) = entry.split_once('=') else {
        return Err(SpecError::Env(format!("number {}", index + 1)));
    };
    let mut chars = name.chars();
    let head = chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if !head || !chars.all(|c| c.is_ascii_alphanumeric() || c == '_') || value.contains('\0') {
        return Err(SpecError::Env(format!("{name:?}")));
    }
    if entry.len() > MAX_ASSIGNMENT_BYTES {
        return Err(SpecError::EnvLength(name.to_owned()));
    }
    Ok(EnvVar {
        name: name.to_owned(),
        value: value.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Resources;

    fn environment(env: &[&str], annotations: &[(&str, &str)]) -> Result<Vec<String>, SpecError> {
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let bundle = Bundle {
            path: "/bundle".into(),
            root: "/bundle/rootfs".into(),
            read_only_root: false,
            args: Vec::new(),
            env: env.iter().map(|entry| (*entry).to_owned()).collect(),
            oom_score_adj: None,
            hostname: String::new(),
            mounts: Vec::new(),
            annotations: annotations.iter().map(pair).collect(),
            network_namespace: None,
            cgroups_path: String::new(),
            sysctls: BTreeMap::new(),
            resources: Resources::default(),
            devices: Vec::new(),
            device_rules: Vec::new(),
        };
        let namespace = Namespace::try_from("default").unwrap();
        let id = ContainerId::try_from("web").unwrap();
        let all = build(&bundle, &namespace, &id, host_address())?;
        Ok(all.iter().map(EnvVar::assignment).collect())
    }

    fn of<'a>(all: &'a [String], name: &str) -> Vec<&'a str> {
        let values = all.iter().filter_map(|entry| entry.split_once('='));
        values.filter(|(n, _)| *n == name).map(|(_, v)| v).collect()
    }

    #[test]
    fn every_instance_knows_its_name_and_namespace_unless_it_is_told_otherwise() {
        let all = environment(&["A=1"], &[]).unwrap();
        assert_eq!(of(&all, "SEED_INSTANCE"), ["web"]);
        assert_eq!(of(&all, "SEED_NAMESPACE"), ["default"]);
        let all = environment(&["SEED_INSTANCE=mine", "SEED_NODE_IP=192.0.2.7"], &[]).unwrap();
        assert_eq!(of(&all, "SEED_INSTANCE"), ["mine"]);
        assert_eq!(of(&all, "SEED_NODE_IP"), ["192.0.2.7"]);
        let pod = environment(&[], &[(POD_NAMESPACE, "s-team")]).unwrap();
        assert_eq!(of(&pod, "SEED_NAMESPACE"), ["s-team"]);
        assert_eq!(of(&pod, "SEED_INSTANCE"), [""; 0]);
    }

    #[test]
    fn what_the_guest_would_refuse_is_refused_before_it_starts() {
        let long = format!("A={}", "s3cret".repeat(MAX_ASSIGNMENT_BYTES / 6 + 1));
        let error = environment(&[&long], &[]).unwrap_err().to_string();
        assert!(
            error.starts_with("environment variable A is longer than"),
            "{error}"
        );
        let part = format!("B={}", "s3cret".repeat(20_000));
        let error = environment(&[part.as_str(); 9], &[]).unwrap_err();
        assert!(matches!(error, SpecError::EnvTotal(bytes) if bytes > MAX_TOTAL_BYTES));
        assert!(!error.to_string().contains("s3cret"));
    }
}
