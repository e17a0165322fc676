//! Our layer of the guest root: `/seed-system` (kernel, initrd, init, `boot.json`), the agent, the age
//! plugin, the units of the demo, and what makes a system of it that boots quickly and alone.
//!
//! The files are in `xtask/guest/`, laid out as in the guest; the agent's unit is the agent's own.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::json;

use super::base;
use crate::util::{self, Fingerprint, Places, read};

/// The toplevel in the guest: where a NixOS closure would have `/nix/store/...-nixos-system-...`.
const TOPLEVEL: &str = "/seed-system";
/// The closure's own kernel parameters; the host adds root, console and machine id.
const KERNEL_PARAMS: &[&str] = &[
    // The kernel's banner on the console is the first sign of life; debugging lines cost time there.
    "loglevel=6",
    // A panic ends the VM at once instead of hanging it.
    "panic=-1",
    // The console belongs to the kernel: no status lines, no login, no terminal queries.
    "systemd.show_status=0",
    "systemd.getty_auto=no",
    "systemd.tty.term.console=dumb",
];
/// Our programs, from cargo's target folder to the guest.
const PROGRAMS: &[(&str, &str)] = &[
    ("seed-agent", "usr/bin/seed-agent"),
    ("age-plugin-tpm", "usr/bin/age-plugin-tpm"),
];
/// The agent's unit, in the checkout.
const AGENT_UNIT: &str = "guest-agent/systemd/seed-agent.service";
/// What a Kata shim's command line boots, in the checkout.
const KATA_TARGET: &str = "guest-agent/systemd/kata-containers.target";
/// Units and the target that starts them.
const ENABLED: &[(&str, &str)] = &[
    ("seed-agent.service", "sysinit.target"),
    ("demo-secret.service", "multi-user.target"),
    ("demo-sops.service", "multi-user.target"),
    ("app.service", "multi-user.target"),
];
/// Units that do nothing for a guest like this one but take time at each boot.
const MASKED: &[&str] = &[
    // Housekeeping of a machine that lives for months.
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    // Asks questions on the console.
    "systemd-firstboot.service",
    // The image is the update: made with its caches in place (see `settle`).
    "ldconfig.service",
    "systemd-journal-catalog-update.service",
    "systemd-hwdb-update.service",
    "systemd-update-done.service",
    // Nothing is mounted there by anybody in this guest.
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "proc-sys-fs-binfmt_misc.automount",
    // Devices that this VM has not got.
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "systemd-pstore.service",
];

/// Of everything that the layer is made from, the base included.
pub(super) fn fingerprint(places: &Places) -> Result<String> {
    let mut print = Fingerprint::new();
    print.add(base::fingerprint().as_bytes());
    print.add(include_bytes!("layer.rs"));
    let mut files = vec![places.root.join(AGENT_UNIT), places.root.join(KATA_TARGET)];
    files.extend(
        PROGRAMS
            .iter()
            .map(|(name, _)| places.programs().join(name)),
    );
    walk(&places.root.join("xtask/guest"), &mut files)?;
    for file in files {
        print.add(file.as_os_str().as_encoded_bytes());
        print.add(&fs::read(&file).with_context(|| format!("read {}", file.display()))?);
    }
    Ok(print.hex())
}

/// All files under a folder, in a fixed order.
fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .with_context(|| format!("read {}", folder.display()))?
        .collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Makes `root/` in `folder` from the base.
pub(super) fn build(places: &Places, base: &Path, folder: &Path) -> Result<()> {
    let root = folder.join("root");
    base::copy_tree(&base.join("root"), &root)?;
    let guest = places.root.join("xtask/guest");
    let mut files = Vec::new();
    walk(&guest, &mut files)?;
    for file in &files {
        let name = file
            .strip_prefix(&guest)
            .context("walked out of the folder")?;
        install(file, &root.join(name))?;
    }
    for unit in [AGENT_UNIT, KATA_TARGET] {
        let from = places.root.join(unit);
        let name = from.file_name().context("a unit has a name")?;
        install(&from, &root.join("etc/systemd/system").join(name))?;
    }
    for (name, target) in PROGRAMS {
        install(&places.programs().join(name), &root.join(target))?;
    }
    toplevel(base, &root)?;
    units(&root)?;
    settle(&root)
}

