//! Users of their own for the programs of a machine: QEMU, swtpm and the vsock device, each another one, so that
//! who breaks out of one has neither root nor the others. virtiofsd stays root in a namespace of its own: it makes
//! files of every owner that the guest has.
//!
//! The numbers come from a range that nobody else has (`[users]` of the configuration). Which of them are taken is
//! said by locks on files in the run folder; an instance gets the same ones at each start unless another has them.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::Gid;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{
    config::{IDS_EACH, Users},
    locks::{self, Held},
    spec::{VmAccel, VmSpec},
    sys::identity::{Identity, can_switch},
};

/// Where the kernel runs a guest's processor.
const KVM: &str = "/dev/kvm";

/// The first port that anybody may listen on (ip(7)).
const FIRST_FREE_PORT: u16 = 1024;

/// Why there is no user for a machine.
#[derive(Debug, Error)]
pub enum UsersError {
    /// As many machines run as there are numbers.
    #[error("all {instances} places for users of their own are taken: give [users] a larger count")]
    Full {
        /// How many there are.
        instances: u32,
    },
    /// A lock.
    #[error("lock {} on a user's number cannot be used", path.display())]
    Lock {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why the programs of machines run as the shim's own user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unchanged {
    /// The configuration says so.
    Configured,
    /// The shim is no root: its user is an ordinary one already.
    NoRoot,
    /// The shim's root is one of a namespace that does not have these numbers.
    Unmapped,
}

impl Unchanged {
    /// As a sentence's end.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Configured => "the configuration gives them no users (users.count is 0)",
            Self::NoRoot => "only root can give them other users",
            Self::Unmapped => {
                "the namespace of this root does not have the users that [users] names"
            }
        }
    }
}

/// Whether the programs of machines can have users of their own here.
pub fn possible(users: &Users) -> Result<(), Unchanged> {
    if users.count == 0 {
        return Err(Unchanged::Configured);
    }
    if !rustix::process::geteuid().is_root() || !can_switch() {
        return Err(Unchanged::NoRoot);
    }
    let mapped = |path| fs::read_to_string(path).is_ok_and(|map| is_mapped(&map, users));
    if mapped("/proc/self/uid_map") && mapped("/proc/self/gid_map") {
        Ok(())
    } else {
        Err(Unchanged::Unmapped)
    }
}

/// Whether a map of user_namespaces(7) has the whole range.
fn is_mapped(map: &str, users: &Users) -> bool {
    let (first, end) = (
        u64::from(users.first),
        u64::from(users.first) + u64::from(users.count),
    );
    map.lines().any(|line| {
        let mut fields = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(from)), Some(_), Some(Ok(count))) =
            (fields.next(), fields.next(), fields.next())
        else {
            return false;
        };
        from <= first && end <= from + count
    })
}

/// Numbers that are a machine's until this is dropped: each of its programs that has one holds on to it.
#[derive(Debug)]
pub(super) struct Lease {
    first: u32,
    path: PathBuf,
    _lock: Held,
}

impl Lease {
    /// Takes numbers for this machine; none where its programs run as the shim's own user.
    pub(super) fn take(users: &Users, spec: &VmSpec) -> Result<Option<Self>, UsersError> {
        if let Err(why) = possible(users) {
            tracing::debug!(reason = why.reason(), "programs run as the shim's user");
            return Ok(None);
        }
        // Each run folder has locks of its own: an instance of this name in another one shall have other numbers.
        let name = spec.paths.run_dir().to_string_lossy();
        Self::lock(users, spec.paths.users_dir(), &name).map(Some)
    }

    fn lock(users: &Users, dir: &Path, name: &str) -> Result<Self, UsersError> {
        let instances = users.instances();
        let wanted = Sha256::digest(name.as_bytes());
        let wanted = wanted
            .iter()
            .take(4)
            .fold(0, |sum: u32, byte| (sum << 8) | u32::from(*byte));
        for step in 0..instances {
            let place = (wanted % instances + step) % instances;
            let path = dir.join(place.to_string());
            match lock(&path) {
                Ok(Some(file)) => {
                    return Ok(Self {
                        first: users.first + place * IDS_EACH,
                        path,
                        _lock: file,
                    });
                }
                Ok(None) => {}
                Err(source) => return Err(UsersError::Lock { path, source }),
            }
        }
        Err(UsersError::Full { instances })
    }

    /// QEMU's. None where it must be root to run this guest's processor.
    pub(super) fn qemu(&self, spec: &VmSpec) -> Option<Identity> {
        let mut groups = Vec::new();
        if spec.accel == VmAccel::Kvm {
            match kvm_group(Path::new(KVM)) {
                Ok(group) => groups.extend(group),
                Err(found) => {
                    tracing::warn!(
                        found,
                        "QEMU runs as root: no other user can be let into /dev/kvm"
                    );
                    return None;
                }
            }
        }
        Some(Identity {
            id: self.first,
            groups,
            low_ports: spec
                .forwards
                .iter()
                .any(|one| one.host_port() < FIRST_FREE_PORT),
        })
    }

