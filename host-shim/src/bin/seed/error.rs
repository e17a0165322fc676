//! What the user sees when something fails: one line that says what and which, one that says what to do.
//! Wording lives here and nowhere else in this program.

use std::{error::Error, fmt, io};

use containerd_shim_protos::ttrpc::Code;
use seed_shim::{
    config::ConfigError,
    containerd::{
        InstanceError, exec::ExecError, shim::ShimError, task::TaskError, volumes::VolumeArgError,
    },
    data::json_line,
    logs::{reader::ReadError, render::human::escaped},
    management::ClientError,
    names::NameError,
    text::chain,
};
use serde_json::json;

/// A failure of this program itself while a command runs in the guest, as in docker(1) and env(1).
pub(crate) const EXEC_FAILED: u8 = 125;

/// The command exists and cannot be run.
pub(crate) const EXEC_DENIED: u8 = 126;

/// There is no such command.
pub(crate) const EXEC_MISSING: u8 = 127;

/// Ended by Ctrl-C: 128 and the signal's number, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;

/// The same for SIGTERM.
pub(crate) const TERMINATED: u8 = 143;

/// How the message of a call ends that met a full disk in the shim (strerror(3)).
const FULL: &str = "No space left on device";

/// A failure, ready to be shown.
#[derive(Debug)]
pub(crate) struct CliError {
    what: String,
    remedy: String,
    code: u8,
}

impl CliError {
    /// A failure with what to do about it.
    pub(crate) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
            code: 1,
        }
    }

    /// A command line that was not understood.
    pub(crate) fn usage(what: impl Into<String>, command: &str) -> Self {
        let separator = if command.is_empty() { "" } else { " " };
        let remedy = format!("See 'seed{separator}{command} --help'.");
        Self {
            what: what.into(),
            remedy,
            code: 2,
        }
    }

    /// A failure of the machine: nothing in particular can be advised.
    pub(crate) fn failure(what: &str, cause: &dyn Error) -> Self {
        let remedy = "This is a failure of the machine, not of the command; try again.";
        Self::new(format!("{what}: {}", chain(cause)), remedy)
    }

    /// The same with another exit status.
    pub(crate) fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// The exit status.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// The same as data, on one line.
    pub(crate) fn json(&self) -> String {
        let Self { what, remedy, code } = self;
        json_line(&json!({ "error": what, "remedy": remedy, "status": code }))
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Parts may come from a guest.
        for (number, line) in self.what.lines().enumerate() {
            writeln!(
                f,
                "{}{}",
                if number == 0 { "seed: " } else { "  " },
                escaped(line)
            )?;
        }
        writeln!(f, "  {}", escaped(&self.remedy))
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        Self::failure("output", &error)
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::new(
            chain(&error),
            "Mend the file, or name another one in SEED_CONFIG.",
        )
    }
}

impl From<NameError> for CliError {
    fn from(error: NameError) -> Self {
        Self::new(chain(&error), "Choose another name.").with_code(2)
    }
}

impl From<VolumeArgError> for CliError {
    fn from(error: VolumeArgError) -> Self {
        let remedy =
            "Write --volume NAME=SIZE[:MOUNTPOINT][,user=U][,group=G][,mode=M], such as data=64Mi.";
        Self::new(chain(&error), remedy).with_code(2)
    }
}

impl From<ReadError> for CliError {
    fn from(error: ReadError) -> Self {
        Self::new(
            chain(&error),
            "A later release may have written it; else it is damaged, and removing that file helps.",
        )
    }
}

impl From<InstanceError> for CliError {
    fn from(error: InstanceError) -> Self {
        let what = chain(&error);
        let remedy = match error {
            InstanceError::Busy(id) => {
                format!("Try again when it is done: 'seed status {id}' tells how far it is.")
            }
            InstanceError::Running(id) => {
                format!("Choose another --name, or stop it first: seed stop {id}")
            }
            InstanceError::Starting(id) => {
                format!("See how far it is with 'seed status {id}', or end it: seed stop {id}")
            }
            InstanceError::Ended(id) | InstanceError::Left(id) => {
                format!(
                    "Start it again with 'seed restart {id}', or clean up with 'seed stop {id}'."
                )
            }
            InstanceError::Hung(id) => {
                format!("Try again later, or end it and its guest at once: seed stop {id} --kill")
            }
            InstanceError::Foreign(_) => "Use what started it: ctr, crictl or kubectl.".into(),
            InstanceError::Unknown { .. } => "'seed ps' lists what there is.".into(),
            InstanceError::StillRunning(id) => format!("Stop it first: seed stop {id}"),
            InstanceError::Io { source, .. } => permission(&source).into(),
            InstanceError::Record(_) => {
                "Remove that file if it is damaged; volumes and TPM state are elsewhere.".into()
            }
            InstanceError::Bundle(error) => permission(&error.source).into(),
            InstanceError::Image(error) => permission(&error.source).into(),
            InstanceError::Overlay(_) => "Move it to a path without them.".into(),
            InstanceError::Shim(error) => shim_remedy(&error).into(),
            // The shim has taken back what it began.
            InstanceError::Task(TaskError::Refused { .. }) if what.contains("console log") => {
                "Nothing else was left behind; look there why it did not come up.".into()
            }
            InstanceError::Task(TaskError::Refused { .. }) if what.ends_with(FULL) => {
                "Make room on that file system; nothing was left behind.".into()
            }
            InstanceError::Task(TaskError::Refused { .. }) => {
                "Nothing was left behind; mend that and try again.".into()
            }
            InstanceError::Task(error) => task_remedy(&error).into(),
        };
        Self::new(what, remedy)
    }
}

