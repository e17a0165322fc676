//! Devices that a container can be handed: a disk on a file, and a TPM that is real but for its hardware.

use std::{
    fs::{self, File},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::wait_for;

/// How long swtpm may take to listen, on a busy machine.
const LISTEN_LIMIT: Duration = Duration::from_secs(90);

/// A loop device, let go when this is dropped. Needs root and `/dev/loop-control`.
#[derive(Debug)]
pub struct Loop(PathBuf);

impl Loop {
    /// A disk of this size, on a new and sparse file.
    pub fn make(file: &Path, bytes: u64) -> Result<Self> {
        File::create(file)
            .and_then(|image| image.set_len(bytes))
            .with_context(|| format!("make {}", file.display()))?;
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .output()
            .context("start losetup")?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        ensure!(
            output.status.success(),
            "losetup: {}: {said}",
            output.status
        );
        let node = String::from_utf8(output.stdout).context("losetup printed no text")?;
        Ok(Self(node.trim().into()))
    }

    /// Its node, inside a container as outside.
    pub fn node(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // One that is mounted still goes with the last mount.
        let mut losetup = Command::new("losetup");
        let _ = losetup.arg("--detach").arg(&self.0).status();
    }
}

/// A swtpm of one's own, which ends with this.
#[derive(Debug)]
pub struct Swtpm {
    child: Child,
    folder: PathBuf,
}

impl Swtpm {
    /// A TPM with its state in `folder`, as it comes from the factory if there is none. Blocks until it listens.
    pub fn start(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let at = |name: &str| folder.join(name).display().to_string();
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--tpmstate", &format!("dir={}", folder.display())])
            .args(["--server", &format!("type=unixio,path={}", at("tpm"))])
            .args(["--ctrl", &format!("type=unixio,path={}", at("control"))])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start swtpm")?;
        let swtpm = Self {
            child,
            folder: folder.to_owned(),
        };
        // The last that it listens at.
        let commands = folder.join("tpm");
        wait_for("swtpm", LISTEN_LIMIT, || {
            Ok(UnixStream::connect(&commands).is_ok())
        })?;
        Ok(swtpm)
    }

    /// Where its state and its sockets are; the one for commands is `tpm`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        // It may have ended by itself; a drop must not panic.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
