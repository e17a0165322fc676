//! What a person sees when a command fails: one line on what, and one on what to do.
//!
//! Owns the wording of the program's own errors. Each has a golden test in `tests/cmd`.

use std::fmt;
use std::io;

use age_tpm::identity::IdentityFileError;
use age_tpm::tpm::{TctiError, TpmError};

/// Why the program stops.
#[derive(Debug)]
pub(crate) enum CliError {
    /// The command line makes no sense.
    Usage { message: String },
    /// The TPM address makes no sense.
    Tcti(TctiError),
    /// The TPM failed.
    Tpm(TpmError),
    /// A file could not be read.
    ReadInput {
        name: String,
        source: IdentityFileError,
    },
    /// A file could not be opened.
    OpenInput { name: String, source: io::Error },
    /// The output could not be written.
    WriteOutput { name: String, source: io::Error },
    /// The PIN is unusable or missing.
    Pin { message: String },
    /// The conversation with the age client broke.
    Protocol(io::Error),
}

impl std::error::Error for CliError {}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let say = |f: &mut fmt::Formatter<'_>, what: &dyn fmt::Display, hint: Option<&str>| {
            writeln!(f, "Error: {what}")?;
            hint.map_or(Ok(()), |hint| writeln!(f, "  {hint}"))
        };
        match self {
            Self::Usage { message } => say(f, message, Some("try: age-plugin-tpm --help")),
            Self::Tcti(e) => say(
                f,
                e,
                Some("give a device such as /dev/tpmrm0, or swtpm:path=/run/swtpm.sock"),
            ),
            Self::Tpm(e) => {
                let mut what = e.to_string();
                let mut cause = std::error::Error::source(e);
                while let Some(e) = cause {
                    what = format!("{what}: {e}");
                    cause = e.source();
                }
                say(f, &what, e.remedy().as_deref())
            }
            Self::ReadInput { name, source } => {
                let what = match source {
                    IdentityFileError::Line { line, source } => {
                        format!("cannot use {name}, line {line}: {source}")
                    }
                    IdentityFileError::Read(e) => format!("cannot read {name}: {e}"),
                    other => format!("cannot use {name}: {other}"),
                };
                say(
                    f,
                    &what,
                    Some("give a file that age-plugin-tpm --generate has made"),
                )
            }
            Self::OpenInput { name, source } => {
                say(f, &format_args!("cannot open {name}: {source}"), None)
            }
            Self::WriteOutput { name, source } => {
                let hint = (source.kind() == io::ErrorKind::AlreadyExists)
                    .then_some("an existing key is never overwritten; choose another name");
                say(f, &format_args!("cannot write {name}: {source}"), hint)
            }
            Self::Pin { message } => say(
                f,
                message,
                Some("set AGE_TPM_PIN, or run this on a terminal and type it"),
            ),
            Self::Protocol(e) => say(
                f,
                &format_args!("the conversation with the age client broke: {e}"),
                None,
            ),
        }
    }
}
