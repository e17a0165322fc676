//! The command line: what can be asked for. Nothing is done here.
//!
//! [`table`] has every command and option once; [`help`], [`man`] and [`completions`] are texts made of it, [`mod@parse`]
//! reads words by it, and [`meaning`] makes a [`Command`] of them.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use seed_protocol::{JournalNamespace, seed::v1::control_unit_request::Action};
use seed_shim::{
    config::Accel,
    containerd::volumes::VolumeArg,
    logs::{filter::Filter, show::Form},
    names::{ContainerId, Namespace},
    spec::{MemoryMib, Vcpus},
};

mod completions;
mod help;
mod man;
mod meaning;
mod option;
mod parse;
mod table;

pub(crate) use parse::{parse, wants_json};

/// What the user wants.
#[derive(Debug)]
pub(crate) enum Invocation {
    /// A text to print: help or version.
    Text(String),
    /// Something to do.
    Command {
        /// What every command knows.
        global: Global,
        /// Which.
        command: Command,
    },
}

/// Flags that every command knows.
#[derive(Debug, Clone)]
pub(crate) struct Global {
    /// The containerd namespace.
    pub(crate) namespace: Namespace,
    /// Print JSON.
    pub(crate) json: bool,
}

/// The instance that is meant: a name, or the only one there is.
pub(crate) type Which = Option<ContainerId>;

/// What to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// `seed run`
    Run(Box<RunArgs>),
    /// `seed ps`
    Ps {
        /// Of every namespace.
        all: bool,
        /// Names only.
        quiet: bool,
        /// What those that have ended keep.
        kept: bool,
    },
    /// `seed status`
    Status {
        /// Which instance.
        which: Which,
        /// Again, as often.
        watch: Option<Duration>,
    },
    /// `seed inspect`
    Inspect(Which),
    /// `seed logs`
    Logs(Box<LogsArgs>),
    /// `seed units`
    Units {
        /// Which instance.
        which: Which,
        /// Patterns of names; all for none.
        patterns: Vec<String>,
    },
    /// `seed unit`
    Unit {
        /// Which instance.
        id: ContainerId,
        /// What to do; show it for nothing.
        action: Option<Action>,
        /// The unit.
        unit: String,
    },
    /// `seed keys`
    Keys {
        /// Which instance.
        which: Which,
        /// Print the other spelling.
        tag: bool,
    },
    /// `seed restart`
    Restart {
        /// Which instance.
        which: Which,
        /// How long the orderly poweroff may take.
        limit: Duration,
        /// How far to wait.
        wait: WaitFor,
    },
    /// `seed exec`
    Exec(ExecArgs),
    /// `seed stop`
    Stop {
        /// Which instance.
        which: Which,
        /// No orderly poweroff.
        kill: bool,
        /// How long the orderly poweroff may take.
        limit: Duration,
    },
    /// `seed rm`
    Rm {
        /// Which instance.
        id: ContainerId,
        /// Really.
        yes: bool,
    },
    /// `seed prune`
    Prune {
        /// How many days nothing of it has changed.
        days: u32,
        /// TPM state as well.
        tpm: bool,
        /// Really.
        yes: bool,
    },
    /// `seed grow`
    Grow {
        /// Which instance.
        which: Which,
        /// Processors.
        vcpus: Option<Vcpus>,
        /// Memory.
        memory: Option<MemoryMib>,
    },
    /// `seed tpm`
    Tpm {
        /// What to do.
        what: TpmCommand,
        /// Which instance.
        id: ContainerId,
        /// The file; `-` for standard output or input.
        file: PathBuf,
    },
    /// `seed metrics`
    Metrics(MetricsTo),
    /// `seed doctor`
    Doctor {
        /// Fail where no pod can be made.
        pods: bool,
    },
}

/// `seed tpm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TpmCommand {
    /// Write the identity to a file.
    Backup,
    /// Make the identity of a file.
    Restore,
}

/// Where `seed metrics` puts them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MetricsTo {
    /// Standard output.
    Stdout,
    /// Whoever asks for `/metrics` at this address.
    Listen(SocketAddr),
    /// A file for a node exporter.
    TextFile(PathBuf),
}

/// How far `seed run` waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitFor {
    /// systemd says that it is done, well or not.
    Running,
    /// Environment, volumes and identity are ready.
    Provisioned,
    /// The same as `Provisioned`, without a look at the status: Start has returned.
    None,
}

/// `seed run`.
#[derive(Debug)]
pub(crate) struct RunArgs {
    /// The root on the host.
    pub(crate) root: PathBuf,
    /// The toplevel inside it.
    pub(crate) toplevel: PathBuf,
    /// The instance's name; the closure's own where none is given.
    pub(crate) name: Option<ContainerId>,
    /// The named size.
    pub(crate) size: Option<String>,
    /// The accelerator.
    pub(crate) accel: Option<Accel>,
    /// `none` or `user`.
    pub(crate) network: Option<String>,
    /// Ports of the host that lead into it.
    pub(crate) publish: Vec<String>,
    /// More kernel parameters.
    pub(crate) kernel_params: Vec<String>,
    /// `NAME=value` and files of such lines, in order: a later one wins.
    pub(crate) env: Vec<EnvArg>,
    /// Volumes.
    pub(crate) volumes: Vec<VolumeArg>,
    /// How far to wait.
    pub(crate) wait: WaitFor,
}

/// One `--env` or `--env-file`.
#[derive(Debug)]
pub(crate) enum EnvArg {
    /// `NAME=value`.
    Assignment(String),
    /// A file of lines `NAME=value`.
    File(PathBuf),
}

/// `seed logs`.
#[derive(Debug)]
pub(crate) struct LogsArgs {
    /// Which instance.
    pub(crate) which: Which,
    /// How many entries; `None` for all.
    pub(crate) lines: Option<usize>,
    /// Go on with what comes.
    pub(crate) follow: bool,
    /// Which entries; the boot stands apart until the log was looked into.
    pub(crate) filter: Filter,
    /// Of which boot.
    pub(crate) boot: Option<Boot>,
    /// The journal of this `LogNamespace=`; the system's without.
    pub(crate) namespace: Option<JournalNamespace>,
    /// How to write them.
    pub(crate) form: Form,
}

/// `seed logs -b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Boot {
    /// That of this id.
    Id([u8; 16]),
    /// 0 the last, -1 the one before; 1 the first, 2 the one after it.
    Offset(i64),
}

/// `seed exec`.
#[derive(Debug)]
pub(crate) struct ExecArgs {
    /// Which instance.
    pub(crate) which: Which,
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// `NAME=value`.
    pub(crate) env: Vec<String>,
    /// The working directory.
    pub(crate) cwd: String,
    /// Pass on standard input.
    pub(crate) stdin: bool,
    /// Give it a terminal.
    pub(crate) terminal: bool,
}
