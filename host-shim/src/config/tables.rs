//! The tables of the configuration: what each may say, and what holds without it.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    logs::{pack::Compression, store},
    spec::{MemoryMib, Vcpus},
};

/// The programs that the shim starts: a name is looked up, a path is taken as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Programs {
    /// QEMU's system emulator.
    pub qemu: PathBuf,
    /// Cloud Hypervisor.
    pub cloud_hypervisor: PathBuf,
    /// The virtio-fs daemon in Rust (virtio-fs.gitlab.io).
    pub virtiofsd: PathBuf,
    /// The software TPM.
    pub swtpm: PathBuf,
    /// QEMU's vsock device: the shim itself ([`crate::vsock`]).
    pub vsock: PathBuf,
}

impl Default for Programs {
    fn default() -> Self {
        Self {
            qemu: "qemu-system-x86_64".into(),
            cloud_hypervisor: "cloud-hypervisor".into(),
            virtiofsd: "virtiofsd".into(),
            swtpm: "swtpm".into(),
            vsock: "/proc/self/exe".into(),
        }
    }
}

/// How long things may take, in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Files of the host at Create: its root and what it shares, which may be on a mount whose server is gone.
    pub create_seconds: u64,
    /// A daemon's socket after its start.
    pub daemon_seconds: u64,
    /// From the VMM's start to the agent's hello. Under TCG on a busy machine a minute is possible.
    pub hello_seconds: u64,
    /// One lifecycle call to the agent: file systems are made and checked within it.
    pub provision_seconds: u64,
    /// Between the guest's poweroff request and the VMM's end, when SIGTERM was asked for.
    pub poweroff_seconds: u64,
    /// The last pull of the journal.
    pub drain_seconds: u64,
    /// How long the output of an exec may be without a reader until the command is hung up on.
    pub exec_reader_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            create_seconds: 60,
            daemon_seconds: 15,
            hello_seconds: 180,
            provision_seconds: 180,
            poweroff_seconds: 90,
            drain_seconds: 10,
            exec_reader_seconds: 10,
        }
    }
}

impl Limits {
    /// [`Limits::create_seconds`].
    pub fn create(&self) -> Duration {
        Duration::from_secs(self.create_seconds)
    }
    /// [`Limits::daemon_seconds`].
    pub fn daemon(&self) -> Duration {
        Duration::from_secs(self.daemon_seconds)
    }
    /// [`Limits::hello_seconds`].
    pub fn hello(&self) -> Duration {
        Duration::from_secs(self.hello_seconds)
    }
    /// [`Limits::provision_seconds`].
    pub fn provision(&self) -> Duration {
        Duration::from_secs(self.provision_seconds)
    }
    /// [`Limits::poweroff_seconds`].
    pub fn poweroff(&self) -> Duration {
        Duration::from_secs(self.poweroff_seconds)
    }
    /// [`Limits::drain_seconds`].
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
    /// [`Limits::exec_reader_seconds`].
    pub fn exec_reader(&self) -> Duration {
        Duration::from_secs(self.exec_reader_seconds)
    }

    pub(super) fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("limits.create_seconds", self.create_seconds),
            ("limits.daemon_seconds", self.daemon_seconds),
            ("limits.hello_seconds", self.hello_seconds),
            ("limits.provision_seconds", self.provision_seconds),
            ("limits.poweroff_seconds", self.poweroff_seconds),
            ("limits.drain_seconds", self.drain_seconds),
            ("limits.exec_reader_seconds", self.exec_reader_seconds),
        ]
    }
}

/// The longest of the [`Limits`]: an hour. More is a typing error.
pub const MAX_LIMIT_SECONDS: u64 = 3600;

/// How much of an instance's journal is kept, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logs {
    /// A segment is closed before it would grow beyond this.
    pub segment_mib: u64,
    /// A segment is closed when its first batch is older than this, so that old batches can go.
    pub segment_hours: u64,
    /// The oldest segments are deleted when all together are longer.
    pub total_mib: u64,
    /// Segments whose last batch is older than this are deleted; 0: they are of any age.
    pub keep_days: u64,
    /// `none` or `zstd`.
    pub compression: Compression,
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            segment_mib: 16,
            segment_hours: 24,
            total_mib: 256,
            keep_days: 0,
            compression: Compression::None,
        }
    }
}

