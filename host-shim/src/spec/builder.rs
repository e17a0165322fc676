//! Joins bundle, annotations, configuration and `boot.json` into a [`VmSpec`].

use std::{
    io::Read,
    net::IpAddr,
    path::{Path, PathBuf},
};

use seed_protocol::{
    env::{MAX_ASSIGNMENT_BYTES, MAX_TOTAL_BYTES},
    paths as guest, ports,
};
use thiserror::Error;

use super::{
    AccelUnavailable, AnnotationError, Annotations, BootSpec, BootSpecError, Bundle, BundleError,
    Cpu, DeviceError, InsideError, KernelFormat, MemoryError, Network, PodSpec, Sizing,
    SysctlError, VmSpec, VolumeError, accel,
    annotations::{PREFIX, within},
    bootspec::{self, FILE},
    bundle::Mount,
    cri, devices, environment, inside, memory, shares, sizing, sysctl, volumes,
};
use crate::{
    cgroup::{self, GroupName, Placement},
    config::Config,
    names::{ContainerId, Namespace},
    net::Nic,
    paths::{InstancePaths, SocketPathError},
    writes::WritesMib,
};

/// `COMMAND_LINE_SIZE` of x86 (arch/x86/include/asm/setup.h), with the final zero byte.
pub(super) const MAX_CMDLINE_BYTES: usize = 2048;

/// The machine id and its name on the command line.
const MACHINE_ID_BYTES: usize = " systemd.machine_id=".len() + 32;

/// Room to grow lies above 4 GiB, so Linux sets 64 MiB aside for devices that reach no further. There are none
/// here: 2048 slots of 2 KiB are enough (kernel/dma/swiotlb.c).
const SMALL_SWIOTLB: &str = "swiotlb=2048";

/// Mount types that every OCI document carries for a container, and the place of each. A guest mounts these by itself.
const GUESTS_OWN: [(&str, &str); 6] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devpts", "/dev/pts"),
    ("mqueue", "/dev/mqueue"),
    ("cgroup", "/sys/fs/cgroup"),
    ("cgroup2", "/sys/fs/cgroup"),
];

/// Why there is no spec.
#[derive(Debug, Error)]
pub enum SpecError {
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// An annotation.
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    /// A volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// A device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A socket path.
    #[error(transparent)]
    Socket(#[from] SocketPathError),
    /// The accelerator.
    #[error(transparent)]
    Accel(#[from] AccelUnavailable),
    /// `process.args` does not name an init program.
    #[error("process.args must be [\"<toplevel>/init\"] with an absolute path, not {0:?}")]
    Args(Vec<String>),
    /// There is no `boot.json`.
    #[error("the closure has no {}: {source}", path.display())]
    NoBootSpec {
        /// Its path as the guest sees it.
        path: PathBuf,
        /// Why it could not be opened.
        source: InsideError,
    },
    /// It cannot be read.
    #[error("{} cannot be read", path.display())]
    ReadBootSpec {
        /// Its path as the guest sees it.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not understood.
    #[error("{} of the closure: {source}", path.display())]
    BootSpec {
        /// Its path as the guest sees it.
        path: PathBuf,
        /// Why.
        source: BootSpecError,
    },
    /// Kernel or initrd is not there.
    #[error("{what} of the closure: {source}")]
    Missing {
        /// `kernel` or `initrd`.
        what: &'static str,
        /// Why.
        source: InsideError,
    },
    /// The kernel cannot be booted.
    #[error("kernel {} is neither a bzImage nor an ELF image", .0.display())]
    Kernel(PathBuf),
    /// Too many kernel parameters.
    #[error("the kernel command line has {0} bytes, at most {MAX_CMDLINE_BYTES} are possible")]
    Cmdline(usize),
    /// An environment entry.
    #[error(
        "environment entry {0}: write NAME=value, NAME of letters, digits and '_', not beginning with a digit"
    )]
    Env(String),
    /// An environment entry that no program could be started with.
    #[error(
        "environment variable {0} is longer than {MAX_ASSIGNMENT_BYTES} bytes: give it as a file on a volume"
    )]
    EnvLength(String),
    /// All of it is too much.
    #[error(
        "the environment has {0} bytes, at most {MAX_TOTAL_BYTES} are possible: give large values as files on a volume"
    )]
    EnvTotal(usize),
    /// Ports without a network that they could lead into.
    #[error("ports are published over the user-mode network alone: set annotation network to user")]
    Publish,
    /// A limit of the container.
    #[error("the container's {what} limit: {problem}")]
    Limit {
        /// `CPU` or `memory`.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The control group.
    #[error(transparent)]
    Group(#[from] cgroup::NameError),
    /// The machine would start larger than it may grow.
    #[error("max_vcpus or max_memory_mib: {0}")]
    Growth(String),
    /// Memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A setting of the guest's kernel.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// A mount that no guest could see.
    #[error("mount of type {kind:?} at {} is not supported: give volumes as ext4, xfs or btrfs images, files and folders of the host as bind mounts, and memory as tmpfs", destination.display())]
    Mount {
        /// Its type.
        kind: String,
        /// Where it should be.
        destination: PathBuf,
    },
}

/// What a spec is made from.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The containerd namespace.
    pub namespace: &'a Namespace,
    /// The instance.
    pub id: &'a ContainerId,
    /// Its paths.
    pub paths: &'a InstancePaths,
    /// The bundle.
    pub bundle: &'a Bundle,
    /// What its annotations say to us.
    pub annotations: &'a Annotations,
    /// The mounted root.
    pub rootfs: &'a Path,
    /// Its pod: what it says counts where the bundle says nothing.
    pub pod: &'a PodSpec,
    /// What the configuration says.
    pub config: &'a Config,
    /// What the host says about it.
    pub cpu: Cpu,
    /// The host's address: what a guest may call its node by.
    pub host_address: Option<IpAddr>,
    /// The guest's cards in the pod's network.
    pub nics: &'a [Nic],
}

