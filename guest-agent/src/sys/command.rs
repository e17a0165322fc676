//! Runs a small program to its end, with a limit on its time and on what is kept of its words.

use std::{
    ffi::OsStr,
    io::{self, Read},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use thiserror::Error;

/// How much of a program's output is kept.
const MAX_OUTPUT_BYTES: u64 = 400;

/// How often a program is looked at, while it runs.
const POLL: Duration = Duration::from_millis(5);

/// Why a program could not be run.
#[derive(Debug, Error)]
pub enum CommandError {
    /// It could not be started.
    #[error("{program} cannot be started: {source}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It took too long and was killed.
    #[error("{program} did not end within {} s", limit.as_secs())]
    Timeout {
        /// The program.
        program: String,
        /// The limit.
        limit: Duration,
    },
    /// It could not be waited for.
    #[error("{program} cannot be waited for: {source}")]
    Wait {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// The beginning of what it wrote, on one line.
    pub words: String,
}

/// Runs `program` without input. Blocks until it has ended or `limit` is over.
pub fn run<A: AsRef<OsStr>>(
    program: &str,
    arguments: &[A],
    limit: Duration,
) -> Result<Ended, CommandError> {
    let starting = |source| CommandError::Start {
        program: program.to_owned(),
        source,
    };
    let (reader, writer) = io::pipe().map_err(starting)?;
    let mut child = {
        // The command holds the writing ends; they must be gone before the reader can see the end.
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        command
            .stdout(writer.try_clone().map_err(starting)?)
            .stderr(writer);
        command.spawn().map_err(starting)?
    };
    let words = thread::spawn(move || beginning(reader));
    let waited = match wait(&mut child, limit) {
        Ok(Some(status)) => Ok(status),
        Ok(None) => Err(CommandError::Timeout {
            program: program.to_owned(),
            limit,
        }),
        Err(source) => Err(CommandError::Wait {
            program: program.to_owned(),
            source,
        }),
    };
    match waited {
        Ok(status) => {
            let words = words.join().unwrap_or_default();
            Ok(Ended { status, words })
        }
        Err(error) => {
            // Best effort: it is being given up, and its words with it.
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

/// How a child ended; `None` when it still runs after `limit`. Blocks until then.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        let status = child.try_wait()?;
        if status.is_some() || Instant::now() >= deadline {
            return Ok(status);
        }
        thread::sleep(POLL);
    }
}

/// The beginning of a stream as one line; the rest is read and dropped, so that the writer never stalls.
fn beginning(mut stream: impl Read) -> String {
    let mut kept = Vec::new();
    let _ = stream
        .by_ref()
        .take(MAX_OUTPUT_BYTES)
        .read_to_end(&mut kept);
    let _ = io::copy(&mut stream, &mut io::sink());
    let text = String::from_utf8_lossy(&kept);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn status_and_words_come_back() {
        let ended = run("sh", &["-c", "echo no; echo way >&2; exit 4"], LIMIT).unwrap();
        assert_eq!(
            (ended.status.code(), ended.words.as_str()),
            (Some(4), "no way")
        );
    }

    #[test]
    fn a_program_that_writes_too_much_still_ends() {
        let ended = run(
            "sh",
            &["-c", "yes | head -c 1000000; yes | head -c 1000000 >&2"],
            LIMIT,
        )
        .unwrap();
        assert!(ended.status.success());
        assert!(ended.words.len() <= 400);
    }

    #[test]
    fn a_program_that_is_missing_or_slow_is_named() {
        let error = run::<&str>("seed-no-such-program", &[], LIMIT).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("seed-no-such-program cannot be started")
        );
        let error = run("sleep", &["60"], Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, CommandError::Timeout { .. }));
    }
}
