//! A program of the guest that a request needs, run to its end. It runs as an exec does, as a service of its
//! own: so it has what a service of the guest has, and not the agent's own narrow limits.

use std::time::Duration;

use tokio::{join, time::timeout};

use super::{ExecError, ProcessSpec, Sessions, User, session::Session};

/// How long such a program may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The most that is kept of what it says: what fits into one answer to the host.
const MAX_OUTPUT_BYTES: usize = 3 * 1024 * 1024;

/// One read.
const READ_BYTES: usize = 64 * 1024;

/// `signal(7)`.
const SIGKILL: i32 = 9;

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
    /// Runs a program of the guest as root, with this input, and waits for its end.
    pub async fn run(&self, arguments: &[&str], input: &[u8]) -> Result<Ran, ExecError> {
        let spec = ProcessSpec {
            arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
            environment: Vec::new(),
            directory: String::new(),
            user: User::Number { uid: 0, gid: None },
            no_new_privileges: false,
            terminal: None,
        };
        let id = arguments.first().copied().unwrap_or_default();
        let session = Session::start(id, self.unit_name()?, &spec, &self.systemd, None).await?;
        let feed = async {
            // A program that ends before it has read everything has its reasons.
            let _ = session.write_input(input, None).await;
            session.close_input().await
        };
        let all = async {
            let (fed, output, error) = join!(
                feed,
                drain(|| session.read_output(READ_BYTES, None)),
                drain(|| session.read_error(READ_BYTES, None))
            );
            fed?;
            Ok(Ran {
                output: output?,
                error: error?,
                status: session.wait().await,
            })
        };
        match timeout(LIMIT, all).await {
            Ok(ran) => ran,
            Err(_) => {
                // Best effort: it is being given up.
                let _ = session.signal(SIGKILL, &self.systemd).await;
                Err(ExecError::TooLong {
                    id: id.to_owned(),
                    limit: LIMIT,
                })
            }
        }
    }
}

/// Reads to the end; what is too much is read and dropped.
async fn drain<F>(read: impl Fn() -> F) -> Result<Vec<u8>, ExecError>
where
    F: Future<Output = Result<Vec<u8>, ExecError>>,
{
    let mut all = Vec::new();
    loop {
        let part = read().await?;
        if part.is_empty() {
            return Ok(all);
        }
        let room = MAX_OUTPUT_BYTES - all.len();
        all.extend_from_slice(&part[..part.len().min(room)]);
    }
}
