//! What a person can ask for: make an identity, convert and list identities.
//!
//! Owns the texts that these print. It never does cryptography itself.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use age_core::secrecy::ExposeSecret;
use age_tpm::UtcTime;
use age_tpm::identity::{Identity, Pin, read_identities};
use age_tpm::key::TpmKey;
use age_tpm::plugin::Handler;
use age_tpm::provision::{NV_INDEX, stored, write_new};
use age_tpm::recipient::Spelling;
use age_tpm::tpm::{KeyOptions, Tcti, TctiError, Tpm, create_key};

use crate::cli::{Action, Command};
use crate::error::CliError;
use crate::pin::new_pin;

const HELP: &str = include_str!("help.txt");
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit that this was built from, where whoever built it said so.
const COMMIT: Option<&str> = option_env!("SEED_COMMIT");

/// Does what the command line says.
pub(crate) fn run(command: Command) -> Result<(), CliError> {
    let output = command.output.as_deref();
    match command.action {
        Action::Help => write_out(output, HELP),
        Action::Version => write_out(output, &version()),
        Action::StateMachine(machine) => {
            age_plugin::run_state_machine(&machine, Handler::new(command.tcti, command.socket))
                .map_err(CliError::Protocol)
        }
        Action::Generate { with_pin } => generate(command.tcti, with_pin, command.spelling, output),
        Action::Convert => {
            let identities = read(command.input.as_deref())?;
            let lines = identities
                .iter()
                .map(|i| i.recipient().to_text(command.spelling) + "\n");
            write_out(output, &lines.collect::<String>())
        }
        Action::List => {
            let text = match command.input {
                Some(path) => list(&read(Some(&path))?, command.tcti),
                None => list_stored(command.tcti)?,
            };
            write_out(output, &text)
        }
    }
}

fn version() -> String {
    match COMMIT {
        Some(commit) => format!("age-plugin-tpm {VERSION} ({commit})\n"),
        None => format!("age-plugin-tpm {VERSION}\n"),
    }
}

fn open(tcti: Result<Tcti, TctiError>) -> Result<Tpm, CliError> {
    Tpm::open(&tcti.map_err(CliError::Tcti)?).map_err(CliError::Tpm)
}

fn generate(
    tcti: Result<Tcti, TctiError>,
    with_pin: bool,
    spelling: Spelling,
    output: Option<&Path>,
) -> Result<(), CliError> {
    let pin = if with_pin { Some(new_pin()?) } else { None };
    let options = KeyOptions {
        pin: pin.as_ref().map(|pin| pin.expose_secret().as_bytes()),
    };
    let key = create_key(&mut open(tcti)?, options).map_err(CliError::Tpm)?;
    let identity = Identity::new(key, if with_pin { Pin::Required } else { Pin::None });
    write_out(output, &identity.to_file_text(UtcTime::now(), spelling))?;
    // The identity may go to stdout, so words to the person go to stderr; losing them is no harm.
    let _ = writeln!(
        io::stderr(),
        "Recipient: {}\nOnly this TPM can decrypt. Always encrypt to a second recipient, too: \
         a TPM can die or be cleared.",
        identity.recipient().to_text(spelling)
    );
    Ok(())
}

/// Reads the identities of a file or of stdin.
fn read(input: Option<&Path>) -> Result<Vec<Identity>, CliError> {
    let name = input.map_or_else(|| "stdin".to_owned(), |path| path.display().to_string());
    let source: Box<dyn Read> = match input {
        None => Box::new(io::stdin().lock()),
        Some(path) => match File::open(path) {
            Ok(file) => Box::new(file),
            Err(source) => return Err(CliError::OpenInput { name, source }),
        },
    };
    read_identities(source).map_err(|source| CliError::ReadInput { name, source })
}

/// Describes identities; whether this TPM has their keys is said where there is a TPM.
fn list(identities: &[Identity], tcti: Result<Tcti, TctiError>) -> String {
    let mut tpm = open(tcti);
    identities
        .iter()
        .map(|identity| describe(identity, tpm.as_mut()))
        .collect()
}

/// Describes what the TPM keeps.
fn list_stored(tcti: Result<Tcti, TctiError>) -> Result<String, CliError> {
    let mut tpm = open(tcti)?;
    Ok(match stored(&mut tpm).map_err(CliError::Tpm)? {
        Some(identity) => describe(&identity, Ok(&mut tpm)),
        None => format!("The TPM keeps no identity (NV index 0x{NV_INDEX:08x})\n"),
    })
}

fn describe(identity: &Identity, tpm: Result<&mut Tpm, &mut CliError>) -> String {
    let recipient = identity.recipient();
    let mut text = format!("{}\n", recipient.to_tag_text());
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<8} {value}");
    };
    line("also", &recipient.to_tpm_text());
    line(
        "format",
        if identity.parent().is_some() {
            "version 2"
        } else {
            "version 1"
        },
    );
    line(
        "PIN",
        if identity.pin() == Pin::Required {
            "asked for at each use"
        } else {
            "none"
        },
    );
    let lockout = match (identity.can_be_locked_out(), identity.pin()) {
        (false, _) => "cannot happen",
        (true, Pin::Required) => "after wrong PINs",
        (true, Pin::None) => "after power cuts, for the key was made without noDA",
    };
    line("lockout", lockout);
    let key = match tpm {
        Ok(tpm) => match TpmKey::load(tpm, identity, None) {
            Ok(_) => "of this TPM".to_owned(),
            Err(e) => e.to_string(),
        },
        Err(_) => "no TPM here to ask".to_owned(),
    };
    line("key", &key);
    text
}

/// Writes to a new file, or to stdout.
fn write_out(output: Option<&Path>, text: &str) -> Result<(), CliError> {
    let (name, written) = match output {
        Some(path) => (path.display().to_string(), write_new(path, text.as_bytes())),
        None => {
            let mut out = io::stdout().lock();
            (
                "stdout".to_owned(),
                out.write_all(text.as_bytes()).and_then(|()| out.flush()),
            )
        }
    };
    written.map_err(|source| CliError::WriteOutput { name, source })
}