    /// swtpm's.
    pub(super) fn swtpm(&self) -> Identity {
        Identity::plain(self.first + 1)
    }

    /// The vsock device's.
    pub(super) fn vsock(&self) -> Identity {
        Identity::plain(self.first + 2)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Still locked: nobody else has it open and thinks that it is theirs.
        let _ = fs::remove_file(&self.path);
        if let Some(dir) = self.path.parent() {
            // Only when nobody has any.
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Removes what a killed shim has left in the folder of locks.
pub(crate) fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if let Ok(Some(_locked)) = lock(&path) {
            let _ = fs::remove_file(&path);
        }
    }
    let _ = fs::remove_dir(dir);
}

/// The locked file; none where somebody else has it.
fn lock(path: &Path) -> io::Result<Option<Held>> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    locks::in_its_folder(path, || options.open(path), locks::try_exclusive)
}

/// What keeps QEMU root, if a guest's processor is run by KVM; none where another user can be let in.
pub fn kept_from_kvm() -> Option<String> {
    let found = kvm_group(Path::new(KVM)).err()?;
    Some(format!("no other user can be let into {KVM} ({found})"))
}

/// The group that lets a user into the device, if it takes one. An error says what it is instead.
fn kvm_group(device: &Path) -> Result<Option<Gid>, String> {
    const ALL: u32 = 0o006;
    const GROUP: u32 = 0o060;
    let found = fs::metadata(device).map_err(|error| error.to_string())?;
    let (mode, gid) = (found.mode(), found.gid());
    if mode & ALL == ALL {
        Ok(None)
    } else if mode & GROUP == GROUP && gid != 0 {
        Ok(Some(Gid::from_raw(gid)))
    } else {
        Err(format!("mode {:o} and group {gid}", mode & 0o777))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn users(instances: u32) -> Users {
        Users {
            count: instances * IDS_EACH,
            ..Users::default()
        }
    }

    #[test]
    fn no_two_machines_have_a_number_in_common_and_one_gets_its_own_again() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("users");
        let take = |name| Lease::lock(&users(3), &dir, name);
        let all = [take("a").unwrap(), take("b").unwrap(), take("a").unwrap()];
        let mut ids: Vec<u32> = all
            .iter()
            .flat_map(|lease| [lease.first, lease.swtpm().id, lease.vsock().id])
            .collect();
        ids.sort_unstable();
        let first = Users::default().first;
        let expected: Vec<u32> = (first..first + 9).collect();
        assert_eq!(ids, expected);
        let full = take("c").unwrap_err().to_string();
        assert!(full.contains("all 3 places"), "{full}");
        let [a, b, _] = &all;
        let (a, b) = (a.first, b.first);
        drop(all);
        assert!(!dir.exists());
        let b_again = take("b").unwrap();
        let a_again = take("a").unwrap();
        assert_eq!((a_again.first, b_again.first), (a, b));
    }

    #[test]
    fn what_a_killed_shim_left_is_swept_and_what_is_locked_stays() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("users");
        sweep(&dir);
        let lease = Lease::lock(&users(2), &dir, "a").unwrap();
        let left = dir.join("7");
        fs::write(&left, "").unwrap();
        sweep(&dir);
        assert!(lease.path.exists() && !left.exists());
        drop(lease);
        sweep(&dir);
        assert!(!dir.exists());
    }

    #[test]
    fn a_lock_that_many_want_at_once_is_one_s_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("users");
        // Far more than are taken at a time: whoever looks passes over what others have just given back.
        let users = users(64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let one = Lease::lock(&users, &dir, "a").unwrap();
                        let other = Lease::lock(&users, &dir, "a").unwrap();
                        assert_ne!(one.first, other.first);
                    }
                });
            }
        });
        assert!(!dir.exists());
    }

    #[test]
    fn a_namespace_must_have_the_whole_range() {
        let users = users(2);
        assert!(is_mapped("         0          0 4294967295\n", &users));
        assert!(!is_mapped("0 1000 1\n1 100000 65536\n", &users));
        let first = users.first;
        assert!(is_mapped(&format!("0 1000 1\n{first} 5 6\n"), &users));
        assert!(!is_mapped(&format!("{first} 5 5\n"), &users));
        let none = Users { count: 0, ..users };
        assert_eq!(possible(&none), Err(Unchanged::Configured));
    }

    #[test]
    fn the_device_says_which_group_opens_it() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("kvm");
        let mode = |mode| {
            fs::write(&device, "").unwrap();
            fs::set_permissions(&device, fs::Permissions::from_mode(mode)).unwrap();
            kvm_group(&device)
        };
        assert_eq!(mode(0o666), Ok(None));
        let own = fs::metadata(dir.path()).unwrap().gid();
        let grouped = mode(0o660);
        if own == 0 {
            assert_eq!(grouped, Err("mode 660 and group 0".into()));
        } else {
            assert_eq!(grouped, Ok(Some(Gid::from_raw(own))));
        }
        assert!(mode(0o600).is_err());
        assert!(kvm_group(Path::new("/nonexistent/kvm")).is_err());
    }
}
