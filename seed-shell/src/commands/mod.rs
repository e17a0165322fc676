//! What owners can ask for, one file a command. [`parse`] turns a line into a [`Command`]; a command asks, writes to
//! the session's output, and gives its exit status: 0 done, 1 failed, 2 not understood; `exec` passes on the
//! command's own, and has 255 for what is not its.

use std::time::Duration;

use seed_shim::{
    logs::{reader::ReadError, render::human::escaped},
    management::ClientError,
    text::chain,
};
use tokio::time::sleep;

use crate::{
    access::{self, Access, PickError, Target},
    registry::{RegistryError, Repo},
    ssh::{
        channel::{Request, Session},
        inbox::InboxError,
        output::Gone,
    },
    tui,
};

pub mod parse;

mod exec;
mod help;
mod keys;
pub mod logs;
mod plant;
pub mod restart;
pub mod status;

pub use parse::{Command, Invocation};

/// How often it is looked whether a key that watches something may still see it.
const RECHECK: Duration = Duration::from_secs(1);

/// Why a command failed: one line that says what, one that says what to do.
#[derive(Debug)]
pub struct Failure {
    what: String,
    remedy: String,
    status: u8,
}

impl Failure {
    /// With what to do about it.
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
            status: 1,
        }
    }

    /// A line that was not understood.
    pub fn usage(what: impl Into<String>) -> Self {
        Self {
            status: 2,
            ..Self::new(what, "Write 'help' for what can be written.")
        }
    }

    /// Both lines, escaped.
    pub fn text(&self) -> String {
        format!("{}\n  {}", escaped(&self.what), escaped(&self.remedy))
    }
}

impl From<Gone> for Failure {
    fn from(gone: Gone) -> Self {
        Self::new(gone.to_string(), "")
    }
}

impl From<InboxError> for Failure {
    fn from(error: InboxError) -> Self {
        Self::new(chain(&error), "Send less at a time.")
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        let remedy = match &error {
            RegistryError::Invite => "Ask whoever runs this host for another one.",
            RegistryError::Planted { .. } => {
                "To change its source, use 'replant'; its keys come with its .authorized_keys."
            }
            RegistryError::Namespace(_) => "Make another identity key.",
            RegistryError::Unknown(_) => "'status' lists what your key sees.",
            _ => "This is a failure of the host; tell whoever runs it.",
        };
        Self::new(chain(&error), remedy)
    }
}

impl From<PickError> for Failure {
    fn from(error: PickError) -> Self {
        let remedy = match &error {
            PickError::Form(_) => "'status' lists the names.",
            PickError::Unknown(_) | PickError::NoRepo(_) => {
                "'status' lists what your key sees; your key must be in the repository's .authorized_keys."
            }
            PickError::Ambiguous { .. } => "Write one of these.",
            PickError::Registry(_) => "This is a failure of the host; tell whoever runs it.",
        };
        Self::new(chain(&error), remedy)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let (what, remedy) = match &error {
            // Paths of the host are nothing to an owner.
            ClientError::Absent { .. } => ("the instance does not run", "'status' tells more."),
            ClientError::Denied { .. } | ClientError::Connect { .. } => (
                "the instance cannot be asked",
                "This is a failure of the host; tell whoever runs it.",
            ),
            ClientError::Refused { message, .. } => {
                return Self::new(message.clone(), "'status' tells how far it is.");
            }
            ClientError::Broken(_) => ("the instance does not answer", "Try again."),
        };
        tracing::debug!(error = %chain(&error), "instance not asked");
        Self::new(what, remedy)
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        tracing::warn!(error = %chain(&error), "log not read");
        Self::new(
            "the log cannot be read",
            "This is a failure of the host; tell whoever runs it.",
        )
    }
}

/// What a command has to go by.
#[derive(Debug)]
pub struct Context<'s> {
    /// The session.
    pub session: &'s Session,
    /// The line as it was written: what `command=` is compared with.
    pub line: &'s str,
    /// Answer in JSON.
    pub json: bool,
}

