//! The command line: the Go plugin's flags, and a few more.
//!
//! Owns parsing, and what flags mean together. It does nothing of what they ask for; `commands`
//! does.

use std::ffi::OsString;
use std::path::PathBuf;

use age_tpm::held::socket_from_env;
use age_tpm::recipient::Spelling;
use age_tpm::tpm::{TCTI_ENV, Tcti, TctiError};
use lexopt::{Arg, ValueExt};

use crate::error::CliError;

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    /// Print the help text.
    Help,
    /// Print the version.
    Version,
    /// Speak the plugin protocol with an age client.
    StateMachine(String),
    /// Make an identity.
    Generate { with_pin: bool },
    /// Print the recipients of identities.
    Convert,
    /// Describe identities.
    List,
}

/// A command line that makes sense.
#[derive(Debug, PartialEq)]
pub(crate) struct Command {
    /// What is to be done.
    pub(crate) action: Action,
    /// File to read; `None` is stdin for convert, and the TPM's NV memory for list.
    pub(crate) input: Option<PathBuf>,
    /// File to write; `None` is stdout.
    pub(crate) output: Option<PathBuf>,
    /// The TPM; a bad address matters only to those actions that open it.
    pub(crate) tcti: Result<Tcti, TctiError>,
    /// Where a service may hold the key.
    pub(crate) socket: Option<PathBuf>,
    /// How recipients are written.
    pub(crate) spelling: Spelling,
}

/// Flags as they come, before they make sense together.
#[derive(Debug, Default)]
struct Flags {
    generate: bool,
    convert: bool,
    list: bool,
    pin: bool,
    tpm_recipient: bool,
    tag_recipient: bool,
    output: Option<PathBuf>,
    input: Option<PathBuf>,
    tcti: Option<String>,
    immediate: Option<Action>,
}

impl From<lexopt::Error> for CliError {
    fn from(e: lexopt::Error) -> Self {
        Self::Usage {
            message: e.to_string(),
        }
    }
}

/// Reads the command line; the first item is the program's name.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, CliError> {
    let mut flags = Flags::default();
    let mut parser = lexopt::Parser::from_iter(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('g') | Arg::Long("generate") => flags.generate = true,
            Arg::Short('y') | Arg::Long("convert") => flags.convert = true,
            Arg::Short('l') | Arg::Long("list") => flags.list = true,
            Arg::Short('o') | Arg::Long("output") => flags.output = Some(parser.value()?.into()),
            Arg::Short('p') | Arg::Long("pin") => flags.pin = true,
            Arg::Long("tpm-recipient") => flags.tpm_recipient = true,
            Arg::Long("tag-recipient") => flags.tag_recipient = true,
            Arg::Long("tcti") => flags.tcti = Some(parser.value()?.string()?),
            Arg::Long("age-plugin") => {
                flags.immediate = Some(Action::StateMachine(parser.value()?.string()?));
            }
            // The Go plugin accepts these and does nothing; scripts may carry them.
            Arg::Long("encrypt" | "decrypt") => {}
            Arg::Long("log-file") => drop(parser.value()?),
            Arg::Short('h') | Arg::Long("help") => flags.immediate = Some(Action::Help),
            Arg::Short('v') | Arg::Long("version") => flags.immediate = Some(Action::Version),
            Arg::Value(path) if flags.input.is_none() => flags.input = Some(path.into()),
            other => return Err(other.unexpected().into()),
        }
    }
    flags.check()
}

impl Flags {
    fn check(self) -> Result<Command, CliError> {
        let refuse = |message: &str| {
            Err(CliError::Usage {
                message: message.to_owned(),
            })
        };
        let spelling = match (self.tpm_recipient, self.tag_recipient) {
            (true, true) => {
                return refuse("--tpm-recipient and --tag-recipient exclude each other");
            }
            (true, false) => Spelling::Tpm,
            (false, _) => Spelling::Tag,
        };
        let action = match (self.immediate, self.generate, self.convert, self.list) {
            (Some(action), ..) => action,
            (None, true, false, false) => Action::Generate { with_pin: self.pin },
            (None, false, true, false) => Action::Convert,
            (None, false, false, true) => Action::List,
            (None, false, false, false) if self.input.is_some() => {
                return refuse("say what to do with the file, such as --convert");
            }
            (None, false, false, false) => Action::Help,
            _ => return refuse("--generate, --convert and --list exclude each other"),
        };
        if matches!(action, Action::Generate { .. }) && self.input.is_some() {
            return refuse("--generate takes no file; use -o for the output");
        }
        if self.pin && matches!(action, Action::Convert | Action::List) {
            return refuse("--pin goes with --generate");
        }
        let tpm_is_chosen = self.tcti.is_some() || std::env::var_os(TCTI_ENV).is_some();
        let not_dash = |path: &PathBuf| path.as_os_str() != "-";
        Ok(Command {
            action,
            input: self.input.filter(not_dash),
            output: self.output.filter(not_dash),
            socket: socket_from_env(tpm_is_chosen),
            tcti: self.tcti.map_or_else(Tcti::from_env, |text| text.parse()),
            spelling,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Command {
        parse(line.split(' ').map(OsString::from)).unwrap()
    }

    #[test]
    fn command_lines_of_the_go_plugin_mean_the_same() {
        let go = parsed("age-plugin-tpm -g -p -o key --log-file log --tpm-recipient");
        assert_eq!(go.action, Action::Generate { with_pin: true });
        assert_eq!(
            (go.output, go.spelling),
            (Some("key".into()), Spelling::Tpm)
        );
        let hidden = parsed("age-plugin-tpm --encrypt --decrypt --age-plugin=identity-v1");
        assert_eq!(
            hidden.action,
            Action::StateMachine("identity-v1".to_owned())
        );
        let stdin = parsed("age-plugin-tpm --convert - --output -");
        assert_eq!(
            (stdin.action, stdin.input, stdin.output),
            (Action::Convert, None, None)
        );
        assert_eq!(parsed("age-plugin-tpm").action, Action::Help);
    }
}
