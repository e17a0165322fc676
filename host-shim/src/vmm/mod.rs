//! Virtual machines: the trait that a virtual machine monitor implements, and what all of them share.
//!
//! A [`Vmm`] launches a [`VmSpec`] and hands back a [`Machine`]: pids, a way to send [`Control`]s, and a
//! stream of [`VmEvent`]s that ends with [`VmEvent::Ended`], after which no process of the machine is
//! left. Everything that runs for a machine is a supervised child; the death of any one ends all.
//!
//! There are two back ends, [`qemu`] and [`cloud_hypervisor`]; [`Backends`] has both, and the spec says which.

pub mod cloud_hypervisor;
pub mod console;
mod daemons;
mod foreign;
pub mod helpers;
mod kind;
pub mod process;
pub mod programs;
pub mod qemu;
mod supervisor;
pub mod users;

use std::{fmt, io, path::PathBuf};

use async_trait::async_trait;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

pub use kind::{VmmKind, VmmKindError};

use crate::{config::Config, spec::VmSpec, tpm::StateDir};

/// Why no machine came up.
#[derive(Debug, Error)]
pub enum VmmError {
    /// A program is not installed.
    #[error(transparent)]
    Program(#[from] programs::ProgramError),
    /// A program could not be started.
    #[error("{name} could not be started")]
    Spawn {
        /// Which.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A program ended at once.
    #[error("{name} ended at its start ({how}){said}")]
    Died {
        /// Which.
        name: &'static str,
        /// Its exit status.
        how: String,
        /// Its last words, or nothing.
        said: String,
    },
    /// A program never made its socket.
    #[error("{name} did not listen on {} within {seconds} s{said}", socket.display())]
    NoSocket {
        /// Which.
        name: &'static str,
        /// The socket.
        socket: PathBuf,
        /// The limit.
        seconds: u64,
        /// Its last words, or nothing.
        said: String,
    },
    /// QEMU's monitor does not talk.
    #[error("the monitor of QEMU does not answer")]
    Monitor(#[from] qemu::qmp::QmpError),
    /// Cloud Hypervisor's API does not.
    #[error("the API of Cloud Hypervisor does not answer as it should")]
    Api(#[from] cloud_hypervisor::api::ApiError),
    /// The chosen VMM cannot do what the instance wants.
    #[error("{vmm} {lack}")]
    Unsupported {
        /// Which VMM.
        vmm: VmmKind,
        /// What it lacks, and the way out.
        lack: String,
    },
    /// The VMM runs, and its machine does not.
    #[error("{vmm} did not boot its machine within {seconds} s")]
    NoBoot {
        /// Which VMM.
        vmm: VmmKind,
        /// The limit.
        seconds: u64,
    },
    /// A running machine takes no more.
    #[error("the machine does not grow")]
    Grow(#[from] qemu::grow::GrowError),
    /// A socket of a daemon.
    #[error("{} cannot be connected to", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that the machine uses.
    #[error("{} cannot be opened", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There are no users for its programs.
    #[error(transparent)]
    Users(#[from] users::UsersError),
    /// A file of the machine.
    #[error("{} cannot be written", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// How large a running machine shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineSize {
    /// Processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
}

/// What can be asked of a running machine.
#[derive(Debug)]
pub enum Control {
    /// Press the power button.
    PowerButton,
    /// End it now.
    Kill,
    /// Freeze the processors.
    Pause,
    /// Let them run on.
    Resume,
    /// Add what lacks to this size, and say how it went.
    Grow(MachineSize, oneshot::Sender<Result<(), VmmError>>),
}

impl Control {
    /// A word for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::PowerButton => "power button",
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Grow(..) => "grow",
        }
    }
}

/// What a running machine tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmEvent {
    /// The console printed its first bytes: the kernel runs.
    ConsoleSpoke,
    /// The processors are frozen.
    Paused,
    /// The processors run on.
    Resumed,
    /// The host's kernel has killed one of its processes for lack of memory, of the host or of their control group.
    KilledForMemory,
    /// Everything is over. Always the last event.
    Ended(VmEnd),
}

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmEnd {
    /// The guest powered itself off.
    Poweroff,
    /// The guest rebooted. A reboot ends an instance: whoever runs it decides whether to start it again.
    Reboot,
    /// The guest's kernel panicked.
    Panic,
    /// [`Control::Kill`].
    Killed,
    /// The VMM, or a program that the machine cannot do without, ended by itself or by somebody
    /// else's signal.
    Died {
        /// Which.
        name: &'static str,
        /// Exit status and last words.
        how: String,
    },
}

impl VmEnd {
    /// The exit status that containerd sees.
    pub fn exit_status(&self) -> u32 {
        match self {
            Self::Poweroff => 0,
            // What systemd-nspawn@.service takes for "the system asked for a reboot".
            Self::Reboot => 133,
            // 128 + SIGABRT: the guest gave up by itself.
            Self::Panic => 134,
            // 128 + SIGKILL, so that nobody takes it for a success.
            Self::Killed | Self::Died { .. } => 137,
        }
    }
}

impl fmt::Display for VmEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poweroff => f.write_str("the guest powered off"),
            Self::Reboot => f.write_str("the guest rebooted"),
            Self::Panic => f.write_str("the guest's kernel panicked"),
            Self::Killed => f.write_str("killed"),
            Self::Died { name, how } => write!(f, "{name} ended ({how})"),
        }
    }
}

