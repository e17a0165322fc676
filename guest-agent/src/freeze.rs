//! Pause and resume: the instance's own units are frozen where they are (`cgroup.freeze` in
//! `Documentation/admin-guide/cgroup-v2.rst`). What keeps the guest itself going stays awake: systemd's own
//! services, the bus and this agent, who could otherwise never be told to resume.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The group of services, which is looked into; other slices are frozen whole.
const SERVICES: &str = "system.slice";

/// What stays awake among services.
const AWAKE: [&str; 3] = ["seed-agent", "systemd-", "dbus"];

const FREEZE: &str = "cgroup.freeze";

/// Freezes the instance's units, or lets all of them go on. A unit that ends meanwhile is no failure.
pub fn set(cgroup: &Path, frozen: bool) -> io::Result<()> {
    let mut groups = Vec::new();
    for name in children(cgroup)? {
        if name == SERVICES {
            let services = cgroup.join(&name);
            let some = children(&services)?.into_iter();
            let some = some.filter(|name| !AWAKE.iter().any(|awake| name.starts_with(awake)));
            groups.extend(some.map(|name| services.join(name)));
        } else if name.ends_with(".slice") {
            groups.push(cgroup.join(name));
        }
    }
    for group in groups {
        write(group.join(FREEZE), frozen)?;
    }
    Ok(())
}

fn write(file: PathBuf, frozen: bool) -> io::Result<()> {
    let open = fs::OpenOptions::new().write(true).open(file);
    let written =
        open.and_then(|mut file| io::Write::write_all(&mut file, if frozen { b"1" } else { b"0" }));
    match written {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // ENODEV: the group has just gone.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
            Ok(())
        }
        other => other,
    }
}

/// Names of the groups right below one.
fn children(group: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instances_units_are_frozen_and_what_keeps_the_guest_going_is_not() {
        let root = tempfile::tempdir().unwrap();
        let all = [
            ("init.scope", false),
            ("user.slice", true),
            ("system.slice", false),
            ("system.slice/app.service", true),
            ("system.slice/system-getty.slice", true),
            ("system.slice/seed-agent.service", false),
            ("system.slice/systemd-journald.service", false),
            ("system.slice/dbus-broker.service", false),
        ];
        for (group, _) in all {
            fs::create_dir_all(root.path().join(group)).unwrap();
            fs::write(root.path().join(group).join(FREEZE), "0").unwrap();
        }
        for (frozen, mark) in [(true, "1"), (false, "0")] {
            set(root.path(), frozen).unwrap();
            for (group, touched) in all {
                let now = fs::read_to_string(root.path().join(group).join(FREEZE)).unwrap();
                let wanted = if touched { mark } else { "0" };
                assert_eq!(now, wanted, "{group}");
            }
        }
    }
}
