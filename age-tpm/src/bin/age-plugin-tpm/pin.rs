//! Asking for a new PIN, from the environment or on the terminal.
//!
//! Owns the terminal's echo while somebody types, and the PIN's bounds. It never prints or stores
//! a PIN. Follows termios(3).

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};

use age_core::secrecy::zeroize::Zeroizing;
use age_core::secrecy::{ExposeSecret, SecretString};
use age_tpm::plugin::PIN_ENV;
use age_tpm::tpm::MAX_PIN_BYTES;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::error::CliError;

const TERMINAL: &str = "/dev/tty";

/// The PIN for a new key.
pub(crate) fn new_pin() -> Result<SecretString, CliError> {
    let pin = match std::env::var(PIN_ENV) {
        Ok(pin) => SecretString::from(pin),
        Err(std::env::VarError::NotUnicode(_)) => {
            return Err(CliError::Pin {
                message: "AGE_TPM_PIN is not UTF-8".to_owned(),
            });
        }
        Err(std::env::VarError::NotPresent) => type_twice()?,
    };
    match pin.expose_secret().len() {
        0 => Err(CliError::Pin {
            message: "the PIN is empty".to_owned(),
        }),
        1..=MAX_PIN_BYTES => Ok(pin),
        len => Err(CliError::Pin {
            message: format!("the PIN has {len} bytes, more than the {MAX_PIN_BYTES} a TPM takes"),
        }),
    }
}

fn type_twice() -> Result<SecretString, CliError> {
    let no_terminal = |e: io::Error| CliError::Pin {
        message: format!("there is no terminal to ask on: {e}"),
    };
    let terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .open(TERMINAL)
        .map_err(no_terminal)?;
    let first = ask(&terminal, "PIN for the new key: ").map_err(no_terminal)?;
    let second = ask(&terminal, "The same PIN again: ").map_err(no_terminal)?;
    if first.expose_secret() != second.expose_secret() {
        return Err(CliError::Pin {
            message: "the two PINs differ".to_owned(),
        });
    }
    Ok(first)
}

fn ask(mut terminal: &File, question: &str) -> io::Result<SecretString> {
    terminal.write_all(question.as_bytes())?;
    let quiet = Quiet::start(terminal)?;
    let mut line = Zeroizing::new(String::new());
    let read = BufReader::new(terminal).read_line(&mut line);
    drop(quiet);
    terminal.write_all(b"\n")?;
    read?;
    Ok(SecretString::from(
        line.trim_end_matches(['\r', '\n']).to_owned(),
    ))
}

/// Echo is off while this lives.
struct Quiet<'t> {
    terminal: &'t File,
    before: Termios,
}

impl<'t> Quiet<'t> {
    fn start(terminal: &'t File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // Best effort: a terminal that is gone needs no echo.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}
