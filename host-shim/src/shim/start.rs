//! The `start` command: makes a server for the bundle in the working directory, waits until it listens, and
//! gives its address in the form that this containerd understands.
//!
//! | containerd | tells itself by | answer |
//! |---|---|---|
//! | 1.6 | no `MAX_SHIM_VERSION` | the bare address |
//! | 1.7, 2.0 to 2.2 | `MAX_SHIM_VERSION` | JSON, version 2 |
//! | 2.3 and later | `BootstrapParams` on stdin | `BootstrapResult`, version 3 |

use std::{
    env, fs, io,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use containerd_shim_protos::{
    bootstrap_api::{BootstrapParams, BootstrapResult},
    protobuf::{Message, well_known_types::any::Any},
};
use serde_json::json;
use thiserror::Error;

use super::{
    cli::Target,
    options::{self, OptionsError},
    serve::READY,
    state_file::{StateFile, StateFileError},
};
use crate::{
    names::{ContainerId, NameError},
    oom,
    paths::{Paths, SocketPathError, check_socket},
    sockets::has_listener,
    spec::{Bundle, BundleError, Role},
};

/// The longest input that is read. Options are small.
const MAX_STDIN_BYTES: u64 = 1 << 20;

/// How long the server may take to listen. It has nothing to wait for before that.
const READY_LIMIT: Duration = Duration::from_secs(15);

/// The file that containerd 1.6 reads instead of asking again.
const ADDRESS_FILE: &str = "address";

/// Why there is no server.
#[derive(Debug, Error)]
pub enum StartError {
    /// The options, and the configuration that they choose.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The state file.
    #[error(transparent)]
    State(#[from] StateFileError),
    /// The socket's path.
    #[error(transparent)]
    Socket(#[from] SocketPathError),
    /// What the bundle is.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A name in its annotations.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The pod's shim is gone.
    #[error("pod {0} has no shim any more: make the pod anew")]
    NoPod(ContainerId),
    /// A system call.
    #[error("{what} failed")]
    Io {
        /// Which.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The server does not listen.
    #[error("the shim did not listen within {} s", READY_LIMIT.as_secs())]
    Late,
    /// The server ended at once.
    #[error("the shim ended at its start: {0}")]
    Ended(String),
}

/// The form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Bare,
    Json,
    Bootstrap,
}

/// Makes the server, or finds it. Returns what is to be printed.
pub fn run(target: &Target) -> Result<Vec<u8>, StartError> {
    let wrap = |what| move |source| StartError::Io { what, source };
    let bundle = env::current_dir().map_err(wrap("reading the working directory"))?;
    let mut input = Vec::new();
    let stdin = io::stdin().lock().take(MAX_STDIN_BYTES);
    { stdin }
        .read_to_end(&mut input)
        .map_err(wrap("reading the options"))?;
    let (bootstrap, options) = read_input(&input, target);
    let config = options::configuration(options.as_ref())?;
    // A pod's containers have the shim of their sandbox.
    let role = role(&bundle)?;
    let group = match &role {
        Role::Member(sandbox) => sandbox,
        Role::Alone | Role::Sandbox => &target.id,
    };
    let socket = Paths::new(&config).task_socket(&target.namespace, group, &target.address);
    check_socket(socket.clone())?;
    StateFile {
        config,
        socket: socket.clone(),
        member: None,
    }
    .write(&bundle)?;
    if !has_listener(&socket) {
        if let Role::Member(sandbox) = role {
            return Err(StartError::NoPod(sandbox));
        }
        match spawn(target, &bundle) {
            // Another `start` of the same time was faster, and its shim is as good.
            Err(StartError::Ended(_)) if has_listener(&socket) => {}
            made => made?,
        }
    }
    let address = format!("unix://{}", socket.display());
    fs::write(bundle.join(ADDRESS_FILE), &address).map_err(wrap("writing the address file"))?;
    let form = match (bootstrap, env::var_os("MAX_SHIM_VERSION")) {
        (true, _) => Form::Bootstrap,
        (false, Some(_)) => Form::Json,
        (false, None) => Form::Bare,
    };
    answer(form, &address)
}

/// What the container is to a pod. A sandbox that its engine makes without a container has no OCI document.
fn role(bundle: &Path) -> Result<Role, StartError> {
    match Bundle::read(bundle) {
        Ok(bundle) => Ok(Role::of(&bundle.annotations)?),
        Err(BundleError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(Role::Sandbox)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether the input is the bootstrap protocol's, and the options in it.
fn read_input(input: &[u8], target: &Target) -> (bool, Option<Any>) {
    if let Ok(params) = BootstrapParams::parse_from_bytes(input)
        && params.instance_id == target.id.as_str()
        && params.namespace == target.namespace.as_str()
    {
        let mut values = params
            .extensions
            .into_iter()
            .filter_map(|e| e.value.into_option());
        return (true, values.find(options::are_ours));
    }
    (
        false,
        Any::parse_from_bytes(input)
            .ok()
            .filter(|any| !any.type_url.is_empty()),
    )
}

fn answer(form: Form, address: &str) -> Result<Vec<u8>, StartError> {
    let protocol = "ttrpc";
    match form {
        Form::Bare => Ok(address.as_bytes().to_vec()),
        Form::Json => {
            let answer = json!({"version": 2, "address": address, "protocol": protocol});
            Ok(answer.to_string().into_bytes())
        }
        Form::Bootstrap => {
            let result = BootstrapResult {
                version: 3,
                address: address.to_owned(),
                protocol: protocol.to_owned(),
                ..BootstrapResult::default()
            };
            result.write_to_bytes().map_err(|error| StartError::Io {
                what: "encoding the answer",
                source: io::Error::other(error),
            })
        }
    }
}

fn spawn(target: &Target, bundle: &Path) -> Result<(), StartError> {
    let wrap = |what| move |source| StartError::Io { what, source };
    let program: PathBuf = env::current_exe().map_err(wrap("finding this program"))?;
    let mut command = Command::new(program);
    command
        .args([
            "-namespace",
            target.namespace.as_str(),
            "-id",
            target.id.as_str(),
        ])
        .args(["-address", target.address.as_str()])
        .args(target.debug.then_some("-debug"))
        .arg("serve")
        .current_dir(bundle)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(wrap("starting the shim"))?;
    // containerd is one of the last to be killed; its shims go before it. One that has ended says so below.
    let _ = oom::set_above_own(child.id());
    if said_within(READY_LIMIT, &mut child)? == READY {
        return Ok(());
    }
    let mut why = String::new();
    if let Some(stderr) = child.stderr.as_mut() {
        stderr
            .read_to_string(&mut why)
            .map_err(wrap("waiting for the shim"))?;
    }
    let _ = child.wait();
    Err(StartError::Ended(why.trim().to_owned()))
}

/// What a child says until it closes its output: the server does when it listens, or by dying. One that does neither in time
/// is killed.
fn said_within(limit: Duration, child: &mut Child) -> Result<String, StartError> {
    let (tell, told) = mpsc::channel();
    if let Some(mut stdout) = child.stdout.take() {
        thread::spawn(move || {
            let mut said = String::new();
            let read = stdout.read_to_string(&mut said);
            let _ = tell.send(read.map(|_| said));
        });
    }
    let what = "waiting for the shim";
    match told.recv_timeout(limit) {
        Ok(said) => said.map_err(|source| StartError::Io { what, source }),
        Err(_) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(StartError::Late)
        }
    }
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::bootstrap_api::Extension;

    use super::*;
    use crate::names::{ContainerId, Namespace};

    fn target() -> Target {
        Target {
            namespace: Namespace::try_from("default").unwrap(),
            id: ContainerId::try_from("demo").unwrap(),
            address: String::new(),
            bundle: None,
            debug: false,
        }
    }

    #[test]
    fn every_containerd_gets_the_answer_that_it_reads() {
        let address = "unix:///run/seed/s/abc";
        assert_eq!(answer(Form::Bare, address).unwrap(), address.as_bytes());
        let json: serde_json::Value =
            serde_json::from_slice(&answer(Form::Json, address).unwrap()).unwrap();
        assert_eq!(json["version"], 2);
        assert_eq!(json["protocol"], "ttrpc");
        let bytes = answer(Form::Bootstrap, address).unwrap();
        assert_eq!(
            BootstrapResult::parse_from_bytes(&bytes).unwrap().address,
            address
        );
    }

    #[test]
    fn a_server_that_never_listens_is_not_waited_for() {
        let child = |words: &[&str]| {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).stdout(Stdio::piped());
            command.spawn().unwrap()
        };
        let mut hangs = child(&["sleep", "1000"]);
        let late = said_within(Duration::from_millis(50), &mut hangs);
        assert!(matches!(late, Err(StartError::Late)), "{late:?}");
        assert!(hangs.try_wait().unwrap().is_some(), "it lives on");
        let mut listens = child(&["echo", "ready"]);
        let said = said_within(Duration::from_secs(60), &mut listens);
        assert_eq!(said.unwrap(), READY);
        listens.wait().unwrap();
    }

    #[test]
    fn options_are_found_in_both_kinds_of_input() {
        let any = options::with_config_path(Path::new("/c.toml"));
        let (bootstrap, found) = read_input(&any.write_to_bytes().unwrap(), &target());
        assert_eq!((bootstrap, found.as_ref()), (false, Some(&any)));
        let params = BootstrapParams {
            instance_id: "demo".into(),
            namespace: "default".into(),
            extensions: vec![Extension {
                value: Some(any.clone()).into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let (bootstrap, found) = read_input(&params.write_to_bytes().unwrap(), &target());
        assert_eq!((bootstrap, found), (true, Some(any)));
        assert_eq!(read_input(b"", &target()), (false, None));
    }
}
