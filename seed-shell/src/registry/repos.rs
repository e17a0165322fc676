//! Repositories, their instances and their keys.
//!
//! An instance belongs to a repository by its name alone; its namespace is always the repository's own, which
//! comes from the identity. So no repository can name another's instance.

use rusqlite::{OptionalExtension, Row, Transaction, TransactionBehavior, params};
use russh::keys::{PublicKey, ssh_key::public::KeyData};
use seed_shim::names::{ContainerId, Namespace};

use super::{Registry, RegistryError, invites, now};
use crate::{
    authorized_keys::{self, Entry, Options},
    identity::Cid,
    source::Source,
};

/// A repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repo {
    id: i64,
    /// Its identity.
    pub cid: String,
    /// Where its instances run.
    pub namespace: Namespace,
    /// What its owner calls it. Two may be called the same; the namespace tells them apart.
    pub name: String,
    /// Where it comes from.
    pub uri: String,
    /// When it was planted, seconds since the epoch.
    pub planted: i64,
}

/// What a key may do with a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The repository.
    pub repo: Repo,
    /// The options of the line that gives it.
    pub options: Options,
}

/// What is planted.
#[derive(Debug)]
pub struct Planting<'p> {
    /// The invite.
    pub code: &'p str,
    /// Whose it is.
    pub cid: &'p Cid,
    /// Where it comes from.
    pub source: &'p Source,
    /// Its instances, as far as they are known.
    pub instances: &'p [ContainerId],
    /// Its `.authorized_keys`.
    pub keys: &'p str,
}

const COLUMNS: &str = "repos.id, cid, namespace, repos.name, uri, planted";

fn repo(row: &Row<'_>) -> rusqlite::Result<Repo> {
    let namespace: String = row.get(2)?;
    let namespace = Namespace::try_from(namespace.as_str()).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(2, rusqlite::types::Type::Text, error.into())
    })?;
    Ok(Repo {
        id: row.get(0)?,
        cid: row.get(1)?,
        namespace,
        name: row.get(3)?,
        uri: row.get(4)?,
        planted: row.get(5)?,
    })
}

/// A key as it is stored: its algorithm and its bytes, without a comment.
fn bytes(key: &KeyData) -> Vec<u8> {
    PublicKey::from(key.clone()).to_bytes().unwrap_or_default()
}

impl Registry {
    /// Plants a repository: uses the invite up and records everything, or does nothing.
    pub fn plant(&self, planting: &Planting<'_>) -> Result<Repo, RegistryError> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let cid = planting.cid.to_string();
        let namespace = planting.cid.namespace();
        let taken: Option<(String, String)> = transaction
            .query_row(
                "SELECT cid, name FROM repos WHERE cid = ?1 OR namespace = ?2",
                params![cid, namespace.as_str()],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?;
        if let Some((other, name)) = taken {
            return Err(if other == cid {
                RegistryError::Planted { cid, name }
            } else {
                RegistryError::Namespace(namespace.to_string())
            });
        }
        transaction.execute(
            "INSERT INTO repos (cid, namespace, name, uri, planted, changed) VALUES (?1, ?2, ?3, ?4, ?5, ?5)",
            params![
                cid,
                namespace.as_str(),
                planting.source.name(),
                planting.source.as_str(),
                now()
            ],
        )?;
        let id = transaction.last_insert_rowid();
        invites::use_up(&transaction, planting.code, id)?;
        for name in planting.instances {
            add_instance(&transaction, id, name)?;
        }
        put_keys(&transaction, id, planting.keys)?;
        let planted = by_id(&transaction, id)?;
        transaction.commit()?;
        Ok(planted)
    }

    /// Every repository.
    pub fn repos(&self) -> Result<Vec<Repo>, RegistryError> {
        let connection = self.connection();
        let mut statement = connection.prepare(&format!(
            "SELECT {COLUMNS} FROM repos ORDER BY name, namespace"
        ))?;
        let rows = statement.query_map([], repo)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The repository of this identity or namespace; by its name only where one alone has it.
    pub fn repo(&self, which: &str) -> Result<Repo, RegistryError> {
        let unknown = || RegistryError::Unknown(which.to_owned());
        let all = self.repos()?;
        let exact = |repo: &&Repo| repo.cid == which || repo.namespace.as_str() == which;
        if let Some(repo) = all.iter().find(exact) {
            return Ok(repo.clone());
        }
        let mut named = all.into_iter().filter(|repo| repo.name == which);
        match (named.next(), named.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(unknown()),
        }
    }

    /// Gives a repository another source. Its identity, its namespace and its instances stay.
    pub fn replant(&self, repo: &Repo, source: &Source) -> Result<(), RegistryError> {
        self.connection().execute(
            "UPDATE repos SET uri = ?2, name = ?3, changed = ?4 WHERE id = ?1",
            params![repo.id, source.as_str(), source.name(), now()],
        )?;
        Ok(())
    }

    /// Replaces the keys of a repository by those of this `.authorized_keys`, whose lines were checked.
    pub fn authorize(&self, repo: &Repo, keys: &str) -> Result<(), RegistryError> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute("DELETE FROM keys WHERE repo = ?1", [repo.id])?;
        put_keys(&transaction, repo.id, keys)?;
        transaction.commit()?;
        Ok(())
    }

    /// Records an instance of a repository.
    pub fn add_instance(&self, repo: &Repo, name: &ContainerId) -> Result<(), RegistryError> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        add_instance(&transaction, repo.id, name)?;
        transaction.commit()?;
        Ok(())
    }

