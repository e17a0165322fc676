//! Who has planted what: invites, repositories, their instances and keys, in one SQLite file.
//!
//! [`schema`] holds the tables and their migrations, [`invites`] and [`repos`] what is asked of them. Every change
//! is one transaction in a write-ahead log that is flushed before it counts, so a machine that stops in the
//! middle leaves either all of it or nothing. Several processes may use the file at once: the server, and
//! `seed-shell invite` beside it.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use rusqlite::Connection;
use rustix::fs::OFlags;
use thiserror::Error;

mod invites;
mod repos;
mod schema;

pub use invites::{Invite, InviteCode};
pub use repos::{Grant, Planting, Repo};

/// How long one waits for another process's transaction.
const BUSY: Duration = Duration::from_secs(5);

/// Why the registry did not do it.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// The file cannot be made.
    #[error("registry {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Written by a later release.
    #[error("registry has version {found}; this program knows {known}")]
    Version {
        /// The file's.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// SQLite.
    #[error("registry: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// There is no such invite, or it was used, or it is over.
    #[error("the invite code is unknown, was used already, or has expired")]
    Invite,
    /// The identity is there already.
    #[error("identity {cid} is planted already, as {name}")]
    Planted {
        /// The identity.
        cid: String,
        /// What it is called.
        name: String,
    },
    /// Another identity has the same namespace.
    #[error("another identity has namespace {0}")]
    Namespace(String),
    /// There is no such repository.
    #[error("there is no repository {0}")]
    Unknown(String),
}

/// The open registry.
#[derive(Debug)]
pub struct Registry {
    connection: Mutex<Connection>,
}

impl Registry {
    /// Opens the file, makes it (0600) where it is missing, and brings its tables up to date.
    pub fn open(path: &Path) -> Result<Self, RegistryError> {
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            // The folder is the service's, and root comes by: a link in it leads to a file of somebody else.
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(path);
        opened
            .and_then(|file| own_like_folder(&file, path))
            .map_err(|source| RegistryError::Open {
                path: path.into(),
                source,
            })?;
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        schema::migrate(&mut connection)?;
        Ok(Self {
            connection: Mutex::new(connection),
        })
    }

    /// SQLite's own state is whole after a panic: an open transaction is rolled back.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What root makes belongs to whom the folder belongs to: the service, which is not root, goes on with it.
fn own_like_folder(file: &File, path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path).metadata()?;
    if rustix::process::geteuid().is_root() && file.metadata()?.uid() != folder.uid() {
        let (user, group) = (folder.uid(), folder.gid());
        std::os::unix::fs::fchown(file, Some(user), Some(group))?;
    }
    Ok(())
}

fn now() -> i64 {
    Timestamp::now().as_second()
}

#[cfg(test)]
mod tests;
