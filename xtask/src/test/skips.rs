//! Skips that are all right. Any other one fails the run: a test that silently never runs proves nothing.

/// Reasons that are all right, by a part of their text, and why they are.
const EXPECTED_SKIPS: &[(&str, &str)] = &[
    (
        "fetch-peers.sh",
        "peers to compare with come from the network, and the network may not have them",
    ),
    ("needs root", "crate tests run as whoever calls"),
    (NEEDS_SYSTEMD, "a later step takes these tests to a systemd"),
    (NEEDS_GUEST, "a later step gives these tests a guest's root"),
    (
        "CAP_SYS_RESOURCE",
        "containers often run without it, also as root",
    ),
    (
        "RustSec's database",
        "advisories come from the network, and the network may not have them",
    ),
    (
        "NIXPKGS",
        "evaluating all of NixOS takes minutes and a nixpkgs of the caller's choice",
    ),
    (
        "SEED_TEST_CONTAINERD",
        "containerd comes from Debian's packages, and so on Debian only",
    ),
    (
        "SEED_CLOUD_HYPERVISOR",
        "Cloud Hypervisor is packaged nowhere that the set-up looks, and wants KVM",
    ),
    (
        "no namespace of an ordinary user",
        "containers often give such namespaces to root only",
    ),
    (
        "control groups cannot be written",
        "containers often see the tree and may not change it",
    ),
    ("there is no IPv6", "containers often run without it"),
    ("there is no FUSE", "containers often run without it"),
    (
        "tpm2-openssl",
        "the set-up installs it on Debian; elsewhere it may be where OpenSSL does not look",
    ),
    (
        "no git checkout",
        "an unpacked archive has no tree to be clean",
    ),
];
/// What the agent's tests say without a systemd; the step [`super::steps::agent_with_systemd`] gives them one.
pub(super) const NEEDS_SYSTEMD: &str = "systemd is not PID 1";
/// What the journal's tests say without a guest's root; the step [`super::steps::journal_with_guest`] gives them one.
pub(super) const NEEDS_GUEST: &str = "names no guest's root";

/// Why a skip for this reason is all right, if it is.
pub(super) fn expected(reason: &str) -> Option<&'static str> {
    let known = EXPECTED_SKIPS
        .iter()
        .find(|(part, _)| reason.contains(part));
    known.map(|(_, why)| *why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_is_expected_by_its_reason_only() {
        assert!(expected("a private mount namespace needs root").is_some());
        assert!(expected("swtpm is not installed").is_none());
        assert!(expected("the instance did not boot").is_none());
    }
}
