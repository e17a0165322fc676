//! Who sees what. A key sees the repositories whose `.authorized_keys` list it; a session's command sees those of
//! them whose line lets it.

use std::{fmt, net::IpAddr};

use jiff::Timestamp;
use russh::keys::PublicKey;
use seed_shim::names::ContainerId;
use thiserror::Error;

use crate::{
    instances::Instances,
    registry::{Grant, Registry, RegistryError, Repo},
};

/// Who is at the other end: proved by the connection.
#[derive(Debug, Clone)]
pub struct Who {
    /// The key.
    pub key: PublicKey,
    /// Where it comes from.
    pub address: IpAddr,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.fingerprint(Default::default());
        write!(f, "{key} from {}", self.address)
    }
}

/// What somebody may do now.
#[derive(Debug, Clone, Default)]
pub struct Access {
    grants: Vec<Grant>,
}

impl Access {
    /// Of this key, from this address, now.
    pub fn of(registry: &Registry, who: &Who) -> Result<Self, RegistryError> {
        let now = Timestamp::now();
        let mut grants = registry.grants(&who.key)?;
        grants.retain(|grant| grant.options.admit(who.address, now));
        Ok(Self { grants })
    }

    /// No repository lists the key, or none does so for here and now.
    pub fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }

    /// The command that is run whatever was asked for: where every line names the same one.
    pub fn forced(&self) -> Option<&str> {
        let mut commands = self
            .grants
            .iter()
            .map(|grant| grant.options.command.as_deref());
        let first = commands.next()??;
        commands.all(|other| other == Some(first)).then_some(first)
    }

    /// Whether a terminal is to be had: somebody with lines of his own needs one that allows it.
    pub fn allows_pty(&self) -> bool {
        self.grants.is_empty() || self.grants.iter().any(|grant| !grant.options.no_pty)
    }

    /// The repositories that this command sees, each once. A line with `command=` shows its own to that command
    /// alone.
    pub fn repos(&self, command: &str, terminal: bool) -> Vec<Repo> {
        let shown = |grant: &&Grant| {
            let options = &grant.options;
            let command = options
                .command
                .as_deref()
                .is_none_or(|only| only == command);
            command && !(terminal && options.no_pty)
        };
        let mut repos: Vec<Repo> = Vec::new();
        for grant in self.grants.iter().filter(shown) {
            if !repos.contains(&grant.repo) {
                repos.push(grant.repo.clone());
            }
        }
        repos
    }
}

/// One instance of a repository that its owner sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The repository.
    pub repo: Repo,
    /// The instance's name in it.
    pub name: ContainerId,
}

/// Why `[repo/]instance` names none.
#[derive(Debug, Error)]
pub enum PickError {
    /// Not a name.
    #[error("{0:?} is no name of an instance: write INSTANCE or REPO/INSTANCE")]
    Form(String),
    /// Nothing of that name that the key sees.
    #[error("there is no instance {0:?} that your key sees")]
    Unknown(String),
    /// No such repository that the key sees.
    #[error("there is no repository {0:?} that your key sees")]
    NoRepo(String),
    /// Several: which?
    #[error("{what:?} can mean several: {}", choices.join(", "))]
    Ambiguous {
        /// What was written.
        what: String,
        /// What can be written instead.
        choices: Vec<String>,
    },
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// How a repository is written so that no other one is meant.
pub fn label(repo: &Repo, repos: &[Repo]) -> String {
    let same = repos.iter().filter(|other| other.name == repo.name).count();
    if same > 1 {
        repo.namespace.to_string()
    } else {
        repo.name.clone()
    }
}

fn is_called(repo: &Repo, name: &str) -> bool {
    repo.name == name || repo.namespace.as_str() == name
}

/// The repositories of this name or namespace.
pub fn pick_repos(repos: &[Repo], name: &str) -> Result<Vec<Repo>, PickError> {
    let found: Vec<Repo> = repos
        .iter()
        .filter(|repo| is_called(repo, name))
        .cloned()
        .collect();
    if found.is_empty() {
        return Err(PickError::NoRepo(name.to_owned()));
    }
    Ok(found)
}

/// The one instance that is meant.
pub fn pick(
    repos: &[Repo],
    registry: &Registry,
    instances: &Instances,
    what: &str,
) -> Result<Target, PickError> {
    let form = || PickError::Form(what.to_owned());
    let (among, name) = match what.split_once('/') {
        Some((repo, name)) => (pick_repos(repos, repo)?, name),
        None => (repos.to_vec(), what),
    };
    let name = ContainerId::try_from(name).map_err(|_| form())?;
    let mut found = Vec::new();
    for repo in among {
        if instances.of(registry, &repo)?.contains(&name) {
            found.push(repo);
        }
    }
    let unknown = || PickError::Unknown(what.to_owned());
    match found.len() {
        0 => Err(unknown()),
        1 => found
            .pop()
            .map(|repo| Target { repo, name })
            .ok_or_else(unknown),
        _ => Err(PickError::Ambiguous {
            what: what.to_owned(),
            choices: found
                .iter()
                .map(|repo| format!("{}/{name}", label(repo, repos)))
                .collect(),
        }),
    }
}