impl From<ShimError> for CliError {
    fn from(error: ShimError) -> Self {
        Self::new(chain(&error), shim_remedy(&error))
    }
}

impl From<ExecError> for CliError {
    fn from(error: ExecError) -> Self {
        let what = chain(&error);
        let (remedy, code) = match &error {
            ExecError::Io { source, .. } => (permission(source), EXEC_FAILED),
            ExecError::Task(error) => match (exec_status(&what), error) {
                (EXEC_MISSING, _) => ("Check its name and the guest's PATH.", EXEC_MISSING),
                (EXEC_DENIED, _) => ("Check its mode in the guest.", EXEC_DENIED),
                (code, TaskError::Refused { .. }) => {
                    ("'seed status' tells how the instance is.", code)
                }
                (code, error) => (task_remedy(error), code),
            },
        };
        // The name of the call between shim and agent says nothing to a user.
        let what = what.strip_prefix("ExecProcess: ").unwrap_or(&what);
        Self::new(what, remedy).with_code(code)
    }
}

/// The exit status by the words that container tools agree on (and Kata, and CRI's clients).
fn exec_status(message: &str) -> u8 {
    if !message.contains("exec: ") {
        EXEC_FAILED
    } else if message.contains("executable file not found")
        || message.ends_with("no such file or directory")
    {
        EXEC_MISSING
    } else if message.ends_with("permission denied") {
        EXEC_DENIED
    } else {
        EXEC_FAILED
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let remedy = match &error {
            ClientError::Absent { .. } => "Its shim does not run: 'seed restart' starts it again.",
            ClientError::Denied { .. } => "Ask as root, or as the user who started it.",
            ClientError::Connect { .. } | ClientError::Broken(_) => {
                "Try again; 'seed ps' tells whether it runs."
            }
            ClientError::Refused {
                code: Code::FAILED_PRECONDITION | Code::UNAVAILABLE,
                ..
            } => "'seed status' tells how far it is.",
            ClientError::Refused { .. } => "'seed status' and 'seed logs' tell more.",
        };
        Self::new(chain(&error), remedy)
    }
}

fn permission(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "Run it as root.",
        io::ErrorKind::StorageFull => "Make room on that file system.",
        io::ErrorKind::ReadOnlyFilesystem => {
            "Name other folders in the shim's configuration (run_dir, state_dir)."
        }
        _ => "'seed doctor' looks at what this machine lacks.",
    }
}

fn shim_remedy(error: &ShimError) -> &'static str {
    match error {
        ShimError::Missing => "Install both programs in one folder, or put the shim's into PATH.",
        _ => "'seed doctor' looks at what this machine lacks.",
    }
}

fn task_remedy(error: &TaskError) -> &'static str {
    match error {
        TaskError::Absent(_) | TaskError::Broken { .. } => "'seed restart' starts it again.",
        TaskError::Refused { .. } => "'seed doctor' looks at what this machine lacks.",
        _ => "Try again; 'seed ps' tells whether it runs.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_is_missing_is_127_and_one_that_is_no_program_126() {
        let status = |message: &str| {
            let message = message.to_owned();
            let code = Code::FAILED_PRECONDITION;
            let error = CliError::from(ExecError::from(TaskError::Refused { code, message }));
            (error.code(), error.what)
        };
        let missing = r#"exec: "nope": executable file not found in $PATH"#;
        assert_eq!(
            status(&format!("ExecProcess: {missing}")),
            (127, missing.into())
        );
        assert_eq!(status(r#"exec: "/x": no such file or directory"#).0, 127);
        assert_eq!(status(r#"exec: "/etc/passwd": permission denied"#).0, 126);
        assert_eq!(status("the guest is not provisioned yet").0, 125);
    }
}