    /// The recorded instances of a repository.
    pub fn instances(&self, repo: &Repo) -> Result<Vec<ContainerId>, RegistryError> {
        let connection = self.connection();
        let mut statement =
            connection.prepare("SELECT name FROM instances WHERE repo = ?1 ORDER BY name")?;
        let names = statement.query_map([repo.id], |row| row.get::<_, String>(0))?;
        let names = names.collect::<Result<Vec<_>, _>>()?;
        // What is no name was not written by us, and names nothing.
        Ok(names
            .iter()
            .filter_map(|name| ContainerId::try_from(name.as_str()).ok())
            .collect())
    }

    /// What a key is given, by the lines that list it. Conditions in their options are the caller's to check.
    pub fn grants(&self, key: &PublicKey) -> Result<Vec<Grant>, RegistryError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(&format!(
            "SELECT {COLUMNS}, text FROM keys JOIN repos ON repos.id = keys.repo WHERE key = ?1
             ORDER BY repos.name, namespace, line"
        ))?;
        let rows = statement.query_map([bytes(key.key_data())], |row| {
            Ok((repo(row)?, row.get::<_, String>(6)?))
        })?;
        let mut grants = Vec::new();
        for row in rows {
            let (repo, text) = row?;
            // A line that an earlier release took and this one does not gives nothing.
            if let Ok(Entry { options, .. }) = authorized_keys::parse_line(&text) {
                grants.push(Grant { repo, options });
            }
        }
        Ok(grants)
    }
}

fn by_id(transaction: &Transaction<'_>, id: i64) -> Result<Repo, RegistryError> {
    let sql = format!("SELECT {COLUMNS} FROM repos WHERE id = ?1");
    Ok(transaction.query_row(&sql, [id], repo)?)
}

fn add_instance(
    transaction: &Transaction<'_>,
    repo: i64,
    name: &ContainerId,
) -> Result<(), RegistryError> {
    transaction.execute(
        "INSERT OR IGNORE INTO instances (repo, name) VALUES (?1, ?2)",
        params![repo, name.as_str()],
    )?;
    Ok(())
}

fn put_keys(transaction: &Transaction<'_>, repo: i64, text: &str) -> Result<(), RegistryError> {
    for (number, line) in (1i64..).zip(text.lines()) {
        if let Ok(entry) = authorized_keys::parse_line(line.trim()) {
            transaction.execute(
                "INSERT INTO keys (repo, line, key, text) VALUES (?1, ?2, ?3, ?4)",
                params![repo, number, bytes(entry.key.key_data()), line.trim()],
            )?;
        }
    }
    Ok(())
}
