//! A disk that comes while the machine runs: by QEMU's monitor into a port, seen, written and gone again in the guest.

use std::{
    fs::{self, Permissions},
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use seed_tests::{Instance, Lab, limit};
use serde_json::{Value, json};

const IMAGE_BYTES: u64 = 8 << 20;

/// How the guest finds the disk: the folder of the one with this serial number; nothing without.
const FIND: &str = "grep -lx plugged /sys/block/vd*/serial || true";

/// Where the monitor and the image are: open to QEMU's user.
fn folder(lab: &Lab) -> PathBuf {
    lab.scratch("plug")
}

/// A program that is QEMU, and has a second monitor: the first is the shim's alone.
pub(crate) fn talkative_qemu(lab: &Lab) -> Result<PathBuf> {
    let folder = folder(lab);
    fs::create_dir_all(&folder)?;
    fs::set_permissions(&folder, Permissions::from_mode(0o777))?;
    let program = folder.join("qemu");
    let socket = folder.join("qmp.sock");
    let script = format!(
        "#!/bin/sh\nexec qemu-system-x86_64 \"$@\" -qmp unix:{},server=on,wait=off\n",
        socket.display()
    );
    fs::write(&program, script)?;
    fs::set_permissions(&program, Permissions::from_mode(0o755))?;
    Ok(program)
}

/// A conversation over that monitor.
struct Monitor(BufReader<UnixStream>);

impl Monitor {
    fn open(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(limit::COMMAND))?;
        let mut monitor = Self(BufReader::new(stream));
        monitor.line()?;
        monitor.call("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        ensure!(self.0.read_line(&mut line)? > 0, "the monitor is closed");
        Ok(serde_json::from_str(&line)?)
    }

    fn call(&mut self, command: &str, arguments: &Value) -> Result<()> {
        let order = json!({"execute": command, "arguments": arguments});
        self.0
            .get_mut()
            .write_all(format!("{order}\n").as_bytes())?;
        loop {
            let said = self.line()?;
            if let Some(error) = said.get("error") {
                bail!("{command}: {error}");
            }
            // Events come in between.
            if said.get("return").is_some() {
                return Ok(());
            }
        }
    }
}

/// The machine has one port.
pub(crate) fn a_disk_comes_and_goes(lab: &Lab, instance: &Instance<'_>) -> Result<()> {
    let folder = folder(lab);
    let image = folder.join("disk.img");
    fs::File::create(&image)?.set_len(IMAGE_BYTES)?;
    fs::set_permissions(&image, Permissions::from_mode(0o666))?;
    let mut monitor = Monitor::open(&folder.join("qmp.sock"))?;
    ensure!(instance.sh(FIND)?.trim().is_empty(), "it is there already");
    let file = json!({"driver": "file", "filename": image});
    let node = json!({"driver": "raw", "node-name": "plugged", "file": file});
    monitor.call("blockdev-add", &node)?;
    let mut device = json!({
        "driver": "virtio-blk-pci", "id": "plugged", "drive": "plugged", "serial": "plugged", "bus": "port0",
    });
    monitor.call("device_add", &device)?;
    let found = limit::until("the disk in the guest", limit::COMMAND, || {
        let found = instance.sh(FIND)?;
        Ok((!found.trim().is_empty()).then(|| found.trim().to_owned()))
    })?;
    let disk = Path::new(&found).parent().and_then(Path::file_name);
    let disk = disk.context("no name of the disk")?.to_string_lossy();
    let size = instance.sh(&format!("cat /sys/block/{disk}/size"))?;
    ensure!(size.trim().parse::<u64>()? * 512 == IMAGE_BYTES, "{size}");
    instance.sh(&format!(
        "echo from the guest > /dev/{disk} && sync /dev/{disk}"
    ))?;
    ensure!(
        fs::read(&image)?.starts_with(b"from the guest\n"),
        "nothing was written"
    );

    // There is no second port.
    device["id"] = json!("second");
    let refused = monitor.call("device_add", &device).err();
    ensure!(refused.is_some(), "one port took two disks");
    monitor.call("device_del", &json!({"id": "plugged"}))?;
    limit::until("the end of the disk in the guest", limit::COMMAND, || {
        Ok(instance.sh(FIND)?.trim().is_empty().then_some(()))
    })
}
