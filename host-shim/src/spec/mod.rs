//! What one VM is made of: an OCI bundle, its annotations and the closure's `boot.json`, validated and
//! joined into one immutable [`VmSpec`].
//!
//! Nothing here starts, mounts or changes anything. The root file system must be mounted already: it is
//! read without following a link out of it. Everything after this module trusts what it says.
//!
//! Sources: OCI runtime-spec 1.2 `config.md`; NixOS RFC 125 (bootspec v1); our extension
//! `farm.loom.seed.v1`.

mod accel;
mod annotations;
mod bootspec;
mod builder;
mod bundle;
mod cri;
mod devices;
mod environment;
mod forward;
mod inside;
mod kata;
mod memory;
mod resources;
mod shares;
mod sizing;
mod sysctl;
mod volumes;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

pub use accel::{AccelUnavailable, Cpu, host_accel, resolve as resolve_accel};
pub use annotations::{AnnotationError, Annotations, PREFIX as ANNOTATION_PREFIX};
pub use bootspec::{BootSpec, BootSpecError, Extension, Size, StorageEntry, parse_size};
pub use builder::{Inputs, SpecError, build, read_boot_spec, root_writes};
pub use bundle::{Bundle, BundleError};
pub use cri::{InPod, Role, pod, pod_limits, pod_name, state_name};
pub use devices::{BlockDevice, DeviceError, DeviceOwner};
pub use environment::host_address;
pub use forward::{Carried, Forward};
pub use inside::{InsideError, resolve as resolve_inside};
pub use kata::{KNOWN as KATA_ANNOTATIONS, PREFIX as KATA_PREFIX};
pub use memory::{MemoryError, MemoryMount};
pub use resources::Resources;
pub use shares::SharedMount;
pub use sizing::{MEMORY_STEP_MIB, Sizing};
pub use sysctl::SysctlError;
pub use volumes::{SERIAL_BYTES, VolumeError, VolumeSpec};

use crate::{
    cgroup::{GroupName, Placement},
    names::{ContainerId, Namespace},
    net::Nic,
    paths::InstancePaths,
    vmm::VmmKind,
};

/// How the processor is run, once `auto` has been decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmAccel {
    /// The kernel's hypervisor.
    Kvm,
    /// QEMU's translation.
    Tcg,
}

impl VmAccel {
    /// QEMU's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// What kind of kernel image it is: it decides the firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelFormat {
    /// Linux/x86 boot protocol.
    BzImage,
    /// An ELF file, entered by PVH.
    Elf,
}

/// How the guest reaches a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// No network card.
    None,
    /// QEMU's user-mode network: outgoing connections only, DHCP and DNS at 10.0.2.2 and 10.0.2.3.
    User,
}

/// What is said where a bundle wants a root that is only read (`root.readonly`, a pod's `readOnlyRootFilesystem`).
pub const WRITABLE_ROOT: &str = "the root is writable, although root.readonly is set: a system writes to its root when it boots";

/// Number of virtual processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vcpus(u32);

impl Vcpus {
    /// More than a host is likely to have is a typing error.
    pub const MAX: u32 = 64;

    /// The number, at least 1.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vcpus {
    type Error = String;
    fn try_from(count: u32) -> Result<Self, String> {
        if (1..=Self::MAX).contains(&count) {
            Ok(Self(count))
        } else {
            Err(format!("{count} vCPUs are not from 1 to {}", Self::MAX))
        }
    }
}

/// Guest memory in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryMib(u32);

impl MemoryMib {
    /// systemd and the agent do not come up in less.
    pub const MIN: u32 = 256;
    /// 256 GiB.
    pub const MAX: u32 = 262_144;

    /// The number of MiB.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for MemoryMib {
    type Error = String;
    fn try_from(mib: u32) -> Result<Self, String> {
        if (Self::MIN..=Self::MAX).contains(&mib) {
            Ok(Self(mib))
        } else {
            Err(format!(
                "{mib} MiB of memory are not from {} to {}",
                Self::MIN,
                Self::MAX
            ))
        }
    }
}

/// One variable of the instance's environment. Its value is not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvVar {
    name: String,
    value: String,
}

impl EnvVar {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As it stands in an OCI `process.env`.
    pub fn assignment(&self) -> String {
        format!("{}={}", self.name, self.value)
    }
}

