//! A program of the guest that a request needs, run to its end. It runs as an exec does, as a service of its
//! own: so it has what a service of the guest has, and not the agent's own narrow limits.

use std::time::Duration;

use tokio::{time::timeout, try_join};

use super::{ExecError, ProcessSpec, Sessions, User, session::Session};

/// How long such a program may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The most that it may say: what fits into one answer to the host.
const MAX_OUTPUT_BYTES: usize = 3 * 1024 * 1024;

/// One read.
const READ_BYTES: usize = 64 * 1024;

/// How a program ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit status, or 128 + the signal that ended it.
    pub status: i32,
    /// What it wrote to standard output.
    pub output: Vec<u8>,
    /// What it wrote to standard error.
    pub error: Vec<u8>,
}

impl Sessions {
    /// Runs a program of the guest as root, with this input, and waits for its end. Whoever gives this up gives
    /// up the answer only: the program comes to its end, or to its limit.
    pub async fn run(&self, arguments: &[&str], input: &[u8]) -> Result<Ran, ExecError> {
        let spec = ProcessSpec {
            arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
            environment: Vec::new(),
            directory: String::new(),
            user: User::Number { uid: 0, gid: None },
            no_new_privileges: false,
            terminal: None,
        };
        let id = arguments.first().copied().unwrap_or_default().to_owned();
        let (sessions, input) = (self.clone(), input.to_vec());
        let task = tokio::spawn(async move { sessions.run_whole(&spec, &input).await });
        // The task is ended by nobody but the runtime's own end.
        task.await.map_err(|_| ExecError::Ended(id))?
    }

    async fn run_whole(&self, spec: &ProcessSpec, input: &[u8]) -> Result<Ran, ExecError> {
        let id = spec.arguments.first().map_or("", String::as_str);
        let session = Session::start(id, self.unit_name()?, spec, &self.systemd, None).await?;
        let feed = async {
            // A program that ends before it has read everything has its reasons.
            let _ = session.write_input(input, None).await;
            session.close_input().await
        };
        let all = async {
            let ((), output, error) = try_join!(
                feed,
                all_of(id, || session.read_output(READ_BYTES, None)),
                all_of(id, || session.read_error(READ_BYTES, None))
            )?;
            let status = session.wait().await;
            Ok(Ran {
                status,
                output,
                error,
            })
        };
        let limit = LIMIT;
        let too_long = |_| ExecError::TooLong {
            id: id.to_owned(),
            limit,
        };
        let ran = timeout(limit, all).await.map_err(too_long).flatten();
        if ran.is_err() {
            session.end(&self.systemd).await;
        }
        ran
    }
}

/// Reads to the end. What an answer has no room for is an error: half of it would be a wrong answer.
async fn all_of<F>(id: &str, read: impl Fn() -> F) -> Result<Vec<u8>, ExecError>
where
    F: Future<Output = Result<Vec<u8>, ExecError>>,
{
    let mut all = Vec::new();
    loop {
        let part = read().await?;
        if part.is_empty() {
            return Ok(all);
        }
        all.extend(part);
        if all.len() > MAX_OUTPUT_BYTES {
            return Err(ExecError::TooMuch {
                id: id.to_owned(),
                most: MAX_OUTPUT_BYTES,
            });
        }
    }
}
