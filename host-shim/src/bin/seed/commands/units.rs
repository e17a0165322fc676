//! `seed units` and `seed unit`: what the instance's systemd has, one of it, and jobs with their result.

use std::process::ExitCode;

use containerd_shim_protos::ttrpc::Code;
use seed_protocol::seed::v1::{ControlUnitRequest, control_unit_request::Action};
use seed_shim::{
    management::{ClientError, units},
    names::ContainerId,
};
use serde_json::{Value, json};

use super::Context;
use crate::{cli::Which, error::CliError, output};

/// What a job can end with that is no failure, as for systemctl.
const WELL: [&str; 2] = ["done", "skipped"];

pub(super) async fn units(
    context: &Context<'_>,
    which: Which,
    patterns: Vec<String>,
) -> Result<ExitCode, CliError> {
    let instance = context.pick(which)?;
    let client = context.client(&instance).await?;
    let found = client.list_units(patterns).await?.units;
    if context.global.json {
        let list = found.iter().map(units::json).collect();
        output::print_json(&Value::Array(list))?;
    } else {
        output::print(&units::list(&found))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn unit(
    context: &Context<'_>,
    id: ContainerId,
    action: Option<Action>,
    unit: String,
) -> Result<ExitCode, CliError> {
    let instance = context.named(id);
    let client = context.client(&instance).await?;
    let of_unit = |error| match error {
        ClientError::Refused {
            code: Code::NOT_FOUND,
            message,
        } => {
            let remedy = format!(
                "'seed units {}' lists those that are loaded.",
                instance.id()
            );
            CliError::new(message, remedy)
        }
        other => other.into(),
    };
    let Some(action) = action else {
        let details = client.show_unit(unit).await.map_err(of_unit)?;
        if context.global.json {
            output::print_json(&units::details_json(&details))?;
        } else {
            output::print(&units::text(&details))?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let request = ControlUnitRequest {
        name: unit.clone(),
        action: action.into(),
        ..Default::default()
    };
    let answer = client.control_unit(&request).await.map_err(of_unit)?;
    let (verb, result) = (units::verb(action), answer.result);
    let well = WELL.contains(&result.as_str());
    if context.global.json {
        output::print_json(&json!({ "unit": unit, "action": verb, "result": result }))?;
        return Ok(ExitCode::from(u8::from(!well)));
    }
    if !well {
        return Err(CliError::new(
            format!("{verb} of {unit}: {result}"),
            format!(
                "'seed unit {0} {unit}' and 'seed logs {0} -u {unit}' tell more.",
                instance.id()
            ),
        ));
    }
    output::print(&format!("{result}\n"))?;
    Ok(ExitCode::SUCCESS)
}
