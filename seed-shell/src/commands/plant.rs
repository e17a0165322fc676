//! `plant` and `replant`: registers a repository, and gives it another source.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Context, Failure, parse::Plant};
use crate::{
    authorized_keys,
    identity::{
        Cid,
        signature::{self, VerifyError},
        statement::Statement,
    },
    registry::{Planting, Repo},
    source::Source,
    ssh::channel::Input,
};

/// How long `.authorized_keys` may take to come.
const READ_KEYS: Duration = Duration::from_secs(60);

pub(super) async fn plant(context: &Context<'_>, plant: &Plant) -> Result<u8, Failure> {
    let session = context.session;
    if plant.keys {
        session.want_input();
    }
    let source = source(&plant.uri)?;
    let sent = if plant.keys {
        Some(read_keys(context).await?)
    } else {
        None
    };
    let cid = identity(context, plant, sent.as_deref())?;
    let keys = if let Some(sent) = sent {
        sent
    } else {
        let key = session.who.key.to_openssh();
        key.map_err(|_| Failure::new("your key cannot be written down", "Use another key."))?
    };
    let lines = authorized_keys::parse(&keys).map_err(|error| {
        Failure::new(
            error.to_string(),
            "List the SSH public keys of those who shall have access.",
        )
    })?;
    for (number, line) in &lines {
        if let Err(error) = line {
            let line = format!(".authorized_keys, line {number} gives no access: {error}");
            session.output.complain(&line).await?;
        }
    }
    let repo = session.shared.registry.plant(&Planting {
        code: &plant.code,
        cid: &cid,
        source: &source,
        instances: &plant.instances,
        keys: &keys,
    })?;
    tracing::info!(namespace = %repo.namespace, uri = %repo.uri, who = %session.who, "planted");
    let text = format!(
        "{} is planted\n  identity   {}\n  namespace  {}\n",
        repo.uri, repo.cid, repo.namespace
    );
    answer(context, &repo, text).await
}

pub(super) async fn replant(
    context: &Context<'_>,
    identity: &str,
    uri: &str,
) -> Result<u8, Failure> {
    let source = source(uri)?;
    let registry = &context.session.shared.registry;
    let seen = context.repos()?;
    let repo = seen.into_iter().find(|repo| repo.cid == identity);
    let repo = repo.ok_or_else(|| {
        Failure::new(
            format!("your key sees no repository with identity {identity:?}"),
            "Give the identity as .seed-identity has it; your key must be in its .authorized_keys.",
        )
    })?;
    registry.replant(&repo, &source)?;
    let repo = registry.repo(&repo.cid)?;
    tracing::info!(namespace = %repo.namespace, uri = %repo.uri, who = %context.session.who, "replanted");
    let text = format!("{} comes from {} now\n", repo.namespace, repo.uri);
    answer(context, &repo, text).await
}

async fn answer(context: &Context<'_>, repo: &Repo, text: String) -> Result<u8, Failure> {
    let output = &context.session.output;
    if context.json {
        output.json(&json_of(repo)).await?;
    } else {
        output.text(text).await?;
    }
    Ok(0)
}

/// A repository as JSON.
pub(super) fn json_of(repo: &Repo) -> Value {
    json!({
        "repo": repo.name,
        "namespace": repo.namespace.as_str(),
        "identity": repo.cid,
        "uri": repo.uri,
    })
}

fn source(uri: &str) -> Result<Source, Failure> {
    Source::try_from(uri).map_err(|error| Failure::usage(error.to_string()))
}

/// Whose repository it is: who signed what is planted (or the invite alone), else whose key the connection has.
fn identity(context: &Context<'_>, plant: &Plant, keys: Option<&str>) -> Result<Cid, Failure> {
    let refused = |what: String| {
        Failure::new(
            what,
            "Have seed-plant sign it, or seed-sign with just what is planted here.",
        )
    };
    match &plant.signature {
        Some(text) => {
            let statement = Statement {
                code: &plant.code,
                uri: &plant.uri,
                keys: keys.map(str::as_bytes),
                instances: &plant.instances,
            };
            let signer = match signature::verify(&statement.text(), text) {
                Err(VerifyError::Wrong) => signature::verify(&plant.code, text),
                other => other,
            };
            signer.map_err(|error| refused(error.to_string()))
        }
        None => Cid::of(&context.session.who.key).map_err(|error| refused(error.to_string())),
    }
}

async fn read_keys(context: &Context<'_>) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let read = async {
        while let Input::Data(data) = context.session.input().await? {
            bytes.extend(data);
            if bytes.len() > authorized_keys::MAX_FILE_BYTES {
                let error = authorized_keys::FileError::TooLong;
                return Err(Failure::new(error.to_string(), "Shorten it."));
            }
        }
        Ok(())
    };
    match timeout(READ_KEYS, read).await {
        Ok(read) => read?,
        Err(_) => {
            return Err(Failure::new(
                ".authorized_keys did not come to its end on standard input",
                "Write: ssh HOST plant ... --authorized-keys < .authorized_keys",
            ));
        }
    }
    String::from_utf8(bytes)
        .map_err(|_| Failure::new(".authorized_keys is not UTF-8 text", "Look at the file."))
}
