//! `keys`: the recipient alone on one line, so that it can be pasted and piped.

use serde_json::json;

use super::{Context, Failure};

pub(super) async fn keys(context: &Context<'_>, which: &str) -> Result<u8, Failure> {
    let target = context.pick(which)?;
    let instances = &context.session.shared.instances;
    let client = instances
        .client(&target.repo.namespace, &target.name)
        .await?;
    let keys = client.keys().await?;
    let plain = |key: &str| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !plain(&keys.recipient) {
        return Err(Failure::new(
            "what the instance gave is no recipient",
            "'status' tells of a problem with its identity.",
        ));
    }
    let output = &context.session.output;
    if context.json {
        output
            .json(&json!({ "recipient": keys.recipient, "tag_recipient": keys.tag_recipient }))
            .await?;
    } else {
        output.text(format!("{}\n", keys.recipient)).await?;
    }
    Ok(0)
}
