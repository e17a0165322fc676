//! `seed keys`: the recipient alone on one line, so that it can be pasted and piped.

use std::process::ExitCode;

use serde_json::json;

use super::Context;
use crate::{cli::Which, error::CliError, output};

pub(super) async fn keys(
    context: &Context<'_>,
    which: Which,
    tag: bool,
) -> Result<ExitCode, CliError> {
    let instance = context.pick(which)?;
    let keys = context.client(&instance).await?.keys().await?;
    if context.global.json {
        output::print_json(&json!({
            "recipient": keys.recipient,
            "tag_recipient": keys.tag_recipient,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let key = if tag {
        keys.tag_recipient
    } else {
        keys.recipient
    };
    let plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if key.is_empty() || !plain {
        return Err(CliError::new(
            "what the instance gave is no recipient",
            "See 'seed status' for a problem with its identity.",
        ));
    }
    output::print(&format!("{key}\n"))?;
    Ok(ExitCode::SUCCESS)
}
