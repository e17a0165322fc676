//! The tables, and how older ones become them. A migration is never changed once it is released; a new one is
//! put behind it.

use rusqlite::{Connection, TransactionBehavior};

use super::RegistryError;

/// From version n to n + 1.
const MIGRATIONS: &[&str] = &["
CREATE TABLE repos (
    id INTEGER PRIMARY KEY,
    cid TEXT NOT NULL UNIQUE,
    namespace TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    uri TEXT NOT NULL,
    planted INTEGER NOT NULL,
    changed INTEGER NOT NULL
) STRICT;
CREATE TABLE instances (
    repo INTEGER NOT NULL REFERENCES repos(id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    PRIMARY KEY (repo, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE keys (
    repo INTEGER NOT NULL REFERENCES repos(id) ON DELETE CASCADE,
    line INTEGER NOT NULL,
    key BLOB NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (repo, line)
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_by_key ON keys(key);
CREATE TABLE invites (
    code BLOB PRIMARY KEY,
    note TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    used INTEGER,
    repo INTEGER REFERENCES repos(id) ON DELETE SET NULL
) STRICT, WITHOUT ROWID;
"];

/// Brings the tables up to date: all of it or nothing. Processes that start at once do it one after the other.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), RegistryError> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > known {
        return Err(RegistryError::Version { found, known });
    }
    let done = usize::try_from(found).unwrap_or(0);
    for migration in &MIGRATIONS[done..] {
        transaction.execute_batch(migration)?;
    }
    if found < known {
        transaction.pragma_update(None, "user_version", known)?;
    }
    transaction.commit()?;
    Ok(())
}
