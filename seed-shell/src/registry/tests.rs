//! Plant, invite, authorize: what must hold whatever happens.

use std::time::Duration;

use super::*;
use crate::{identity::Cid, source::Source};

const HOUR: Duration = Duration::from_secs(3600);

fn key(n: u8) -> (russh::keys::PublicKey, String) {
    let pair = russh::keys::ssh_key::private::Ed25519Keypair::from_seed(&[n; 32]);
    let key = russh::keys::PrivateKey::from(pair).public_key().clone();
    let text = key.to_openssh().unwrap();
    (key, text)
}

fn open() -> (tempfile::TempDir, Registry) {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(&dir.path().join("registry.db")).unwrap();
    (dir, registry)
}

fn plant(registry: &Registry, code: &str, n: u8) -> Result<Repo, RegistryError> {
    let source = Source::try_from("silo:app").unwrap();
    registry.plant(&Planting {
        code,
        cid: &Cid::of_bytes([n; 32]),
        source: &source,
        instances: &["web".parse().unwrap()],
        keys: &key(n).1,
    })
}

#[test]
fn an_invite_plants_once() {
    let (_dir, registry) = open();
    let code = registry.invite("for a friend", HOUR).unwrap().to_string();
    let repo = plant(&registry, &code, 1).unwrap();
    assert_eq!(repo.name, "app");
    assert_eq!(registry.instances(&repo).unwrap(), ["web".parse().unwrap()]);
    assert!(matches!(
        plant(&registry, &code, 2),
        Err(RegistryError::Invite)
    ));
    // Nothing of the refused one is left.
    assert_eq!(registry.repos().unwrap(), [repo]);
    let listed = registry.invites().unwrap();
    assert_eq!(listed[0].repo.as_deref(), Some("app"));
    assert!(listed[0].used.is_some());
}

#[test]
fn an_invite_expires_and_an_unknown_one_is_none() {
    let (_dir, registry) = open();
    let code = registry.invite("", Duration::ZERO).unwrap().to_string();
    for code in [code.as_str(), "", "aaaaaaaaaaaaaaaa"] {
        assert!(matches!(
            plant(&registry, code, 1),
            Err(RegistryError::Invite)
        ));
    }
}

#[test]
fn an_identity_is_planted_once_and_its_invite_is_not_spent_for_nothing() {
    let (_dir, registry) = open();
    let code = || registry.invite("", HOUR).unwrap().to_string();
    plant(&registry, &code(), 1).unwrap();
    let second = code();
    assert!(matches!(
        plant(&registry, &second, 1),
        Err(RegistryError::Planted { .. })
    ));
    plant(&registry, &second, 2).unwrap();
}

#[test]
fn keys_see_their_repositories_until_they_are_taken_away() {
    let (_dir, registry) = open();
    let code = registry.invite("", HOUR).unwrap().to_string();
    let repo = plant(&registry, &code, 1).unwrap();
    assert_eq!(registry.grants(&key(1).0).unwrap().len(), 1);
    assert!(registry.grants(&key(2).0).unwrap().is_empty());
    let both = format!("no-pty {}\n# note\n{}\n", key(2).1, key(3).1);
    registry.authorize(&repo, &both).unwrap();
    assert!(registry.grants(&key(1).0).unwrap().is_empty());
    assert!(registry.grants(&key(2).0).unwrap()[0].options.no_pty);
    assert!(!registry.grants(&key(3).0).unwrap()[0].options.no_pty);
}

#[test]
fn a_new_source_leaves_the_identity() {
    let (_dir, registry) = open();
    let code = registry.invite("", HOUR).unwrap().to_string();
    let repo = plant(&registry, &code, 1).unwrap();
    registry
        .replant(&repo, &Source::try_from("github:me/site").unwrap())
        .unwrap();
    let now = registry.repo(&repo.cid).unwrap();
    assert_eq!(
        (now.name.as_str(), now.uri.as_str()),
        ("site", "github:me/site")
    );
    assert_eq!(now.namespace, repo.namespace);
    assert_eq!(registry.repo(repo.namespace.as_str()).unwrap(), now);
    assert_eq!(registry.repo("site").unwrap(), now);
    assert!(registry.repo("app").is_err());
}

#[test]
fn it_is_there_again_after_a_restart_and_a_later_release_is_refused() {
    let (dir, registry) = open();
    let code = registry.invite("", HOUR).unwrap().to_string();
    let repo = plant(&registry, &code, 1).unwrap();
    // Not closed in order: as after a crash.
    std::mem::forget(registry);
    let path = dir.path().join("registry.db");
    let again = Registry::open(&path).unwrap();
    assert_eq!(again.repos().unwrap(), [repo]);
    again
        .connection()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    assert!(matches!(
        Registry::open(&path),
        Err(RegistryError::Version { found: 99, .. })
    ));
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn two_processes_use_one_registry() {
    let (dir, registry) = open();
    let other = Registry::open(&dir.path().join("registry.db")).unwrap();
    let code = other.invite("", HOUR).unwrap().to_string();
    plant(&registry, &code, 1).unwrap();
    assert_eq!(other.repos().unwrap().len(), 1);
}

#[test]
fn a_link_in_its_place_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other");
    std::fs::write(&other, "not ours").unwrap();
    let path = dir.path().join("registry.db");
    std::os::unix::fs::symlink(&other, &path).unwrap();
    let refused = Registry::open(&path);
    assert!(matches!(refused, Err(RegistryError::Open { .. })));
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "not ours");
}