/// The closure's `boot.json`, from the root that is mounted at `rootfs`.
pub fn read_boot_spec(rootfs: &Path, init: &Path) -> Result<BootSpec, SpecError> {
    let toplevel = init.parent().unwrap_or_else(|| Path::new("/"));
    let path = toplevel.join(FILE);
    let (file, _) = inside::resolve(rootfs, &path).map_err(|source| SpecError::NoBootSpec {
        path: path.clone(),
        source,
    })?;
    let mut text = String::new();
    file.take(bootspec::MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|source| SpecError::ReadBootSpec {
            path: path.clone(),
            source,
        })?;
    BootSpec::parse(&text).map_err(|source| SpecError::BootSpec { path, source })
}

/// How much of what the guest writes to its root is kept in memory: the annotation's word, else the configuration's. `None`: it
/// goes where the mounts say.
pub fn root_writes(
    bundle: &Bundle,
    annotations: &Annotations,
    config: &Config,
) -> Result<Option<WritesMib>, SpecError> {
    let asked = annotations.root_writes.flatten().map(WritesMib::get);
    let limit = config.annotations.max_root_writes_mib;
    let name = (PREFIX, "root_writes_mib");
    within(
        &bundle.annotations,
        name,
        asked,
        "max_root_writes_mib",
        limit,
    )?;
    // The configuration's was checked when it was read.
    let configured = || WritesMib::parse(config.root_writes_mib).unwrap_or_default();
    Ok(annotations.root_writes.unwrap_or_else(configured))
}

