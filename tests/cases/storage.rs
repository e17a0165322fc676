//! The volume that the guest's closure asks for: `data`, 64 MiB, owned by `app`.

use anyhow::{Result, ensure};
use seed_tests::Instance;

/// Where the demo closure mounts its volume.
pub(crate) const MOUNT_POINT: &str = "/seed/storage/data";

/// Made on first boot, mounted, owned, and systemd knows the mount.
pub(crate) fn a_new_volume_is_made_and_owned(instance: &Instance<'_>) -> Result<()> {
    let owner = instance.sh(&format!("stat -c '%U:%G %a' {MOUNT_POINT}"))?;
    ensure!(owner == "app:app 750", "{MOUNT_POINT} is {owner}");
    let mount = instance.sh(&format!("findmnt -no FSTYPE,OPTIONS {MOUNT_POINT}"))?;
    ensure!(mount.starts_with("ext4"), "mount: {mount}");
    ensure!(
        mount.contains("nosuid") && mount.contains("nodev"),
        "options: {mount}"
    );
    let unit = instance.sh("systemctl is-active seed-storage-data.mount")?;
    ensure!(unit == "active", "seed-storage-data.mount is {unit}");
    // A service that wants the mount is ordered after it, and so ends before it goes.
    instance.sh(&format!(
        "systemd-run -q --unit=writes-last -p RequiresMountsFor={MOUNT_POINT}/deeper \
         -p RemainAfterExit=yes -p ExecStop='/bin/sh -c \"echo last > {MOUNT_POINT}/last\"' true"
    ))?;
    let after = instance.sh("systemctl show -P After writes-last")?;
    ensure!(
        after
            .split(' ')
            .any(|unit| unit == "seed-storage-data.mount"),
        "it is ordered after {after}"
    );
    let status = instance.status()?;
    let volume = &status["volumes"][0];
    ensure!(
        volume["name"] == "data" && volume["created"] == true,
        "volume: {volume}"
    );
    // The file that every later boot must find.
    instance.sh(&format!("echo kept > {MOUNT_POINT}/kept && sync"))?;
    Ok(())
}

/// The file written at the first boot is there, and the file system was not made again.
pub(crate) fn still_there(instance: &Instance<'_>) -> Result<()> {
    let text = instance.sh(&format!("cat {MOUNT_POINT}/kept"))?;
    ensure!(text == "kept", "the file says {text:?}");
    let last = instance.sh(&format!("cat {MOUNT_POINT}/last"))?;
    ensure!(
        last == "last",
        "the service that wants the mount wrote {last:?}"
    );
    let status = instance.status()?;
    ensure!(
        status["volumes"][0]["created"] == false,
        "volumes: {}",
        status["volumes"]
    );
    Ok(())
}
