//! `seed ps`.

use std::{fs, process::ExitCode, time::Duration};

use seed_protocol::seed::management::InstanceStatus;
use seed_shim::{
    containerd::instance::{Instance, instances},
    management::{Client, words},
    names::Namespace,
    text,
};
use serde_json::{Value, json};

use super::Context;
use crate::{error::CliError, output};

pub(super) async fn ps(
    context: &Context<'_>,
    all: bool,
    quiet: bool,
) -> Result<ExitCode, CliError> {
    let namespaces = if all {
        namespaces(context)
    } else {
        vec![context.global.namespace.clone()]
    };
    let mut found = Vec::new();
    for namespace in namespaces {
        for id in instances(&context.paths, &namespace) {
            let instance = Instance::named(&context.paths, namespace.clone(), id);
            // Names are on disk: nobody need be asked, and one that hangs is listed all the same.
            let status = if quiet {
                None
            } else {
                status_of(&instance).await
            };
            found.push((instance, status));
        }
    }
    if quiet {
        let names = found.iter().map(|(instance, _)| instance.id().as_str());
        return names_only(context, names);
    }
    if context.global.json {
        let list = found.iter().map(|(instance, status)| match status {
            Some(status) => words::json(status),
            None => dead(instance),
        });
        output::print_json(&Value::Array(list.collect()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut known = found.iter().filter_map(|(_, status)| status.as_ref());
    let any_in_pod = known.any(|status| status.pod.is_some());
    let head = [
        "NAME",
        "NAMESPACE",
        "STATE",
        "STAGE",
        "VCPUS",
        "MEMORY",
        "UP",
        // The column is empty where nobody is in one.
        if any_in_pod { "POD" } else { "" },
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(
        found
            .iter()
            .map(|(instance, status)| row(instance, status.as_ref())),
    );
    output::print(&text::table(0, &rows))?;
    Ok(ExitCode::SUCCESS)
}

/// A run folder with nobody behind it.
pub(super) fn dead(instance: &Instance) -> Value {
    json!({
        "namespace": instance.namespace().as_str(),
        "name": instance.id().as_str(),
        "state": "dead",
        "stage": "none",
    })
}

/// Names, a line each, or as one array.
pub(super) fn names_only<'n>(
    context: &Context<'_>,
    names: impl Iterator<Item = &'n str>,
) -> Result<ExitCode, CliError> {
    if context.global.json {
        output::print_json(&names.collect())?;
    } else {
        output::print(&names.map(|name| format!("{name}\n")).collect::<String>())?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn status_of(instance: &Instance) -> Option<InstanceStatus> {
    let client = Client::connect(&instance.paths().management_socket())
        .await
        .ok()?;
    client.status(0, Duration::ZERO).await.ok()
}

fn row(instance: &Instance, status: Option<&InstanceStatus>) -> [String; 8] {
    let name = instance.id().to_string();
    let namespace = instance.namespace().to_string();
    let Some(status) = status else {
        let none = || "-".to_owned();
        return [
            name,
            namespace,
            "dead".into(),
            none(),
            none(),
            none(),
            none(),
            String::new(),
        ];
    };
    let up = fs::metadata(instance.paths().run_dir())
        .and_then(|m| m.modified())
        .ok();
    let up = started(instance)
        .or(up)
        .and_then(|since| since.elapsed().ok());
    [
        name,
        namespace,
        words::state(status.state.enum_value_or_default()).into(),
        words::stage(status.stage.enum_value_or_default()).into(),
        status.vcpus.to_string(),
        text::bytes(u64::from(status.memory_mib) << 20),
        up.map_or_else(|| "-".into(), text::duration),
        status.pod.as_ref().map(words::pod).unwrap_or_default(),
    ]
}

/// The record is written last when the shim has begun.
fn started(instance: &Instance) -> Option<std::time::SystemTime> {
    fs::metadata(instance.paths().record())
        .and_then(|m| m.modified())
        .ok()
}

/// Every namespace that has a folder.
pub(super) fn namespaces(context: &Context<'_>) -> Vec<Namespace> {
    let Ok(entries) = fs::read_dir(context.paths.run_dir()) else {
        return Vec::new();
    };
    let mut all: Vec<Namespace> = entries
        .flatten()
        .filter_map(|entry| Namespace::try_from(entry.file_name().to_str()?).ok())
        .collect();
    all.sort();
    all
}