/// Validates everything and joins it.
pub fn build(inputs: &Inputs<'_>) -> Result<VmSpec, SpecError> {
    let Inputs {
        namespace,
        id,
        paths,
        bundle,
        annotations,
        rootfs,
        pod,
        config,
        cpu,
        host_address,
        nics,
    } = *inputs;
    let init = init_program(&bundle.args)?;
    let boot = read_boot_spec(rootfs, init)?;
    let kata = sizing::kata_of(&bundle.annotations, config)?;
    sizing::check_asked(&bundle.annotations, annotations, &kata, config)?;
    let Sizing {
        vcpus,
        memory,
        max_vcpus,
        max_memory,
    } = sizing::decide(
        annotations,
        &kata,
        &bundle.resources.or(&pod.limits),
        boot.seed.size,
        config,
    )?;
    let accel = accel::resolve(annotations.accel.unwrap_or(config.accel), cpu)?;
    let (kernel, kernel_format) = kernel(rootfs, &boot.kernel)?;
    let missing = |source| SpecError::Missing {
        what: "initrd",
        source,
    };
    let initrd = match &boot.initrd {
        Some(path) => Some(inside::resolve(rootfs, path).map_err(missing)?.1),
        None => None,
    };
    check_mounts(&bundle.mounts)?;
    let volumes = volumes::from_mounts(&bundle.mounts)?;
    let devices = devices::disks(&bundle.devices, &bundle.device_rules)?;
    volumes::check_with(&volumes, &devices)?;
    let beacon_port = ports::BEACON;
    paths.check_sockets(beacon_port)?;
    let network = annotations.network.unwrap_or(Network::None);
    if network != Network::User && !annotations.publish.is_empty() {
        return Err(SpecError::Publish);
    }
    let more = [kata.kernel_params, annotations.kernel_params.clone()].concat();
    let mut kernel_parameters = kernel_parameters(
        &boot,
        &more,
        init,
        beacon_port,
        max_memory.get() > memory.get(),
    );
    if !nics.is_empty() {
        // Cards have the names of the pod's links, which the agent gives them: udev shall leave them so.
        kernel_parameters.push("net.ifnames=0".into());
    }
    let mut sysctls = pod.sysctls.clone();
    sysctls.extend(bundle.sysctls.clone());
    kernel_parameters.extend(sysctl::parameters(&sysctls)?);
    let spec = VmSpec {
        namespace: namespace.clone(),
        id: id.clone(),
        paths: paths.clone(),
        vcpus,
        memory,
        max_vcpus,
        max_memory,
        disk_ports: config.growth.disk_ports,
        oom_score_adj: bundle.oom_score_adj,
        placement: placement(bundle, pod, config)?,
        vmm: kata.vmm.unwrap_or(config.vmm),
        accel,
        kernel,
        kernel_format,
        initrd,
        kernel_parameters,
        tpm_socket: kata.tpm_socket,
        rootfs: rootfs.to_owned(),
        wants_read_only_root: bundle.read_only_root,
        volumes,
        devices,
        network,
        forwards: annotations.publish.clone(),
        nics: nics.to_vec(),
        shared: shares::from_mounts(&bundle.mounts),
        memory_mounts: memory::from_mounts(&bundle.mounts)?,
        beacon_port,
        hostname: hostname(bundle, pod, &boot, id),
        dns: match network {
            Network::User => vec!["nameserver 10.0.2.3".into()],
            Network::None => pod.dns.clone(),
        },
        env: environment::build(bundle, namespace, id, host_address)?,
        args: bundle.args.clone(),
        annotations: bundle.annotations.clone(),
    };
    let length = spec.cmdline("").len() + MACHINE_ID_BYTES;
    if length >= MAX_CMDLINE_BYTES {
        return Err(SpecError::Cmdline(length));
    }
    Ok(spec)
}

/// The group of the pod, or of the container where there is no pod.
fn placement(
    bundle: &Bundle,
    pod: &PodSpec,
    config: &Config,
) -> Result<Option<Placement>, SpecError> {
    let own = GroupName::parse(&bundle.cgroups_path)?;
    let limit = |problem| SpecError::Limit {
        what: "CPU",
        problem,
    };
    let cpuset = bundle.resources.cpuset().map_err(limit)?;
    let name = pod.group.clone().or(own).filter(|_| config.pod_cgroup);
    Ok(name.map(|name| Placement { name, cpuset }))
}

fn init_program(args: &[String]) -> Result<&Path, SpecError> {
    let path = args.first().map(Path::new);
    let usable = |path: &&Path| path.is_absolute() && path.file_name().is_some();
    let plain = |path: &&Path| !path.to_string_lossy().contains(char::is_whitespace);
    path.filter(usable)
        .filter(plain)
        .ok_or_else(|| SpecError::Args(args.to_vec()))
}