impl fmt::Debug for EnvVar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=<hidden>", self.name)
    }
}

/// What a pod gives the instance in it, as far as it is not in the instance's own bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodSpec {
    /// The control group of its sandbox.
    pub group: Option<GroupName>,
    /// Limits of all in it.
    pub limits: Resources,
    /// Its host name, may be empty.
    pub hostname: String,
    /// Lines of `resolv.conf`; none where they come as a file.
    pub dns: Vec<String>,
    /// Settings of its kernel.
    pub sysctls: BTreeMap<String, String>,
}

/// Everything that is needed to start one VM and to tell its guest what it is.
///
/// Made by [`build`] alone.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VmSpec {
    /// The containerd namespace.
    pub namespace: Namespace,
    /// The instance's name.
    pub id: ContainerId,
    /// Where its files are.
    pub paths: InstancePaths,
    /// Virtual processors.
    pub vcpus: Vcpus,
    /// Memory.
    pub memory: MemoryMib,
    /// As many processors as the machine may ever have.
    pub max_vcpus: Vcpus,
    /// As much memory as it may ever have.
    pub max_memory: MemoryMib,
    /// Ports for disks that come later.
    pub disk_ports: u32,
    /// How soon the host's kernel kills the VMM when memory runs out; as soon as the shim without.
    pub oom_score_adj: Option<i32>,
    /// Where its programs run; where the shim does without.
    pub placement: Option<Placement>,
    /// What runs it.
    pub vmm: VmmKind,
    /// How the processor is run.
    pub accel: VmAccel,
    /// The kernel, on the host, with no symbolic link left in its path.
    pub kernel: PathBuf,
    /// What it is.
    pub kernel_format: KernelFormat,
    /// The initial file system, on the host.
    pub initrd: Option<PathBuf>,
    /// The whole kernel command line but for the machine id, which [`VmSpec::cmdline`] adds.
    pub kernel_parameters: Vec<String>,
    /// The root file system on the host, shared as [`seed_protocol::paths::ROOT_TAG`].
    pub rootfs: PathBuf,
    /// The bundle wants it read-only, which it is not: [`WRITABLE_ROOT`].
    pub wants_read_only_root: bool,
    /// The control socket of a swtpm that somebody else runs; ours without.
    pub tpm_socket: Option<PathBuf>,
    /// Volumes, in the order of their device names.
    pub volumes: Vec<VolumeSpec>,
    /// Disks that the guest gets as they are, after the volumes.
    pub devices: Vec<BlockDevice>,
    /// The network card.
    pub network: Network,
    /// Ports of the host that lead into the guest, over the user-mode network.
    pub forwards: Vec<Forward>,
    /// Cards in the pod's network.
    pub nics: Vec<Nic>,
    /// Files and folders of the host beside the root, shared as [`seed_protocol::paths::SHARE_TAG`].
    pub shared: Vec<SharedMount>,
    /// Memory at places of the guest.
    pub memory_mounts: Vec<MemoryMount>,
    /// The host port of the beacon.
    pub beacon_port: u32,
    /// The guest's host name.
    pub hostname: String,
    /// Lines of `resolv.conf`.
    pub dns: Vec<String>,
    /// The instance's environment.
    pub env: Vec<EnvVar>,
    /// The init program's arguments, as the bundle has them.
    pub args: Vec<String>,
    /// Annotations of the bundle, passed on to the guest's agent.
    pub annotations: BTreeMap<String, String>,
}

/// A disk of the machine, whatever it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk<'a> {
    /// The image file or block device on the host.
    pub source: &'a Path,
    /// It is a block device.
    pub is_device: bool,
    /// The guest may only read it.
    pub read_only: bool,
    /// How the guest knows it.
    pub serial: String,
}