/// One process of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessInfo {
    /// `qemu`, `swtpm`...
    pub name: &'static str,
    /// Its pid.
    pub pid: u32,
}

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    /// Its processes, the VMM first.
    pub processes: Vec<ProcessInfo>,
    /// Dropping it is [`Control::Kill`].
    pub control: mpsc::UnboundedSender<Control>,
    /// Ends after [`VmEvent::Ended`].
    pub events: mpsc::UnboundedReceiver<VmEvent>,
}

/// A virtual machine monitor.
#[async_trait]
pub trait Vmm: Send + Sync + fmt::Debug {
    /// Whether all that it needs for this machine is installed, and whether it can run it. Changes nothing.
    fn check(&self, spec: &VmSpec) -> Result<(), VmmError>;

    /// Starts a machine. On an error nothing of it is left running.
    async fn launch(&self, spec: &VmSpec, tpm: &StateDir) -> Result<Machine, VmmError>;
}

/// All back ends.
#[derive(Debug)]
pub struct Backends {
    qemu: qemu::Qemu,
    cloud_hypervisor: cloud_hypervisor::CloudHypervisor,
}

impl Backends {
    /// As the configuration has them.
    pub fn new(config: &Config) -> Self {
        let (programs, limits) = (&config.programs, &config.limits);
        Self {
            qemu: qemu::Qemu::new(programs.clone(), limits.clone(), config.users.clone()),
            cloud_hypervisor: cloud_hypervisor::CloudHypervisor::new(
                programs.clone(),
                limits.clone(),
            ),
        }
    }

    fn of(&self, spec: &VmSpec) -> &dyn Vmm {
        match spec.vmm {
            VmmKind::Qemu => &self.qemu,
            VmmKind::CloudHypervisor => &self.cloud_hypervisor,
        }
    }
}

#[async_trait]
impl Vmm for Backends {
    fn check(&self, spec: &VmSpec) -> Result<(), VmmError> {
        self.of(spec).check(spec)
    }

    async fn launch(&self, spec: &VmSpec, tpm: &StateDir) -> Result<Machine, VmmError> {
        self.of(spec).launch(spec, tpm).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_poweroff_is_a_success() {
        let how = || "signal 9".to_owned();
        assert_eq!(VmEnd::Poweroff.exit_status(), 0);
        for end in [
            VmEnd::Reboot,
            VmEnd::Panic,
            VmEnd::Killed,
            VmEnd::Died {
                name: "virtiofsd",
                how: how(),
            },
        ] {
            assert!(end.exit_status() > 128, "{end}");
        }
    }
}