/// What [`Logs`] may say: a TiB, and ten years. More is a typing error.
const LOGS_MIB: RangeInclusive<u64> = 1..=1 << 20;
const LOGS_HOURS: RangeInclusive<u64> = 1..=24 * 3660;
const LOGS_DAYS: RangeInclusive<u64> = 0..=3660;

impl Logs {
    /// As the store wants it.
    pub fn limits(&self) -> store::Limits {
        let days = Duration::from_secs(self.keep_days * 24 * 3600);
        store::Limits {
            segment_bytes: self.segment_mib << 20,
            segment_age: Duration::from_secs(self.segment_hours * 3600),
            total_bytes: self.total_mib << 20,
            total_age: (!days.is_zero()).then_some(days),
            compression: self.compression,
        }
    }

    /// The key that is wrong, and how.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        let ranges = [
            ("logs.segment_mib", self.segment_mib, LOGS_MIB),
            ("logs.segment_hours", self.segment_hours, LOGS_HOURS),
            ("logs.total_mib", self.total_mib, LOGS_MIB),
            ("logs.keep_days", self.keep_days, LOGS_DAYS),
        ];
        for (key, value, range) in ranges {
            if !range.contains(&value) {
                let (from, to) = range.into_inner();
                return Some((key, format!("must be from {from} to {to}")));
            }
        }
        let fits = self.total_mib >= 2 * self.segment_mib;
        (!fits).then(|| {
            let problem =
                "must be at least twice logs.segment_mib: one that is full and one that is written";
            ("logs.total_mib", problem.to_owned())
        })
    }
}

/// How far an instance may grow while it runs, unless its annotations say otherwise. 0: not at all. Memory that
/// could be added costs every guest about 4 MiB of what it has; processors cost next to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Growth {
    /// Processors.
    pub max_vcpus: u32,
    /// Memory in MiB.
    pub max_memory_mib: u32,
    /// Ports into which QEMU takes disks, one each, at most [`MAX_DISK_PORTS`].
    pub disk_ports: u32,
}

/// As many functions as a slot of PCI has, which is the one that ports are in.
pub const MAX_DISK_PORTS: u32 = 8;

impl Growth {
    /// The key that is wrong, and how.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        let wrong = |key, problem: Option<String>| problem.map(|problem| (key, problem));
        let vcpus = (self.max_vcpus > 0).then(|| Vcpus::try_from(self.max_vcpus).err());
        let memory =
            (self.max_memory_mib > 0).then(|| MemoryMib::try_from(self.max_memory_mib).err());
        let ports = (self.disk_ports > MAX_DISK_PORTS)
            .then(|| format!("must be from 0 to {MAX_DISK_PORTS}"));
        wrong("growth.max_vcpus", vcpus.flatten())
            .or_else(|| wrong("growth.max_memory_mib", memory.flatten()))
            .or_else(|| wrong("growth.disk_ports", ports))
    }
}

/// What a bundle may ask for by annotations, ours and Kata's; 0: whatever a machine can have. What the engine says by
/// the container's limits is not asked for here: the engine accounts for that.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AnnotationLimits {
    /// Processors, those that may be added included.
    pub max_vcpus: u32,
    /// Memory in MiB, what may be added included.
    pub max_memory_mib: u32,
    /// Memory for what is written to the root, in MiB.
    pub max_root_writes_mib: u32,
}

/// How many users a machine has: QEMU's, swtpm's and the vsock daemon's.
pub const IDS_EACH: u32 = 3;

/// Users and groups under which a root's machines run, so that none has the rights of root or of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Users {
    /// The lowest number. By default the first that systemd leaves to nobody (its `UIDS-GIDS.md`).
    pub first: u32,
    /// How many, three an instance; 0: everything runs as the shim's own user.
    pub count: u32,
}

impl Default for Users {
    fn default() -> Self {
        Self {
            first: 0x7000_0000,
            count: 3 << 16,
        }
    }
}

impl Users {
    /// For how many instances they are enough.
    pub fn instances(&self) -> u32 {
        self.count / IDS_EACH
    }

    /// The key that is wrong, and how.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        if self.first == 0 {
            return Some(("users.first", "must not be root's, 0".to_owned()));
        }
        if !self.count.is_multiple_of(IDS_EACH) {
            let problem = format!("must be a multiple of {IDS_EACH}: each instance has as many");
            return Some(("users.count", problem));
        }
        // The highest number stands for none (setresuid(2)).
        let fits = self.first.checked_add(self.count).is_some();
        (!fits).then(|| ("users.count", format!("must end below {}", u32::MAX)))
    }
}
