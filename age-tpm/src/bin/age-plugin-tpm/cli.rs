//! The command line: the Go plugin's flags, and a few more.
//!
//! Owns parsing and the user's commands (generate, convert). It never does cryptography itself.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use age_core::secrecy::{ExposeSecret, SecretString};
use age_tpm::UtcTime;
use age_tpm::identity::{Identity, Pin, read_identities};
use age_tpm::plugin::Handler;
use age_tpm::provision::write_new;
use age_tpm::recipient::Spelling;
use age_tpm::tpm::{KeyOptions, Tcti, TctiError, Tpm, create_key};
use lexopt::{Arg, ValueExt};

use crate::error::CliError;
use crate::pin::new_pin;

const HELP: &str = include_str!("help.txt");

/// What is to be done.
#[derive(Debug)]
enum Action {
    Help,
    Version,
    StateMachine(String),
    Generate {
        output: Option<PathBuf>,
        with_pin: bool,
    },
    Convert {
        input: Option<PathBuf>,
        output: Option<PathBuf>,
    },
}

/// A parsed command line.
#[derive(Debug)]
pub(crate) struct Command {
    action: Action,
    tcti: Result<Tcti, TctiError>,
    spelling: Spelling,
}

/// Flags as they come, before they make sense together.
#[derive(Debug, Default)]
struct Flags {
    generate: bool,
    convert: bool,
    pin: bool,
    output: Option<PathBuf>,
    input: Option<PathBuf>,
    tcti: Option<String>,
    tpm_recipient: bool,
    tag_recipient: bool,
    machine: Option<String>,
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
            Arg::Short('o') | Arg::Long("output") => {
                flags.output =
                    Some(PathBuf::from(parser.value()?)).filter(|p| p.as_os_str() != "-");
            }
            Arg::Short('p') | Arg::Long("pin") => flags.pin = true,
            Arg::Long("tpm-recipient") => flags.tpm_recipient = true,
            Arg::Long("tag-recipient") => flags.tag_recipient = true,
            Arg::Long("tcti") => flags.tcti = Some(parser.value()?.string()?),
            Arg::Long("age-plugin") => flags.machine = Some(parser.value()?.string()?),
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
        let usage = |message: &str| CliError::Usage {
            message: message.to_owned(),
        };
        let spelling = match (self.tpm_recipient, self.tag_recipient) {
            (true, true) => {
                return Err(usage(
                    "--tpm-recipient and --tag-recipient exclude each other",
                ));
            }
            (true, false) => Spelling::Tpm,
            (false, _) => Spelling::Tag,
        };
        let action = if let Some(action) = self.immediate {
            action
        } else if let Some(machine) = self.machine {
            Action::StateMachine(machine)
        } else {
            match (self.generate, self.convert) {
                (true, true) => {
                    return Err(usage("--generate and --convert exclude each other"));
                }
                (false, _) if self.pin => {
                    return Err(usage("--pin goes with --generate"));
                }
                (true, false) if self.input.is_some() => {
                    return Err(usage("--generate takes no file; use -o for the output"));
                }
                (true, false) => Action::Generate {
                    output: self.output,
                    with_pin: self.pin,
                },
                (false, true) => Action::Convert {
                    input: self.input,
                    output: self.output,
                },
                (false, false) if self.input.is_some() => {
                    return Err(usage("say what to do with the file, such as --convert"));
                }
                (false, false) => Action::Help,
            }
        };
        let tcti = match self.tcti {
            Some(text) => text.parse(),
            None => Tcti::from_env(),
        };
        Ok(Command {
            action,
            tcti,
            spelling,
        })
    }
}

/// Does what the command line says.
pub(crate) fn run(command: Command) -> Result<(), CliError> {
    match command.action {
        Action::Help => write_out(None, HELP.as_bytes()),
        Action::Version => write_out(
            None,
            concat!("age-plugin-tpm ", env!("CARGO_PKG_VERSION"), "\n").as_bytes(),
        ),
        Action::StateMachine(machine) => {
            age_plugin::run_state_machine(&machine, Handler::new(command.tcti))
                .map_err(CliError::Protocol)
        }
        Action::Generate { output, with_pin } => {
            let pin = if with_pin { Some(new_pin()?) } else { None };
            let mut tpm =
                Tpm::open(&command.tcti.map_err(CliError::Tcti)?).map_err(CliError::Tpm)?;
            generate(&mut tpm, pin.as_ref(), command.spelling, output.as_ref())
        }
        Action::Convert { input, output } => convert(input, output, command.spelling),
    }
}

fn generate(
    tpm: &mut Tpm,
    pin: Option<&SecretString>,
    spelling: Spelling,
    output: Option<&PathBuf>,
) -> Result<(), CliError> {
    let options = KeyOptions {
        pin: pin.map(|pin| pin.expose_secret().as_bytes()),
    };
    let key = create_key(tpm, options).map_err(CliError::Tpm)?;
    let identity = Identity::new(
        key,
        if pin.is_some() {
            Pin::Required
        } else {
            Pin::None
        },
    );
    let text = identity.to_file_text(UtcTime::now(), spelling);
    write_out(output, text.as_bytes())?;
    // The identity may go to stdout, so words to the person go to stderr; losing them is no harm.
    let _ = writeln!(
        io::stderr(),
        "Recipient: {}\nOnly this TPM can decrypt. Always encrypt to a second recipient, too: a TPM can die or be cleared.",
        identity.recipient().to_text(spelling)
    );
    Ok(())
}

fn convert(
    input: Option<PathBuf>,
    output: Option<PathBuf>,
    spelling: Spelling,
) -> Result<(), CliError> {
    let input = input.filter(|p| p.as_os_str() != "-");
    let name = input
        .as_ref()
        .map_or_else(|| "stdin".to_owned(), |p| p.display().to_string());
    let source: Box<dyn Read> = match &input {
        None => Box::new(io::stdin().lock()),
        Some(path) => Box::new(File::open(path).map_err(|source| CliError::OpenInput {
            name: name.clone(),
            source,
        })?),
    };
    let identities =
        read_identities(source).map_err(|source| CliError::ReadInput { name, source })?;
    let text: String = identities
        .iter()
        .map(|identity| identity.recipient().to_text(spelling) + "\n")
        .collect();
    write_out(output.as_ref(), text.as_bytes())
}

/// Writes to a new file, or to stdout.
fn write_out(output: Option<&PathBuf>, text: &[u8]) -> Result<(), CliError> {
    let (name, written) = match output {
        Some(path) => (path.display().to_string(), write_new(path, text)),
        None => {
            let mut out = io::stdout().lock();
            (
                "stdout".to_owned(),
                out.write_all(text).and_then(|()| out.flush()),
            )
        }
    };
    written.map_err(|source| CliError::WriteOutput { name, source })
}
