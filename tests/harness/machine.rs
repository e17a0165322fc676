//! A VM as a Kata shim boots one: kernel and initrd of the guest's root, virtiofsd, a vsock device (the shim's) and QEMU, with
//! nothing else of our shim. What the guest writes to its root goes to a layer over it, so the root stays as it is.
//!
//! The disks are files of the caller's and stay.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    Lab,
    lab::ACCEL_VARIABLE,
    limit::{self, until},
};

/// The host's tag for the root.
const TAG: &str = "seedroot";
/// Where the closure says how it boots.
const BOOTSPEC: &str = "seed-system/boot.json";
/// The bus slot of the first disk; the others follow.
const FIRST_SLOT: usize = 8;
/// See `host-shim/src/vmm/qemu/args.rs`: larger CPUs are slow or wrong when they are emulated.
const TCG_CPU: &str = "qemu64,+rdrand,-cx16";
const MEMORY_MIB: u32 = 512;
/// How long a daemon may take to listen.
const LISTEN: Duration = Duration::from_secs(90);

/// Mounts the layer, and becomes virtiofsd. Arguments: the root, a folder for the layer, the socket.
const SHARE: &str = r#"
set -e
mkdir -p "$2/upper" "$2/work" "$2/root"
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay "$2/root"
exec virtiofsd --socket-path="$3" --shared-dir="$2/root" --cache=always --sandbox=namespace --xattr --log-level=warn
"#;

/// Ends with all of its processes when it is dropped.
#[derive(Debug)]
pub struct Machine {
    folder: PathBuf,
    /// QEMU first.
    children: Vec<Child>,
}

