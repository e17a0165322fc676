//! Processes that the host starts in the guest: `ctr task exec`, `kubectl exec`, `seed exec`.
//!
//! Each is a transient systemd service with a cgroup of its own, and ends with all of its processes. The
//! agent holds the other ends of its standard streams, and systemd a copy of each end: a pipe that is not read
//! holds the process up, nothing is lost, and an agent that starts again goes on where the last one was. Needs
//! the system bus; before that the answer is "not yet".
//!
//! | file | owns |
//! |---|---|
//! | [`command`] | what to run: the program's file, the environment, the user |
//! | [`stream`] | reading until the streams are truly drained, writing |
//! | [`terminal`] | the pseudo-terminal |
//! | [`spool`] | bytes that the host has not had yet, kept for the next agent |
//! | [`record`] | what the next agent needs to know of an exec |
//! | [`session`] | one process from its start to its exit status |
//! | [`run`] | programs that a request of the host's needs |
//! | [`table`] | all of them by id, and how many there may be |

mod command;
mod record;
mod run;
mod session;
mod spool;
mod stream;
mod table;
mod terminal;

use std::{io, time::Duration};

use thiserror::Error;

pub use self::{
    command::{ProcessSpec, User},
    record::Memory,
    run::Ran,
    table::{ExecKey, MAX_OPEN, MAX_RUNNING, Sessions},
    terminal::Size,
};
use crate::systemd::SystemdError;

/// Why a process could not be started or reached.
#[derive(Debug, Error)]
pub enum ExecError {
    /// A field of the process cannot be meant.
    #[error("exec {id}: {reason}")]
    Invalid {
        /// The exec's id.
        id: String,
        /// What is wrong.
        reason: String,
    },
    /// No file of that name in any directory of `PATH`. The words are the ones that container tools look
    /// for to exit with 127.
    #[error("exec: {0:?}: executable file not found in $PATH")]
    CommandNotFound(String),
    /// The named file does not exist: 127 as well.
    #[error("exec: {0:?}: no such file or directory")]
    NoSuchFile(String),
    /// The file is there and is no program: 126.
    #[error("exec: {0:?}: permission denied")]
    NotExecutable(String),
    /// There is one of that name already.
    #[error("exec {0} exists already")]
    Exists(String),
    /// There is none, or it ended so long ago that it is forgotten.
    #[error("exec {0} does not exist")]
    NotFound(String),
    /// It has ended.
    #[error("exec {0} has ended")]
    Ended(String),
    /// Its standard input is closed.
    #[error("the standard input of exec {0} is closed")]
    InputClosed(String),
    /// It has no terminal.
    #[error("exec {0} has no terminal")]
    NoTerminal(String),
    /// As many as there may be.
    #[error("{MAX_RUNNING} execs run already; end one first")]
    TooMany,
    /// As many as there may be, with those that have ended.
    #[error("{MAX_OPEN} execs hold output that nobody has read; read one to its end first")]
    Unread,
    /// A program that a request needs did not come to its end.
    #[error("{id} did not end within {} s", limit.as_secs())]
    TooLong {
        /// The program.
        id: String,
        /// The limit.
        limit: Duration,
    },
    /// A program that a request needs says more than an answer has room for.
    #[error("{id} says more than {most} bytes, which is more than an answer has room for")]
    TooMuch {
        /// The program.
        id: String,
        /// The room.
        most: usize,
    },
    /// systemd could not start it or said no.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// A stream failed.
    #[error("exec {id}: {what} failed")]
    Stream {
        /// The exec's id.
        id: String,
        /// What was done.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}
