//! The words of `seed-shell`, and the work on its registry.

use std::{
    ffi::OsString,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use lexopt::{
    Arg::{Long, Short, Value},
    Parser, ValueExt,
};
use seed_shell::{authorized_keys, registry::Registry};
use seed_shim::{names::ContainerId, text};

const USAGE: &str = "\
Usage: seed-shell [--config FILE] COMMAND

  serve                     the SSH server
  invite [--note WHO] [--days N]
                            make a code that plants one repository; valid for 7 days
  invites                   the codes that were made, without the codes
  repos                     what is planted
  authorize REPO FILE       replace a repository's .authorized_keys
  instance REPO NAME        record an instance of a repository
  --check-config            read the configuration and say what is wrong

REPO is a name, a namespace or an identity. The configuration is /etc/seed/shell.toml.
";

/// How long an invite is valid.
const DAYS: u64 = 7;
const MAX_DAYS: u64 = 366;

/// A command line that was understood.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) config: Option<PathBuf>,
    pub(crate) action: Action,
}

#[derive(Debug)]
pub(crate) enum Action {
    /// Print this.
    Text(String),
    CheckConfig,
    Serve,
    Manage(Task),
}

/// Work on the registry.
#[derive(Debug)]
pub(crate) enum Task {
    Invite { note: String, days: u64 },
    Invites,
    Repos,
    Authorize { repo: String, file: PathBuf },
    Instance { repo: String, name: ContainerId },
}

pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation> {
    let mut parser = Parser::from_iter(args);
    let mut config = None;
    let mut note = String::new();
    let mut days = DAYS;
    let mut check = false;
    let mut words = Vec::new();
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => {
                let action = Action::Text(USAGE.to_owned());
                return Ok(Invocation { config, action });
            }
            Long("version") => {
                let action = Action::Text(seed_protocol::version::line("seed-shell"));
                return Ok(Invocation { config, action });
            }
            Long("config") => config = Some(PathBuf::from(parser.value()?)),
            Long("check-config") => check = true,
            Long("note") => note = parser.value()?.string()?,
            Long("days") => days = parser.value()?.parse()?,
            Value(word) => words.push(word.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    if !(1..=MAX_DAYS).contains(&days) {
        bail!("--days {days}: from 1 to {MAX_DAYS}");
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let action = match words.as_slice() {
        [] if check => Action::CheckConfig,
        ["serve"] => Action::Serve,
        ["invite"] => Action::Manage(Task::Invite { note, days }),
        ["invites"] => Action::Manage(Task::Invites),
        ["repos"] => Action::Manage(Task::Repos),
        ["authorize", repo, file] => Action::Manage(Task::Authorize {
            repo: (*repo).into(),
            file: file.into(),
        }),
        ["instance", repo, name] => Action::Manage(Task::Instance {
            repo: (*repo).into(),
            name: ContainerId::try_from(*name)?,
        }),
        [] => bail!("which command?\n\n{USAGE}"),
        other => bail!("{:?} is not understood\n\n{USAGE}", other.join(" ")),
    };
    Ok(Invocation { config, action })
}

/// Does it; what is to be printed.
pub(crate) fn manage(registry: &Registry, task: Task) -> Result<String> {
    match task {
        Task::Invite { note, days } => {
            let valid = Duration::from_secs(days * 86_400);
            Ok(format!("{}\n", registry.invite(&note, valid)?))
        }
        Task::Invites => invites(registry),
        Task::Repos => repos(registry),
        Task::Authorize { repo, file } => authorize(registry, &repo, &file),
        Task::Instance { repo, name } => {
            let repo = registry.repo(&repo)?;
            registry.add_instance(&repo, &name)?;
            Ok(String::new())
        }
    }
}

fn authorize(registry: &Registry, repo: &str, file: &Path) -> Result<String> {
    let repo = registry.repo(repo)?;
    let keys = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let mut text = String::new();
    for (number, line) in authorized_keys::parse(&keys)? {
        if let Err(error) = line {
            writeln!(text, "line {number} gives no access: {error}")?;
        }
    }
    registry.authorize(&repo, &keys)?;
    Ok(text)
}

fn invites(registry: &Registry) -> Result<String> {
    let mut rows = vec![["NOTE", "EXPIRES", "USED", "REPO"].map(str::to_owned)];
    for invite in registry.invites()? {
        let used = invite.used.map_or_else(|| "-".to_owned(), date);
        let repo = invite.repo.unwrap_or_else(|| "-".to_owned());
        rows.push([invite.note, date(invite.expires), used, repo]);
    }
    Ok(text::table(0, &rows))
}

fn repos(registry: &Registry) -> Result<String> {
    let mut rows = vec![["REPO", "NAMESPACE", "PLANTED", "SOURCE", "IDENTITY"].map(str::to_owned)];
    for repo in registry.repos()? {
        let namespace = repo.namespace.to_string();
        rows.push([repo.name, namespace, date(repo.planted), repo.uri, repo.cid]);
    }
    Ok(text::table(0, &rows))
}

fn date(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(
        |_| "-".to_owned(),
        |time| time.strftime("%Y-%m-%d %H:%M").to_string(),
    )
}