impl Machine {
    /// Starts a VM with the closure's parameters and `parameters` on its command line, a link with `hardware` as its
    /// address, and `disks` at the PCI paths that [`Machine::pci_path`] says. `folder` must be new.
    pub fn boot(
        lab: &Lab,
        folder: &Path,
        parameters: &[&str],
        hardware: &str,
        disks: &[PathBuf],
    ) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let mut machine = Self {
            folder: folder.to_owned(),
            children: Vec::new(),
        };
        let at = |name: &str| folder.join(name).display().to_string();
        let mut share = Command::new("unshare");
        share
            .args(["--mount", "--propagation", "private", "--kill-child", "--"])
            .args(["sh", "-c", SHARE, "sh"])
            .arg(lab.guest())
            .args([at("layer"), at("fs")]);
        let mut device = lab.program("containerd-shim-seed-v2");
        device.arg("vsock").current_dir(folder);
        let (share, device) = (machine.child(share, "fs")?, machine.child(device, "vhost")?);
        let mut qemu = Command::new("qemu-system-x86_64");
        let accel = match std::env::var(ACCEL_VARIABLE).as_deref() {
            Ok("kvm") => ("kvm", "host"),
            _ => ("tcg", TCG_CPU),
        };
        let spec = Bootspec::read(lab.guest())?;
        let line = spec.line(parameters);
        qemu.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args([
            "-machine",
            &format!("q35,accel={},memory-backend=mem", accel.0),
        ])
        .args([
            "-cpu",
            accel.1,
            "-smp",
            "2",
            "-m",
            &format!("{MEMORY_MIB}M"),
        ])
        .args([
            "-object",
            &format!("memory-backend-memfd,id=mem,size={MEMORY_MIB}M,share=on"),
        ])
        .arg("-kernel")
        .arg(spec.kernel)
        .arg("-initrd")
        .arg(spec.initrd)
        .args(["-append", &line])
        .args(["-chardev", &format!("socket,id=root,path={}", at("fs"))])
        .args([
            "-device",
            &format!("vhost-user-fs-pci,chardev=root,tag={TAG},queue-size=1024"),
        ])
        .args(["-chardev", &format!("socket,id=vsock,path={}", at("vhost"))])
        .args(["-device", "vhost-user-vsock-pci,chardev=vsock"])
        .args(["-device", "virtio-rng-pci", "-netdev", "user,id=net"])
        .args([
            "-device",
            &format!("virtio-net-pci,netdev=net,mac={hardware},romfile="),
        ])
        .args(["-serial", &format!("file:{}", at("console"))]);
        for (index, disk) in disks.iter().enumerate() {
            let slot = FIRST_SLOT + index;
            qemu.args([
                "-device",
                &format!("pcie-root-port,id=port{index},bus=pcie.0,chassis={slot},addr={slot:#x}"),
            ])
            .args([
                "-blockdev",
                &format!(
                    "driver=raw,node-name=disk{index},file.driver=file,file.filename={}",
                    disk.display()
                ),
            ])
            .args([
                "-device",
                &format!("virtio-blk-pci,drive=disk{index},bus=port{index}"),
            ]);
        }
        let log = File::create(folder.join("qemu.log")).context("make QEMU's log")?;
        qemu.stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let qemu = qemu.spawn().context("start QEMU")?;
        machine.children = vec![qemu, share, device];
        Ok(machine)
    }

    /// Starts a daemon, and waits until it listens.
    fn child(&mut self, mut command: Command, socket: &str) -> Result<Child> {
        let name = command.get_program().to_string_lossy().into_owned();
        let log = File::create(self.folder.join(format!("{socket}.log")))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut child = command.spawn().with_context(|| format!("start {name}"))?;
        let path = self.folder.join(socket);
        let listens = until(&name, LISTEN, || {
            ensure!(child.try_wait()?.is_none(), "{name} has ended");
            Ok(path.exists().then_some(()))
        });
        if listens.is_err() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        listens.map(|()| child)
    }

    /// How a Kata shim names a disk.
    pub fn pci_path(index: usize) -> String {
        format!("{:02x}/00", FIRST_SLOT + index)
    }

    /// The multiplexer's socket for ports of the guest.
    pub fn vsock(&self) -> PathBuf {
        self.folder.join("sock")
    }

    /// What the guest has printed so far.
    pub fn console(&self) -> String {
        let bytes = fs::read(self.folder.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether the VM has ended by itself.
    pub fn has_ended(&mut self) -> Result<Option<ExitStatus>> {
        match self.children.first_mut() {
            Some(qemu) => Ok(qemu.try_wait()?),
            None => bail!("there is no VM"),
        }
    }

    /// Waits until the guest has switched itself off.
    pub fn wait_for_end(&mut self) -> Result<()> {
        let status = until("the VM's end", limit::STOP, || self.has_ended())?;
        ensure!(status.success(), "QEMU ended with {status}");
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended by itself; a drop must not panic.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What of the closure's bootspec is needed.
struct Bootspec {
    kernel: PathBuf,
    initrd: PathBuf,
    init: String,
    parameters: Vec<String>,
}

impl Bootspec {
    fn read(root: &Path) -> Result<Self> {
        let path = root.join(BOOTSPEC);
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let spec: Value = serde_json::from_slice(&text).context("parse the bootspec")?;
        let spec = &spec["org.nixos.bootspec.v1"];
        let word = |name: &str| {
            let word = spec[name].as_str();
            word.with_context(|| format!("the bootspec has no {name}"))
        };
        let inside =
            |name: &str| -> Result<PathBuf> { Ok(root.join(word(name)?.trim_start_matches('/'))) };
        let parameters = spec["kernelParams"].as_array().into_iter().flatten();
        Ok(Self {
            kernel: inside("kernel")?,
            initrd: inside("initrd")?,
            init: word("init")?.to_owned(),
            parameters: parameters
                .filter_map(|word| Some(word.as_str()?.to_owned()))
                .collect(),
        })
    }

    fn line(&self, more: &[&str]) -> String {
        let mut words: Vec<&str> = self.parameters.iter().map(String::as_str).collect();
        words.extend(more);
        format!(
            "{} init={} root={TAG} rootfstype=virtiofs console=ttyS0",
            words.join(" "),
            self.init
        )
    }
}
