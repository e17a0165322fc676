//! What `seed-identity`, `seed-sign` and `seed-plant` do: the owner's side of an identity. The private key is used
//! here and goes nowhere.

use std::{
    env, fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rand::RngCore;
use russh::keys::{
    PrivateKey,
    ssh_key::{LineEnding, private::Ed25519Keypair},
};
use seed_shim::names::ContainerId;
use thiserror::Error;

use crate::{
    authorized_keys,
    identity::{
        Cid, CidError,
        keyfile::{KeyFile, KeyFileError},
        signature::{self, SignError},
        statement::Statement,
    },
    source::{Source, SourceError},
};

/// The identity's private key, in the repository's folder. Never committed.
pub const KEY_FILE: &str = ".seed-identity-key";

/// Where git reads what it leaves alone.
pub const IGNORE_FILE: &str = ".gitignore";

/// The identity. Committed.
pub const IDENTITY_FILE: &str = ".seed-identity";

/// Who has access. Committed.
pub const AUTHORIZED_KEYS: &str = ".authorized_keys";

/// The host when nothing else says so, and the variable that does.
pub const DEFAULT_HOST: &str = "seed.loom.farm";
/// See [`DEFAULT_HOST`].
pub const HOST_ENV: &str = "SEED_HOST";

/// Another command than `ssh`, with its options, words separated by blanks.
pub const SSH_ENV: &str = "SEED_SSH";

/// Why a tool failed.
#[derive(Debug, Error)]
pub enum ToolError {
    /// A key's file.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// A key's kind.
    #[error(transparent)]
    Cid(#[from] CidError),
    /// Signing.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// `.authorized_keys`.
    #[error(transparent)]
    Keys(#[from] authorized_keys::FileError),
    /// A file.
    #[error("{}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The identity file says something else.
    #[error("{IDENTITY_FILE} holds another identity than key {}", key.display())]
    Other {
        /// The key.
        key: PathBuf,
    },
    /// A key cannot be written.
    #[error("the key cannot be written")]
    Format(#[source] russh::keys::ssh_key::Error),
    /// ssh does not run.
    #[error("ssh cannot be started")]
    Ssh(#[source] io::Error),
}

/// The IPNS CID of a key file, public or private.
pub fn identity(key: &Path) -> Result<Cid, ToolError> {
    Ok(Cid::of(KeyFile::read(key)?.public())?)
}

/// A text, signed: one line of base64.
pub async fn sign(text: &str, key: &Path) -> Result<String, ToolError> {
    Ok(signature::sign(text, key, &KeyFile::read(key)?).await?)
}

/// What `seed-sign` is asked for.
#[derive(Debug, Default)]
pub struct Signing {
    /// The source; without one the invite code alone is signed.
    pub uri: Option<String>,
    /// `.authorized_keys`.
    pub keys: Option<PathBuf>,
    /// Instances that are named.
    pub instances: Vec<ContainerId>,
}

/// What is planted with a code, signed; or the code alone.
pub async fn sign_for(code: &str, key: &Path, signing: &Signing) -> Result<String, ToolError> {
    let Some(uri) = &signing.uri else {
        return sign(code, key).await;
    };
    Source::try_from(uri.as_str())?;
    let keys = match &signing.keys {
        None => None,
        Some(path) => Some(fs::read(path).map_err(|source| ToolError::File {
            path: path.clone(),
            source,
        })?),
    };
    let statement = Statement {
        code,
        uri,
        keys: keys.as_deref(),
        instances: &signing.instances,
    };
    sign(&statement.text(), key).await
}

/// What `seed-plant` is asked for.
#[derive(Debug)]
pub struct Plant {
    /// The source.
    pub uri: String,
    /// The invite.
    pub code: String,
    /// A key that is there already.
    pub key: Option<PathBuf>,
    /// The host.
    pub host: String,
    /// Instances that are named by hand.
    pub instances: Vec<ContainerId>,
}

/// Makes key and identity file where they are missing, signs the invite, and registers the repository whose checkout
/// `dir` is, over ssh. The exit status is ssh's.
pub async fn plant(dir: &Path, plant: &Plant) -> Result<u8, ToolError> {
    Source::try_from(plant.uri.as_str())?;
    let keys = dir.join(AUTHORIZED_KEYS);
    let list = match fs::read_to_string(&keys) {
        Ok(text) => {
            authorized_keys::parse(&text)?;
            Some(text)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(ToolError::File { path: keys, source }),
    };
    let key = match &plant.key {
        Some(key) => key.clone(),
        None => own_key(dir)?,
    };
    let cid = identity(&key)?;
    write_identity(dir, &cid, &key)?;
    let instances = match plant.instances.as_slice() {
        [] => in_flake(dir),
        named => named.to_vec(),
    };
    let statement = Statement {
        code: &plant.code,
        uri: &plant.uri,
        keys: list.as_deref().map(str::as_bytes),
        instances: &instances,
    };
    let signature = sign(&statement.text(), &key).await?;
    let mut line = format!("plant {} {} {signature}", plant.uri, plant.code);
    for name in instances {
        line += &format!(" --instance {name}");
    }
    if list.is_some() {
        line += " --authorized-keys";
    }
    ssh(&plant.host, &line, list.as_deref())
}

/// The key in the repository's folder; made where there is none.
fn own_key(dir: &Path) -> Result<PathBuf, ToolError> {
    let path = dir.join(KEY_FILE);
    ignore(dir)?;
    if path.exists() {
        return Ok(path);
    }
    let mut seed = [0; 32];
    rand::rng().fill_bytes(&mut seed);
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
    let text = key.to_openssh(LineEnding::LF).map_err(ToolError::Format)?;
    write(&path, text.as_bytes(), 0o600)?;
    let public = key.public_key().to_openssh().map_err(ToolError::Format)?;
    write(
        &dir.join(format!("{KEY_FILE}.pub")),
        format!("{public}\n").as_bytes(),
        0o644,
    )?;
    Ok(path)
}

/// Has git leave the private key alone, before there is one.
fn ignore(dir: &Path) -> Result<(), ToolError> {
    let path = dir.join(IGNORE_FILE);
    let fault = |source| ToolError::File {
        path: path.clone(),
        source,
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(fault(error)),
    };
    if text
        .lines()
        .any(|line| line.trim().trim_start_matches('/') == KEY_FILE)
    {
        return Ok(());
    }
    let begin = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let mut file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(&path)
        .map_err(fault)?;
    file.write_all(format!("{begin}/{KEY_FILE}\n").as_bytes())
        .map_err(fault)
}

fn write_identity(dir: &Path, cid: &Cid, key: &Path) -> Result<(), ToolError> {
    let path = dir.join(IDENTITY_FILE);
    match fs::read_to_string(&path) {
        Ok(text) if text.trim() == cid.to_string() => Ok(()),
        Ok(_) => Err(ToolError::Other { key: key.into() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write(&path, format!("{cid}\n").as_bytes(), 0o644)
        }
        Err(source) => Err(ToolError::File { path, source }),
    }
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), ToolError> {
    let fault = |source| ToolError::File {
        path: path.into(),
        source,
    };
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(fault)?;
    file.write_all(bytes).map_err(fault)
}

/// The names of the flake's instances, where there is a flake and a nix to ask. Without, they are known when they
/// first run.
fn in_flake(dir: &Path) -> Vec<ContainerId> {
    if !dir.join("flake.nix").exists() {
        return Vec::new();
    }
    let output = Command::new("nix")
        .args(["--extra-experimental-features", "nix-command flakes"])
        .args(["eval", "--json", ".#seeds", "--apply", "builtins.attrNames"])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let names = output
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| serde_json::from_slice::<Vec<String>>(&output.stdout).ok());
    names
        .unwrap_or_default()
        .iter()
        .filter_map(|name| ContainerId::try_from(name.as_str()).ok())
        .collect()
}

fn ssh(host: &str, line: &str, input: Option<&str>) -> Result<u8, ToolError> {
    let program = env::var(SSH_ENV).unwrap_or_else(|_| "ssh".into());
    let mut words = program.split_whitespace();
    let mut child = Command::new(words.next().unwrap_or("ssh"))
        .args(words)
        .args(["--", host, line])
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .spawn()
        .map_err(ToolError::Ssh)?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        // A host that refuses the line does not read the rest; its own words say why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let status = child.wait().map_err(ToolError::Ssh)?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1))
}