impl Context<'_> {
    /// The repositories that this session's command sees now.
    pub fn repos(&self) -> Result<Vec<Repo>, RegistryError> {
        let access = Access::of(&self.session.shared.registry, &self.session.who)?;
        Ok(access.repos(self.line, self.session.output.terminal()))
    }

    /// The one instance that `[repo/]instance` means.
    pub fn pick(&self, what: &str) -> Result<Target, Failure> {
        let shared = &self.session.shared;
        Ok(access::pick(
            &self.repos()?,
            &shared.registry,
            &shared.instances,
            what,
        )?)
    }

    /// Ends when the repository is not seen any more: its key was taken away, or its time is over.
    pub async fn until_revoked(&self, repo: &Repo) -> Failure {
        loop {
            sleep(RECHECK).await;
            match self.repos() {
                Ok(repos) if repos.iter().any(|seen| seen.namespace == repo.namespace) => {}
                Ok(_) => {
                    return Failure::new(
                        format!("your key no longer sees {}", repo.name),
                        "Its .authorized_keys has changed.",
                    );
                }
                Err(error) => return error.into(),
            }
        }
    }

    /// Runs work on an instance that goes on for long, as long as its repository is seen.
    pub async fn while_seen<F>(&self, repo: &Repo, work: F) -> Result<u8, Failure>
    where
        F: Future<Output = Result<u8, Failure>>,
    {
        tokio::select! {
            ended = work => ended,
            revoked = self.until_revoked(repo) => Err(revoked),
        }
    }
}

/// Does what was asked; the exit status.
pub async fn run(session: &Session, request: &Request) -> u8 {
    let line = match line(session, request) {
        Ok(line) => line,
        Err(failure) => return fail(session, &failure).await,
    };
    let ended = match line {
        None if session.output.terminal() => dashboard(session).await,
        None => help::help(session, false).await,
        Some(line) => command(session, &line).await,
    };
    match ended {
        Ok(status) => status,
        Err(failure) => fail(session, &failure).await,
    }
}

/// Who sees nothing gets help instead.
async fn dashboard(session: &Session) -> Result<u8, Failure> {
    let access = Access::of(&session.shared.registry, &session.who)?;
    if access.repos("", true).is_empty() {
        return help::help(session, false).await;
    }
    tui::run(session).await
}

/// What is to be run: the forced command, else what was asked for.
///
/// Whoever plants may list anybody's key. So another's line neither plants in its name, nor takes planting away, nor
/// brings a guest's bytes to a terminal that did not ask for them.
fn line(session: &Session, request: &Request) -> Result<Option<String>, Failure> {
    let access = Access::of(&session.shared.registry, &session.who)?;
    let asked = match request {
        Request::Exec(line) => Some(line.as_str()),
        Request::Shell => None,
    };
    let meant = |line: &str| parse::line(line).ok().map(|meant| meant.command);
    let plants = matches!(asked.and_then(meant), Some(Command::Plant(_)));
    let forced = access.forced().filter(|line| {
        let own = matches!(meant(line), Some(Command::Plant(_) | Command::Exec { .. }));
        !own && !plants
    });
    Ok(forced.or(asked).map(str::to_owned))
}

async fn fail(session: &Session, failure: &Failure) -> u8 {
    // Nobody is left to hear it, when that fails.
    for line in failure.text().lines() {
        let _ = session.output.complain(line).await;
    }
    failure.status
}

async fn command(session: &Session, line: &str) -> Result<u8, Failure> {
    let Invocation { command, json } = parse::line(line)?;
    let context = Context {
        session,
        line,
        json,
    };
    match command {
        Command::Help => help::help(session, json).await,
        Command::Status { repo, watch } => status::status(&context, repo.as_deref(), watch).await,
        Command::Logs {
            which,
            follow,
            lines,
        } => logs::logs(&context, &which, follow, lines).await,
        Command::Keys { which } => keys::keys(&context, &which).await,
        Command::Restart { which } => restart::restart(&context, &which).await,
        Command::Exec { which, command } => exec::exec(&context, &which, command).await,
        Command::Plant(planting) => plant::plant(&context, &planting).await,
        Command::Replant { identity, uri } => plant::replant(&context, &identity, &uri).await,
    }
}
