//! What kubelet mounts into a container, as kubelet writes it: volumes of ConfigMaps, Secrets and service accounts, whose files are
//! replaced all at once (`pkg/volume/util/atomic_writer.go` of Kubernetes), the file of hosts and the termination log.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use seed_tests::{Containerd, cri::api::Mount, limit};

/// A volume: where the guest has it, the mode of its files, and their names.
type Kind = (&'static str, u32, &'static [&'static str]);

const KINDS: [Kind; 3] = [
    ("/etc/seed-map", 0o644, &["key", "app.toml"]),
    ("/etc/seed-secret", 0o400, &["password"]),
    (
        "/var/run/secrets/kubernetes.io/serviceaccount",
        0o600,
        &["token", "ca.crt", "namespace"],
    ),
];

/// Where an application says why it ended; for kubelet it is the container's message.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// All of them on the host.
pub(super) struct Files {
    dir: PathBuf,
}

impl Files {
    /// In a new folder.
    pub(super) fn make(containerd: &Containerd) -> Result<Self> {
        let files = Self {
            dir: containerd.dir().join("kubelet"),
        };
        for (number, (_, _, names)) in KINDS.iter().enumerate() {
            let volume = files.volume(number);
            fs::create_dir_all(&volume)?;
            for name in *names {
                symlink(format!("..data/{name}"), volume.join(name))?;
            }
        }
        files.write("first")?;
        fs::write(files.dir.join("hosts"), files.hosts())?;
        fs::write(files.dir.join("termination"), "")?;
        Ok(files)
    }

    fn volume(&self, number: usize) -> PathBuf {
        self.dir.join(number.to_string())
    }

    fn hosts(&self) -> String {
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n10.9.8.7\tguest.svc.test\tguest\n"
            .to_owned()
    }

    /// As CRI is told of them.
    pub(super) fn mounts(&self) -> Vec<Mount> {
        let volumes = KINDS.iter().enumerate();
        let volumes = volumes.map(|(number, (at, ..))| mount(at, &self.volume(number), true));
        let single = [("/etc/hosts", "hosts"), (TERMINATION_LOG, "termination")];
        let single = single.map(|(at, name)| mount(at, &self.dir.join(name), false));
        volumes.chain(single).collect()
    }

    /// Gives every file new words: a new folder, to which `..data` leads in one step, and the old one goes.
    fn write(&self, words: &str) -> Result<()> {
        for (number, (_, mode, names)) in KINDS.iter().enumerate() {
            let volume = self.volume(number);
            let data = volume.join("..data");
            let old = fs::read_link(&data).ok();
            let folder = format!("..{words}");
            fs::create_dir(volume.join(&folder))?;
            for name in *names {
                let path = volume.join(&folder).join(name);
                fs::write(&path, content(name, words))?;
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode))?;
            }
            symlink(&folder, volume.join("..data_tmp"))?;
            fs::rename(volume.join("..data_tmp"), &data)?;
            if let Some(old) = old {
                fs::remove_dir_all(volume.join(old))?;
            }
        }
        Ok(())
    }

    /// What the guest reads is what stands on the host, and so it is after a change.
    pub(super) fn are_the_guests(&self, sh: impl Fn(&str) -> Result<String>) -> Result<()> {
        same(&sh(&read_all())?, &all("first"))?;
        self.write("second")?;
        let mut last = String::new();
        let changed = limit::until("the change of the volumes", limit::COMMAND, || {
            last = sh(&read_all())?;
            Ok((last == all("second")).then_some(()))
        });
        changed.or_else(|_| same(&last, &all("second")))?;
        let refused = KINDS.map(|(at, _, names)| format!("! echo x 2>&1 > {at}/{}", names[0]));
        sh(&refused.join(" && ")).map(drop)?;

        same(&sh("cat /etc/hosts")?, self.hosts().trim())?;
        same(
            &sh("getent hosts guest.svc.test")?,
            "10.9.8.7        guest.svc.test guest",
        )?;
        same(
            &sh("cat /etc/hostname /proc/sys/kernel/hostname")?,
            "guest\nguest",
        )?;
        same(
            &sh("cat /etc/resolv.conf")?,
            "search svc.test\nnameserver 10.96.0.10",
        )?;
        sh(&format!("echo the last words > {TERMINATION_LOG}"))?;
        same(
            &fs::read_to_string(self.dir.join("termination"))?,
            "the last words\n",
        )
    }

    /// The host has them still.
    pub(super) fn are_there(&self) -> Result<()> {
        for (number, (at, ..)) in KINDS.iter().enumerate() {
            let data = self.volume(number).join("..data");
            ensure!(data.is_dir(), "{at} is gone on the host");
        }
        Ok(())
    }
}

fn content(name: &str, words: &str) -> String {
    format!("the {words} {name}\n")
}

/// All files with their modes, in a shell of the guest.
fn read_all() -> String {
    let one = |at: &str, name: &str| format!("stat -L -c %a {at}/{name} && cat {at}/{name}");
    let all = KINDS
        .iter()
        .flat_map(|(at, _, names)| names.iter().map(|name| one(at, name)));
    all.collect::<Vec<_>>().join(" && ")
}

/// What that gives.
fn all(words: &str) -> String {
    let one = |mode: u32, name: &str| format!("{mode:o}\n{}", content(name, words));
    let all = KINDS
        .iter()
        .flat_map(|(_, mode, names)| names.iter().map(|name| one(*mode, name)));
    all.collect::<String>().trim().to_owned()
}

fn same(read: &str, wanted: &str) -> Result<()> {
    ensure!(read == wanted, "{read:?} in place of {wanted:?}");
    Ok(())
}

pub(super) fn mount(to: &str, from: &Path, readonly: bool) -> Mount {
    Mount {
        container_path: to.to_owned(),
        host_path: from.to_string_lossy().into_owned(),
        readonly,
        ..Default::default()
    }
}