/// Copies one file: ours are readable by all, and executable when they are so in the checkout.
fn install(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    // A new file, never through a link that the base has there.
    let _ = fs::remove_file(to);
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    let executable = fs::metadata(from)?.permissions().mode() & 0o100 != 0;
    let mode = if executable { 0o755 } else { 0o644 };
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

/// `/seed-system`, as a closure has it.
fn toplevel(base: &Path, root: &Path) -> Result<()> {
    let folder = root.join(TOPLEVEL.trim_start_matches('/'));
    fs::create_dir_all(&folder)?;
    install(&base.join("kernel"), &folder.join("kernel"))?;
    install(&base.join("initrd"), &folder.join("initrd"))?;
    symlink("/usr/lib/systemd/systemd", folder.join("init"))?;
    let instance: serde_json::Value =
        serde_json::from_slice(&fs::read(root.join("etc/seed/instance.json"))?)
            .context("read instance.json")?;
    let mut storage = instance["storage"].clone();
    for (_, volume) in storage.as_object_mut().into_iter().flatten() {
        volume["size"] = json!("64Mi");
    }
    // RFC 125, and our own extension beside it.
    let boot = json!({
        "org.nixos.bootspec.v1": {
            "system": "x86_64-linux",
            "label": "Debian stand-in for a NixOS closure",
            "toplevel": TOPLEVEL,
            "init": format!("{TOPLEVEL}/init"),
            "kernel": format!("{TOPLEVEL}/kernel"),
            "kernelParams": KERNEL_PARAMS,
            "initrd": format!("{TOPLEVEL}/initrd"),
        },
        "farm.loom.seed.v1": { "name": instance["name"], "size": "xs", "storage": storage },
    });
    fs::write(folder.join("boot.json"), format!("{boot:#}\n")).context("write boot.json")
}

/// Enables ours and masks what only costs time.
fn units(root: &Path) -> Result<()> {
    let folder = root.join("etc/systemd/system");
    for (unit, target) in ENABLED {
        let wants = folder.join(format!("{target}.wants"));
        fs::create_dir_all(&wants)?;
        symlink(format!("../{unit}"), wants.join(unit))
            .with_context(|| format!("enable {unit}"))?;
    }
    for unit in MASKED {
        let path = folder.join(unit);
        let _ = fs::remove_file(&path);
        symlink("/dev/null", path).with_context(|| format!("mask {unit}"))?;
    }
    Ok(())
}

/// The last touches: users, a name, no traces of this host, and all caches up to date.
fn settle(root: &Path) -> Result<()> {
    let chroot = |program: &str, args: &[&str]| {
        read(Command::new("chroot").arg(root).arg(program).args(args)).map(drop)
    };
    chroot("systemd-sysusers", &[])?;
    chroot("ldconfig", &[])?;
    chroot("journalctl", &["--update-catalog"])?;
    for (name, text) in [
        ("etc/hostname", "seed\n"),
        ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
        // The host gives the machine id at each boot.
        ("etc/machine-id", ""),
    ] {
        fs::write(root.join(name), text).with_context(|| format!("write {name}"))?;
    }
    // mmdebstrap copies the host's; there is nothing to mount but the root.
    for name in ["etc/resolv.conf", "etc/fstab"] {
        let _ = fs::remove_file(root.join(name));
    }
    // Storage=persistent needs it before journald starts.
    fs::create_dir_all(root.join("var/log/journal"))?;
    fs::create_dir_all(root.join("seed/storage"))?;
    // Newer than /usr: systemd's ConditionNeedsUpdate= is then false.
    for name in ["etc/.updated", "var/.updated"] {
        fs::write(root.join(name), "")?;
    }
    util::say("  guest layer: done");
    Ok(())
}
