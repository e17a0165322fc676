//! `restart`: asks the instance's shim, and waits until the instance is up again.

use std::time::Duration;

use seed_shim::management::words;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Context, Failure};
use crate::{
    access::{Target, Who},
    instances::Condition,
};

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(250);

/// A stop may take a minute and a half, and a boot without KVM a minute.
const LIMIT: Duration = Duration::from_secs(400);

/// Between the end of the old shim and the first answer of the new one. Nothing takes longer that works.
const NOBODY: Duration = Duration::from_secs(60);

/// Writes down who asked.
pub fn note(who: &Who, target: &Target) {
    tracing::info!(namespace = %target.repo.namespace, instance = %target.name, %who, "restart asked for");
}

pub(super) async fn restart(context: &Context<'_>, which: &str) -> Result<u8, Failure> {
    let target = context.pick(which)?;
    let work = again(context, &target);
    context.while_seen(&target.repo, work).await
}

async fn again(context: &Context<'_>, target: &Target) -> Result<u8, Failure> {
    let instances = &context.session.shared.instances;
    let output = &context.session.output;
    let client = instances
        .client(&target.repo.namespace, &target.name)
        .await?;
    let before = client.status(0, Duration::ZERO).await?;
    let begun = Instant::now();
    client.restart().await?;
    note(&context.session.who, target);
    if !context.json {
        output
            .complain(&format!("{} is being restarted", target.name))
            .await?;
    }
    let mut answered = begun;
    while begun.elapsed() < LIMIT {
        sleep(LOOK).await;
        match instances
            .condition(&target.repo.namespace, &target.name)
            .await
        {
            Condition::Known(status) if status.created_unix_ns != before.created_unix_ns => {
                answered = Instant::now();
                if words::has_ended(&status) {
                    return Err(failed(target));
                }
                if words::is_up(&status) {
                    if context.json {
                        output.json(&words::json(&status)).await?;
                        return Ok(0);
                    }
                    let stage = words::stage(status.stage.enum_value_or_default());
                    let seconds = begun.elapsed().as_secs_f64();
                    let text = format!("{} is {stage} ({seconds:.2} s)\n", target.name);
                    output.text(text).await?;
                    return Ok(0);
                }
            }
            Condition::Known(_) | Condition::Silent => answered = Instant::now(),
            Condition::Dead | Condition::Absent if answered.elapsed() > NOBODY => {
                return Err(failed(target));
            }
            Condition::Dead | Condition::Absent => {}
        }
    }
    if context.json {
        output
            .json(&json!({ "name": target.name.as_str(), "up": false }))
            .await?;
    }
    Err(Failure::new(
        format!("{} is not up after {} s", target.name, LIMIT.as_secs()),
        "'status' and 'logs' tell how far it is.",
    ))
}

fn failed(target: &Target) -> Failure {
    Failure::new(
        format!("{} did not start again", target.name),
        "'logs' tells what it said last; whoever runs the host finds the reason in its restart.log.",
    )
}