fn kernel(rootfs: &Path, path: &Path) -> Result<(PathBuf, KernelFormat), SpecError> {
    let missing = |source| SpecError::Missing {
        what: "kernel",
        source,
    };
    let (file, host) = inside::resolve(rootfs, path).map_err(missing)?;
    // The setup header ends well within the first 1024 bytes (Documentation/arch/x86/boot.rst).
    let mut head = Vec::new();
    let read = file.take(1024).read_to_end(&mut head);
    let format = match read {
        Ok(_) if head.starts_with(b"\x7fELF") => KernelFormat::Elf,
        Ok(_) if head.get(0x202..0x206) == Some(b"HdrS") => KernelFormat::BzImage,
        _ => return Err(SpecError::Kernel(path.to_owned())),
    };
    Ok((host, format))
}

fn kernel_parameters(
    boot: &BootSpec,
    more: &[String],
    init: &Path,
    beacon_port: u32,
    memory_grows: bool,
) -> Vec<String> {
    // The last root=, rootfstype= and init= win, so the host's come after the closure's.
    let mut all = boot.kernel_params.clone();
    all.extend_from_slice(more);
    all.push(format!("init={}", init.display()));
    // A systemd initrd with `root=fstab` mounts the root by its own table, as NixOS does, and calls a
    // second word on it an error.
    if !boot.kernel_params.iter().any(|word| word == "root=fstab") {
        all.push(format!("root={}", guest::ROOT_TAG));
        all.push("rootfstype=virtiofs".into());
    }
    if memory_grows {
        all.push(SMALL_SWIOTLB.into());
    }
    all.extend([
        "rw".into(),
        "console=ttyS0".into(),
        // A panic ends the VM at once: with -no-reboot QEMU exits instead of starting again.
        "panic=-1".into(),
        format!("{}={beacon_port}", ports::BEACON_PARAMETER),
    ]);
    all
}

fn hostname(bundle: &Bundle, pod: &PodSpec, boot: &BootSpec, id: &ContainerId) -> String {
    if !bundle.hostname.is_empty() {
        return bundle.hostname.clone();
    }
    if !pod.hostname.is_empty() {
        return pod.hostname.clone();
    }
    if let Some(pod) = cri::pod_name(&bundle.annotations) {
        return pod.to_owned();
    }
    boot.seed.name.clone().unwrap_or_else(|| id.to_string())
}

/// Each is one that a guest can have, or has by itself.
fn check_mounts(mounts: &[Mount]) -> Result<(), SpecError> {
    for mount in mounts {
        let is_there = |(kind, place): &(&str, &str)| {
            mount.kind == *kind && mount.destination.starts_with(place)
        };
        let known = GUESTS_OWN.iter().any(is_there)
            || memory::is_memory(mount)
            || matches!(mount.kind.as_str(), "ext4" | "xfs" | "btrfs")
            || shares::is_bind(mount);
        if !known {
            return Err(SpecError::Mount {
                kind: mount.kind.clone(),
                destination: mount.destination.clone(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(kind: &str, destination: &str, options: &[&str]) -> Result<(), SpecError> {
        check_mounts(&[Mount {
            destination: destination.into(),
            kind: kind.into(),
            source: "/somewhere".into(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
        }])
    }

    #[test]
    fn a_mount_is_one_that_a_guest_has_or_can_be_given() {
        for (kind, destination) in [
            ("proc", "/proc"),
            ("sysfs", "/sys"),
            ("devpts", "/dev/pts"),
            ("mqueue", "/dev/mqueue"),
            ("cgroup", "/sys/fs/cgroup"),
            ("cgroup", "/sys/fs/cgroup/memory"),
            ("cgroup2", "/sys/fs/cgroup"),
            ("tmpfs", "/scratch"),
            ("ext4", "/srv"),
            ("bind", "/srv"),
        ] {
            checked(kind, destination, &[]).unwrap();
        }
        checked("none", "/srv", &["rbind"]).unwrap();
        for (kind, destination) in [
            ("nfs", "/srv"),
            ("hugetlbfs", "/dev/hugepages"),
            ("proc", "/host/proc"),
            ("cgroup", "/host/cgroup"),
            ("mqueue", "/mq"),
            ("", "/srv"),
        ] {
            let text = checked(kind, destination, &[]).unwrap_err().to_string();
            let begins = format!("mount of type {kind:?} at {destination} is not supported: ");
            assert!(text.starts_with(&begins), "{text}");
        }
    }
}
