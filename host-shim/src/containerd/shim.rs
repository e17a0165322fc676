//! The shim's binary, called as containerd calls it: `-namespace NS -address "" -publish-binary "" -id ID
//! [-bundle DIR] start|delete`, in the bundle's folder, options on stdin. The answer of `start` is an address,
//! bare or as JSON (containerd `core/runtime/v2/shim.go`).

use std::{
    env,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use protobuf::{Message, well_known_types::any::Any};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use crate::{
    names::{ContainerId, Namespace},
    sys,
    vmm::programs,
};

/// The binary's name, as containerd derives it from `io.containerd.seed.v2`.
pub const BINARY: &str = "containerd-shim-seed-v2";

/// How long `start` and `delete` may take; containerd gives `delete` 5 s.
const LIMIT: Duration = Duration::from_secs(20);

/// Why the binary did not do its work.
#[derive(Debug, Error)]
pub enum ShimError {
    /// It is not there.
    #[error("{BINARY} is neither beside this program nor in PATH")]
    Missing,
    /// It cannot be run.
    #[error("{} cannot be run", path.display())]
    Run {
        /// The binary.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It took too long.
    #[error("{} {command} did not end in time", path.display())]
    Late {
        /// The binary.
        path: PathBuf,
        /// `start` or `delete`.
        command: &'static str,
    },
    /// It said no.
    #[error("{message}")]
    Failed {
        /// What it said.
        message: String,
    },
    /// What it printed is no address.
    #[error("{BINARY} start printed no address but {0:?}")]
    Answer(String),
}

/// Where a shim listens, and which version of the Task API it wants to be spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The Unix socket.
    pub socket: PathBuf,
    /// 2 or 3.
    pub version: u32,
}

/// The shim's binary and for whom it is called.
#[derive(Debug, Clone)]
pub struct ShimBinary {
    path: PathBuf,
}

impl ShimBinary {
    /// Looks beside the running program, then in `PATH`.
    pub fn find() -> Result<Self, ShimError> {
        let own = env::current_exe()
            .ok()
            .and_then(|exe| exe.parent().map(Path::to_owned));
        let dirs = own.into_iter().chain(programs::path());
        programs::find_in(Path::new(BINARY), dirs)
            .map(|path| Self { path })
            .ok_or(ShimError::Missing)
    }

    /// This file.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts the shim for a bundle. The serving process lives on.
    pub async fn start(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        bundle: &Path,
        options: Option<&Any>,
    ) -> Result<Address, ShimError> {
        let options = options
            .map(Message::write_to_bytes)
            .transpose()
            .unwrap_or_default();
        let arguments = self.arguments(namespace, id, None, "start");
        let output = self
            .run("start", arguments, bundle, options.as_deref())
            .await?;
        let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        parse_answer(&answer).ok_or(ShimError::Answer(answer))
    }

    /// Cleans up what a shim left; harmless when there is nothing. `bundle` must still be there.
    pub async fn delete(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        bundle: &Path,
    ) -> Result<(), ShimError> {
        let arguments = self.arguments(namespace, id, Some(bundle), "delete");
        self.run("delete", arguments, bundle, None).await.map(drop)
    }

    fn arguments(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        bundle: Option<&Path>,
        command: &str,
    ) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![
            "-namespace".into(),
            namespace.as_str().into(),
            "-address".into(),
            "".into(),
        ];
        arguments.extend([
            "-publish-binary".into(),
            "".into(),
            "-id".into(),
            id.as_str().into(),
        ]);
        if let Some(bundle) = bundle {
            arguments.extend(["-bundle".into(), bundle.into()]);
        }
        arguments.push(command.into());
        arguments
    }

    async fn run(
        &self,
        command: &'static str,
        arguments: Vec<OsString>,
        dir: &Path,
        input: Option<&[u8]>,
    ) -> Result<Output, ShimError> {
        let fault = |source| ShimError::Run {
            path: self.path.clone(),
            source,
        };
        let mut program = Command::new(&self.path);
        // Who is killed in the middle of a start must not leave a shim that comes up later: without `start` it ends.
        sys::die_with_parent(&mut program);
        let mut child = program
            .args(arguments)
            .current_dir(dir)
            // As under containerd 1.6: the answer is a bare address.
            .env_remove("MAX_SHIM_VERSION")
            .env_remove("TTRPC_ADDRESS")
            .env_remove("GRPC_ADDRESS")
            .stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(fault)?;
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            // A shim that does not read its options still answers.
            let _ = stdin.write_all(input).await;
        }
        let output = timeout(LIMIT, child.wait_with_output())
            .await
            .map_err(|_| ShimError::Late {
                path: self.path.clone(),
                command,
            })?
            .map_err(fault)?;
        if output.status.success() {
            return Ok(output);
        }
        Err(ShimError::Failed {
            message: complaint(command, &output),
        })
    }
}

/// The last line that it printed, without its own name in front.
fn complaint(command: &str, output: &Output) -> String {
    let text = [output.stderr.as_slice(), output.stdout.as_slice()].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty())
        .unwrap_or_default();
    let line = line
        .strip_prefix(BINARY)
        .map_or(line, |rest| rest.trim_start_matches(':').trim());
    match line {
        "" => format!(
            "{BINARY} {command} ended with {} and said nothing",
            output.status
        ),
        line => line.to_owned(),
    }
}

fn parse_answer(answer: &str) -> Option<Address> {
    #[derive(Deserialize)]
    struct Json {
        version: u32,
        address: String,
        protocol: String,
    }
    let (address, version) = if answer.starts_with('{') {
        let json: Json = serde_json::from_str(answer).ok()?;
        (json.protocol == "ttrpc").then_some((json.address, json.version))?
    } else {
        (answer.to_owned(), 2)
    };
    let socket = PathBuf::from(address.strip_prefix("unix://")?);
    socket.is_absolute().then_some(Address { socket, version })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::options::with_config_path;

    #[test]
    fn answers_of_every_containerd_are_read() {
        let address = |version| Address {
            socket: "/run/seed/s/ab".into(),
            version,
        };
        assert_eq!(parse_answer("unix:///run/seed/s/ab"), Some(address(2)));
        let json = r#"{"version":3,"address":"unix:///run/seed/s/ab","protocol":"ttrpc"}"#;
        assert_eq!(parse_answer(json), Some(address(3)));
        for wrong in [
            "",
            "/run/seed/s/ab",
            "unix://s/ab",
            "{}",
            &json.replace("ttrpc", "grpc"),
        ] {
            assert_eq!(parse_answer(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_shim_that_fails_is_quoted_and_one_that_is_missing_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(BINARY);
        let script = "#!/bin/sh\ncat >/dev/null\necho noise >&2\necho containerd-shim-seed-v2: no such VM >&2\nexit 1\n";
        seed_script::write(&path, script);
        let (namespace, id) = ("n".parse().unwrap(), "i".parse().unwrap());
        let shim = ShimBinary::at(path);
        let options = with_config_path(Path::new("/etc/x"));
        let error = shim
            .start(&namespace, &id, dir.path(), Some(&options))
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "no such VM");
        let shim = ShimBinary::at("/nonexistent".into());
        let error = shim.delete(&namespace, &id, dir.path()).await.unwrap_err();
        assert!(matches!(error, ShimError::Run { .. }));
    }
}
