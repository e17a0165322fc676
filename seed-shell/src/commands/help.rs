//! `help`: what can be asked for.

use serde_json::json;

use super::Failure;
use crate::{access::Access, ssh::channel::Session};

/// Usage and meaning of each command.
const COMMANDS: [(&str, &str); 9] = [
    ("(no command)", "dashboard, in a terminal: ssh HOST"),
    (
        "status [repo] [-w N]",
        "how your instances are; again every N seconds",
    ),
    (
        "logs <[repo/]instance> [-f] [--lines N]",
        "the last N lines of its log (100), and on with -f",
    ),
    ("keys <[repo/]instance>", "its age recipient, for sops"),
    ("restart <[repo/]instance>", "stop it and start it again"),
    (
        "exec <[repo/]instance> -- command",
        "run a command in it, where the host allows it",
    ),
    (
        "plant <uri> <code> [<sig>]",
        "register a repository: silo:NAME, github:USER/REPO, git+https://HOST/PATH",
    ),
    (
        "replant <identity> <new-uri>",
        "another source for a repository; its identity stays",
    ),
    ("help", "this"),
];

pub(super) async fn help(session: &Session, json: bool) -> Result<u8, Failure> {
    let exec = session.shared.config.exec;
    let commands = COMMANDS
        .iter()
        .filter(|(usage, _)| exec || !usage.starts_with("exec"));
    let access = Access::of(&session.shared.registry, &session.who)?;
    let known = !access.is_empty();
    if json {
        let list: Vec<_> = commands
            .map(|(usage, meaning)| json!({ "usage": usage, "meaning": meaning }))
            .collect();
        session
            .output
            .json(&json!({ "commands": list, "known": known }))
            .await?;
        return Ok(0);
    }
    let width = COMMANDS.iter().map(|(usage, _)| usage.len()).max();
    let width = width.unwrap_or_default();
    let mut text = String::from("Usage: ssh HOST COMMAND   (each command knows --json)\n\n");
    for (usage, meaning) in commands {
        text += &format!("  {usage:<width$}  {meaning}\n");
    }
    if !known {
        text += "\nNo repository lists your key in its .authorized_keys: until one does, there are 'help' and 'plant'.\n";
    }
    session.output.text(text).await?;
    Ok(0)
}
