//! `status`: a line an instance, over all repositories that the key sees; or one instance on a screen.

use std::time::{Duration, SystemTime};

use seed_protocol::seed::management::InstanceStatus;
use seed_shim::{
    data::json_line,
    logs::render::human::escaped,
    management::{report, words},
    names::ContainerId,
    text,
};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use super::{Context, Failure, plant::json_of};
use crate::{
    access::{self, label},
    instances::Condition,
    registry::{RegistryError, Repo},
    ssh::Shared,
};

/// The upper left corner, and everything behind it empty.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its repository.
    pub repo: Repo,
    /// How the repository is written.
    pub label: String,
    /// The instance.
    pub name: ContainerId,
    /// How it is.
    pub condition: Condition,
}

pub(super) async fn status(
    context: &Context<'_>,
    which: Option<&str>,
    watch: Option<Duration>,
) -> Result<u8, Failure> {
    let output = &context.session.output;
    let clear = watch.is_some() && output.terminal() && !context.json;
    loop {
        let text = match which.filter(|which| which.contains('/')) {
            Some(which) => one(context, which).await?,
            None => all(context, which).await?,
        };
        if clear {
            output.text(CLEAR).await?;
        }
        output.text(text).await?;
        let Some(pause) = watch else {
            return Ok(0);
        };
        if !clear && !context.json {
            output.text("\n").await?;
        }
        sleep(pause).await;
    }
}

async fn one(context: &Context<'_>, which: &str) -> Result<String, Failure> {
    let target = context.pick(which)?;
    let shared = &context.session.shared;
    let repo = target.repo;
    let condition = shared
        .instances
        .condition(&repo.namespace, &target.name)
        .await;
    let row = Row {
        label: repo.name.clone(),
        repo,
        name: target.name,
        condition,
    };
    if context.json {
        return Ok(json_line(&data(&row)));
    }
    Ok(match &row.condition {
        Condition::Known(status) => report::text(status),
        _ => table(&[row]),
    })
}

async fn all(context: &Context<'_>, which: Option<&str>) -> Result<String, Failure> {
    let seen = context.repos()?;
    let repos = match which {
        Some(name) => access::pick_repos(&seen, name)?,
        None => seen,
    };
    if repos.is_empty() && !context.json {
        return Err(Failure::new(
            "no repository lists your key in its .authorized_keys",
            "Plant one: see 'help'.",
        ));
    }
    let rows = rows(&context.session.shared, &repos).await?;
    if !context.json {
        return Ok(table(&rows));
    }
    let documents: Vec<Value> = repos
        .iter()
        .map(|repo| {
            let own = rows.iter().filter(|row| row.repo == *repo);
            let mut document = json_of(repo);
            document["instances"] = own.map(data).collect();
            document
        })
        .collect();
    Ok(json_line(&json!({ "repos": documents })))
}

/// Asks all instances of these repositories at once.
pub async fn rows(shared: &Shared, repos: &[Repo]) -> Result<Vec<Row>, RegistryError> {
    let mut asked = JoinSet::new();
    for (at, repo) in repos.iter().enumerate() {
        for name in shared.instances.of(&shared.registry, repo)? {
            let instances = shared.instances.clone();
            let (repo, label) = (repo.clone(), label(repo, repos));
            asked.spawn(async move {
                let condition = instances.condition(&repo.namespace, &name).await;
                let row = Row {
                    repo,
                    label,
                    name,
                    condition,
                };
                (at, row)
            });
        }
    }
    let mut rows = Vec::new();
    while let Some(answer) = asked.join_next().await {
        rows.extend(answer.ok());
    }
    rows.sort_by(|(a, one), (b, other)| (a, &one.name).cmp(&(b, &other.name)));
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

/// The word for how it is.
pub fn state(condition: &Condition) -> &'static str {
    match condition {
        Condition::Known(status) => words::state(status.state.enum_value_or_default()),
        Condition::Dead => "dead",
        Condition::Absent => "absent",
        Condition::Silent => "no answer",
    }
}

/// Since when it runs.
pub fn uptime(status: &InstanceStatus) -> Option<Duration> {
    if words::has_ended(status) || status.created_unix_ns == 0 {
        return None;
    }
    let created = SystemTime::UNIX_EPOCH + Duration::from_nanos(status.created_unix_ns);
    created.elapsed().ok()
}

fn table(rows: &[Row]) -> String {
    let head = [
        "REPO", "INSTANCE", "STATE", "STAGE", "UP", "VCPUS", "MEMORY", "PROBLEM",
    ];
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(rows.iter().map(cells));
    text::table(0, &lines)
}

fn cells(row: &Row) -> [String; 8] {
    let none = || "-".to_owned();
    let (repo, name) = (row.label.clone(), row.name.to_string());
    let word = state(&row.condition).to_owned();
    let Condition::Known(status) = &row.condition else {
        return [
            repo,
            name,
            word,
            none(),
            none(),
            none(),
            none(),
            String::new(),
        ];
    };
    [
        repo,
        name,
        word,
        words::stage(status.stage.enum_value_or_default()).into(),
        uptime(status).map_or_else(none, text::duration),
        status.vcpus.to_string(),
        text::bytes(u64::from(status.memory_mib) << 20),
        problem(status),
    ]
}

/// The first thing that is wrong, in few words.
pub fn problem(status: &InstanceStatus) -> String {
    if let Some(exit) = status.exit.as_ref() {
        return escaped(&exit.reason);
    }
    if let Some(problem) = status.problems.first() {
        return escaped(&format!("{}: {}", problem.subject, problem.message));
    }
    match status.failed_units.as_slice() {
        [] => String::new(),
        [one] => escaped(&format!("{} failed", one.name)),
        several => format!("{} units failed", several.len()),
    }
}

fn data(row: &Row) -> Value {
    let mut document = match &row.condition {
        Condition::Known(status) => words::json(status),
        other => json!({
            "namespace": row.repo.namespace.as_str(),
            "name": row.name.as_str(),
            "state": state(other),
            "stage": "none",
        }),
    };
    document["repo"] = row.repo.name.as_str().into();
    document
}
