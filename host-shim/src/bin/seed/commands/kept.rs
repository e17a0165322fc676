//! `seed ps --kept` and `seed prune`: what instances that have ended keep.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use seed_shim::{
    containerd::remains::{Remains, namespaces, remains},
    text,
};
use serde_json::{Value, json};

use super::{Context, ps, rm};
use crate::{error::CliError, output};

const DAY_SECONDS: u64 = 24 * 60 * 60;

pub(super) fn list(context: &Context<'_>, all: bool, quiet: bool) -> Result<ExitCode, CliError> {
    let namespaces = if all {
        namespaces(&context.paths)?
    } else {
        vec![context.global.namespace.clone()]
    };
    let mut found = Vec::new();
    for namespace in namespaces {
        found.extend(remains(&context.paths, &namespace)?);
    }
    if quiet {
        let names = found.iter().map(|one| one.instance.id().as_str());
        return ps::names_only(context, names);
    }
    if context.global.json {
        output::print_json(&Value::Array(found.iter().map(data).collect()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let head = ["NAME", "NAMESPACE", "TPM", "VOLUMES", "LOGS", "UNCHANGED"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(found.iter().map(row));
    output::print(&text::table(0, &rows))?;
    Ok(ExitCode::SUCCESS)
}

fn row(one: &Remains) -> [String; 6] {
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".into(), text::bytes);
    // A time in the future is no age.
    let age = one.changed.elapsed().unwrap_or_default();
    [
        one.instance.id().to_string(),
        one.instance.namespace().to_string(),
        size(one.tpm_bytes),
        size(one.volume_bytes),
        size(one.log_bytes),
        text::duration(age),
    ]
}

fn data(one: &Remains) -> Value {
    let since = one.changed.duration_since(UNIX_EPOCH).unwrap_or_default();
    json!({
        "name": one.instance.id().as_str(),
        "namespace": one.instance.namespace().as_str(),
        "tpm_bytes": one.tpm_bytes,
        "volume_bytes": one.volume_bytes,
        "log_bytes": one.log_bytes,
        "changed_unix_ns": u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
    })
}

pub(super) fn prune(
    context: &Context<'_>,
    days: u32,
    tpm: bool,
    yes: bool,
) -> Result<ExitCode, CliError> {
    let age = Duration::from_secs(u64::from(days) * DAY_SECONDS);
    let before = SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH);
    let mut found = remains(&context.paths, &context.global.namespace)?;
    found.retain(|one| {
        let has_any = one.log_bytes.is_some() || tpm && one.tpm_bytes.is_some();
        has_any && one.changed < before
    });
    if !yes && !found.is_empty() {
        return Err(unconfirmed(&found, days, tpm));
    }
    let (mut removed, mut failed) = (Vec::new(), None);
    for one in found {
        // One that cannot be deleted is not in the way of the others.
        match one.prune(before, tpm) {
            Ok(dirs) => removed.extend(dirs),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    if context.global.json {
        output::print_json(&json!({ "removed": removed }))?;
    } else {
        rm::told(&removed)?;
    }
    failed.map_or(Ok(ExitCode::SUCCESS), |error| Err(error.into()))
}

/// What would be deleted, in figures: there may be thousands.
fn unconfirmed(found: &[Remains], days: u32, tpm: bool) -> CliError {
    let logs: Vec<u64> = found.iter().filter_map(|one| one.log_bytes).collect();
    let of = text::count(logs.len(), "instance");
    let mut what = format!(
        "this would delete the logs of {of} ({})",
        text::bytes(logs.iter().sum())
    );
    let mut flag = "";
    if tpm {
        let identities = found.iter().filter(|one| one.tpm_bytes.is_some()).count();
        what += &format!(" and the TPM state of {identities}");
        flag = " --tpm";
    }
    CliError::new(
        what,
        format!(
            "'seed ps --kept' lists them. If you mean it: seed prune --older-than {days}{flag} --yes"
        ),
    )
}
