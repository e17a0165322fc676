//! Invites: codes that plant one repository each, until a time. The registry keeps their hashes, so that whoever
//! reads it cannot plant.

use std::{fmt, time::Duration};

use rand::RngCore;
use rusqlite::{Transaction, params};
use sha2::{Digest, Sha256};

use super::{Registry, RegistryError, now};
use crate::identity::cid::base32;

/// 80 bits: nobody guesses one in the time that it lives, at the rate that a server answers.
const CODE_BYTES: usize = 10;

/// A code, as its owner gets it.
#[derive(Clone, PartialEq, Eq)]
pub struct InviteCode(String);

impl fmt::Display for InviteCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for InviteCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InviteCode(...)")
    }
}

/// An invite as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    /// For whom.
    pub note: String,
    /// Seconds since the epoch.
    pub expires: i64,
    /// When it was used.
    pub used: Option<i64>,
    /// The repository that it planted.
    pub repo: Option<String>,
}

fn hash(code: &str) -> Vec<u8> {
    Sha256::digest(code.as_bytes()).to_vec()
}

impl Registry {
    /// Makes an invite. `note` says for whom it is.
    pub fn invite(&self, note: &str, valid: Duration) -> Result<InviteCode, RegistryError> {
        let mut bytes = [0; CODE_BYTES];
        rand::rng().fill_bytes(&mut bytes);
        let code = InviteCode(base32(&bytes));
        let seconds = i64::try_from(valid.as_secs()).unwrap_or(i64::MAX);
        self.connection().execute(
            "INSERT INTO invites (code, note, created, expires) VALUES (?1, ?2, ?3, ?4)",
            params![hash(&code.0), note, now(), now().saturating_add(seconds)],
        )?;
        Ok(code)
    }

    /// All invites, those that expire first before the others.
    pub fn invites(&self) -> Result<Vec<Invite>, RegistryError> {
        let connection = self.connection();
        let mut statement = connection.prepare(
            "SELECT note, expires, used, name FROM invites LEFT JOIN repos ON repos.id = invites.repo
             ORDER BY expires, created",
        )?;
        let rows = statement.query_map([], |row| {
            Ok(Invite {
                note: row.get(0)?,
                expires: row.get(1)?,
                used: row.get(2)?,
                repo: row.get(3)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// Uses an invite up, for a repository that is made in the same transaction.
pub(super) fn use_up(
    transaction: &Transaction<'_>,
    code: &str,
    repo: i64,
) -> Result<(), RegistryError> {
    let changed = transaction.execute(
        "UPDATE invites SET used = ?2, repo = ?3 WHERE code = ?1 AND used IS NULL AND expires > ?2",
        params![hash(code), now(), repo],
    )?;
    if changed == 1 {
        Ok(())
    } else {
        Err(RegistryError::Invite)
    }
}
