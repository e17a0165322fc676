//! Instances of an ordinary user. Mounts and shares need a root; in a user namespace (user_namespaces(7)) the user is
//! one. So the commands that start and end instances start themselves anew in such a namespace, with the user as its
//! root and the user's subordinate ids (subuid(5)) for the guest's other users. unshare(1) makes it.
//!
//! What is missing is named, each with what mends it. Nothing here changes the machine.

use std::{
    env, fs,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::Path,
    process::Command,
};

use rustix::process::geteuid;
use seed_shim::{config::ROOTLESS_ENV, vmm::programs};

use crate::error::CliError;

/// Something without which an ordinary user cannot run instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    /// What is so.
    pub(crate) found: String,
    /// What mends it.
    pub(crate) remedy: String,
}

/// Starts this command anew as root of a user namespace, where it is not root already. Returns only where nothing had
/// to be done, or with what is missing.
pub(crate) fn enter() -> Result<(), CliError> {
    if geteuid().is_root() {
        return Ok(());
    }
    if let Some(Missing { found, remedy }) = missing().into_iter().next() {
        let what = format!("an ordinary user cannot do this here: {found}");
        return Err(CliError::new(
            what,
            format!("Be root, or mend it: {remedy}"),
        ));
    }
    let program = env::current_exe()?;
    let error = Command::new("unshare")
        .args(["--user", "--map-root-user", "--map-auto", "--"])
        .arg(program)
        .args(env::args_os().skip(1))
        .env(ROOTLESS_ENV, "1")
        .exec();
    Err(CliError::failure("unshare cannot be run", &error))
}

/// Whether the user's root of a namespace could read this root: its files must be the user's own.
pub(crate) fn check_root(root: &Path) -> Result<(), CliError> {
    let (own, uid) = (geteuid().as_raw(), fs::metadata(root)?.uid());
    if geteuid().is_root() || uid == own {
        return Ok(());
    }
    Err(CliError::new(
        format!("root {} belongs to uid {uid}, not to you", root.display()),
        "Be root, or unpack it as yourself: unshare --user --map-root-user --map-auto tar --exclude='./dev/*' -xpf ROOT.tar",
    ))
}

/// All that is missing, most basic first.
pub(crate) fn missing() -> Vec<Missing> {
    let read = |path: &str| fs::read_to_string(path).ok();
    let mut missing = limits(read);
    let programs = [
        ("unshare", "install util-linux 2.38 or later"),
        ("newuidmap", "apt install uidmap"),
        ("newgidmap", "apt install uidmap"),
    ];
    for (program, remedy) in programs {
        if !in_path(program) {
            missing.push(Missing {
                found: format!("no {program} in PATH"),
                remedy: remedy.into(),
            });
        }
    }
    let uid = geteuid().as_raw();
    let user = read("/etc/passwd").and_then(|table| name_of(&table, uid));
    let user = user.unwrap_or_else(|| uid.to_string());
    for path in ["/etc/subuid", "/etc/subgid"] {
        if !has_range(&read(path).unwrap_or_default(), &user, uid) {
            missing.push(Missing {
                found: format!("{user} has no range of 65536 ids in {path}"),
                remedy: format!(
                    "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user} (a range of nobody else)"
                ),
            });
        }
    }
    missing
}

/// Settings of the kernel that keep user namespaces from ordinary users.
fn limits(read: impl Fn(&str) -> Option<String>) -> Vec<Missing> {
    let settings = [
        ("user.max_user_namespaces", "0", "63000"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ];
    let mut missing = Vec::new();
    if read("/proc/self/uid_map").is_none() {
        missing.push(Missing {
            found: "the kernel has no user namespaces".into(),
            remedy: "use a kernel with CONFIG_USER_NS".into(),
        });
    }
    for (name, bad, good) in settings {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        if read(&path).is_some_and(|value| value.trim() == bad) {
            missing.push(Missing {
                found: format!("{name} is {bad}"),
                remedy: format!("sysctl {name}={good}"),
            });
        }
    }
    missing
}

fn in_path(program: &str) -> bool {
    programs::find_in(Path::new(program), programs::path().into_iter()).is_some()
}

/// The name of a uid in passwd(5).
fn name_of(table: &str, uid: u32) -> Option<String> {
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
    })
}

/// Whether subuid(5) gives a user, by name or number, as many ids as a guest may have users.
fn has_range(table: &str, user: &str, uid: u32) -> bool {
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [owner, _, count] = fields[..] else {
            return false;
        };
        let count: u32 = count.trim().parse().unwrap_or_default();
        (owner == user || owner == uid.to_string()) && count >= 65_536
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_belong_to_a_name_or_a_number_and_must_be_whole() {
        let table = "ann:100000:65536\nbob:165536:1000\n1002:300000:65536\nbroken\n";
        assert!(has_range(table, "ann", 1000));
        assert!(!has_range(table, "bob", 1001));
        assert!(has_range(table, "eve", 1002));
        assert!(!has_range("", "ann", 1000));
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(name_of(passwd, 1000).as_deref(), Some("ann"));
        assert_eq!(name_of(passwd, 7), None);
    }

    #[test]
    fn settings_of_the_kernel_are_named_with_the_command_that_changes_them() {
        let restricted = |path: &str| match path {
            "/proc/self/uid_map" => Some("0 0 4294967295\n".to_owned()),
            "/proc/sys/user/max_user_namespaces" => Some("0\n".to_owned()),
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns" => Some("1\n".to_owned()),
            _ => None,
        };
        let remedies: Vec<String> = limits(restricted).into_iter().map(|m| m.remedy).collect();
        assert_eq!(
            remedies,
            [
                "sysctl user.max_user_namespaces=63000",
                "sysctl kernel.apparmor_restrict_unprivileged_userns=0"
            ]
        );
        assert_eq!(
            limits(|_| None)[0].remedy,
            "use a kernel with CONFIG_USER_NS"
        );
    }
}
