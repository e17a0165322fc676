//! What an exec shall run: `process` of the OCI runtime configuration, as containerd's client sends it, as the agent wants it.

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use seed_protocol::kata::oci;
use serde::Deserialize;

use super::TaskError;

/// `process` of the OCI runtime configuration, as far as it means something in the guest.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    #[serde(default)]
    terminal: bool,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    cwd: String,
    #[serde(default)]
    user: User,
    console_size: Option<ConsoleSize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct User {
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    #[serde(default)]
    additional_gids: Vec<u32>,
    #[serde(default)]
    username: String,
}

#[derive(Debug, Deserialize)]
struct ConsoleSize {
    height: u32,
    width: u32,
}

/// The process that `spec` describes, with a terminal where either says so.
pub(super) fn process(spec: &Any, terminal: bool) -> Result<oci::Process, TaskError> {
    let wrong = |error: serde_json::Error| TaskError::Invalid(format!("exec's process: {error}"));
    let Process {
        terminal: asked,
        args,
        env,
        cwd,
        user,
        console_size,
    } = serde_json::from_slice(&spec.value).map_err(wrong)?;
    if args.first().is_none_or(String::is_empty) {
        return Err(TaskError::Invalid("exec's process has no args".into()));
    }
    let User {
        uid,
        gid,
        additional_gids,
        username,
    } = user;
    let user = oci::User {
        UID: uid,
        GID: gid,
        AdditionalGids: additional_gids,
        Username: username,
        ..oci::User::default()
    };
    let size = console_size.map(|size| oci::Box {
        Height: size.height,
        Width: size.width,
        ..oci::Box::default()
    });
    Ok(oci::Process {
        Terminal: terminal || asked,
        ConsoleSize: size.into(),
        User: Some(user).into(),
        Args: args,
        Env: env,
        Cwd: cwd,
        ..oci::Process::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Any {
        Any {
            value: text.as_bytes().to_vec(),
            ..Any::default()
        }
    }

    #[test]
    fn an_oci_process_becomes_the_agents() {
        let text = r#"{"terminal": true, "args": ["sh", "-c", "id"], "env": ["A=b"], "cwd": "/",
            "user": {"uid": 1000, "gid": 100, "additionalGids": [5]},
            "consoleSize": {"height": 24, "width": 80}, "capabilities": {}, "noNewPrivileges": true}"#;
        let process = process(&spec(text), false).unwrap();
        assert!(process.Terminal);
        assert_eq!(process.User.AdditionalGids, [5]);
        assert_eq!(process.ConsoleSize.Width, 80);
    }

    #[test]
    fn a_process_without_a_command_is_refused() {
        for text in ["", "{}", r#"{"args": []}"#, r#"{"args": [""]}"#] {
            let result = process(&spec(text), false);
            assert!(matches!(result, Err(TaskError::Invalid(_))), "{text:?}");
        }
    }
}