impl VmSpec {
    /// All disks: volumes, then devices.
    pub fn disks(&self) -> impl Iterator<Item = Disk<'_>> {
        let volumes = self.volumes.iter().map(|volume| Disk {
            source: &volume.source,
            is_device: volume.is_device,
            read_only: volume.read_only,
            serial: volume.serial(),
        });
        let devices = self.devices.iter().map(|device| Disk {
            source: &device.source,
            is_device: true,
            read_only: device.read_only,
            serial: device.serial(),
        });
        volumes.chain(devices)
    }

    /// Whether memory can be added while it runs.
    pub fn memory_grows(&self) -> bool {
        self.max_memory.get() > self.memory.get()
    }

    /// The control socket of its TPM, whoever runs that.
    pub fn tpm_control(&self) -> PathBuf {
        let theirs = self.tpm_socket.clone();
        theirs.unwrap_or_else(|| self.paths.tpm_socket())
    }

    /// The kernel command line.
    pub fn cmdline(&self, machine_id: &str) -> String {
        let mut line = self.kernel_parameters.join(" ");
        line.push_str(" systemd.machine_id=");
        line.push_str(machine_id);
        line
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{config::Config, paths::Paths};

    /// A spec for golden tests: what `builder` would make of a small bundle.
    pub(crate) fn sample() -> VmSpec {
        let namespace = Namespace::try_from("default").unwrap();
        let id = ContainerId::try_from("demo").unwrap();
        VmSpec {
            paths: Paths::new(&Config::default()).instance(&namespace, &id),
            namespace,
            id,
            vcpus: Vcpus(1),
            memory: MemoryMib(512),
            max_vcpus: Vcpus(1),
            max_memory: MemoryMib(512),
            disk_ports: 0,
            oom_score_adj: None,
            placement: None,
            vmm: VmmKind::Qemu,
            accel: VmAccel::Tcg,
            kernel: "/bundle/rootfs/seed-system/kernel".into(),
            kernel_format: KernelFormat::BzImage,
            initrd: Some("/bundle/rootfs/seed-system/initrd".into()),
            kernel_parameters: vec!["quiet".into(), "init=/seed-system/init".into()],
            rootfs: "/bundle/rootfs".into(),
            wants_read_only_root: false,
            tpm_socket: None,
            volumes: vec![VolumeSpec::sample(
                "data",
                "/var/lib/seed/volumes/default/demo/data.img",
            )],
            devices: Vec::new(),
            network: Network::None,
            forwards: Vec::new(),
            nics: Vec::new(),
            shared: Vec::new(),
            memory_mounts: Vec::new(),
            beacon_port: 1030,
            hostname: "demo".into(),
            dns: Vec::new(),
            env: vec![EnvVar {
                name: "TOKEN".into(),
                value: "s3cret".into(),
            }],
            args: vec!["/seed-system/init".into()],
            annotations: Default::default(),
        }
    }

    /// What it would make of a pod's: two cards, room to grow, what the engine mounts, a claim as a block device.
    pub(crate) fn pod() -> VmSpec {
        let card = |number: u8| {
            let tap = std::fs::File::open("/dev/null").unwrap();
            let mut nic = Nic::sample(std::sync::Arc::new(tap.into()));
            nic.name = format!("eth{number}");
            nic.mac = format!("02:00:00:00:00:0{}", number + 1);
            nic
        };
        let mut claim = VolumeSpec::sample("claim", "/dev/mapper/claim");
        claim.is_device = true;
        let mut odd = VolumeSpec::sample("odd", "/v/a,[b].img");
        odd.read_only = true;
        let mut spec = sample();
        spec.volumes.extend([claim, odd]);
        spec.devices = vec![BlockDevice {
            source: "/dev/mapper/raw".into(),
            path: "/dev/raw".into(),
            read_only: true,
            owner: None,
        }];
        spec.max_vcpus = Vcpus(4);
        spec.max_memory = MemoryMib(1000);
        spec.disk_ports = 2;
        spec.accel = VmAccel::Kvm;
        spec.shared = vec![SharedMount::sample()];
        spec.nics = vec![card(0), card(1)];
        spec
    }

    #[test]
    fn a_printed_spec_shows_no_value_of_the_environment() {
        let shown = format!("{:?}", sample());
        assert!(
            shown.contains("TOKEN=<hidden>") && !shown.contains("s3cret"),
            "{shown}"
        );
    }

    #[test]
    fn sizes_outside_their_range_are_refused() {
        assert!(Vcpus::try_from(0).is_err() && Vcpus::try_from(65).is_err());
        assert!(MemoryMib::try_from(255).is_err() && MemoryMib::try_from(262_145).is_err());
        assert_eq!(MemoryMib::try_from(512).unwrap().get(), 512);
    }
}
