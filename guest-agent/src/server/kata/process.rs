//! Processes that the host starts in the guest: `ExecProcess` and what concerns one exec. The container's
//! first process, which is systemd, is not handled here.

use std::sync::Arc;

use seed_protocol::kata::{agent::*, empty::Empty, oci};

use super::stdio::is_containers_own;
use crate::{
    agent::Context,
    exec::{ExecError, ExecKey, ProcessSpec, Size, User},
    server::error::RequestError,
};

/// The longest exec id. containerd's are 64 digits.
const MAX_ID_BYTES: usize = 256;

/// The highest signal: `_NSIG` on every architecture that we know.
const MAX_SIGNAL: i32 = 64;

pub(super) async fn exec_process(
    ctx: &Arc<Context>,
    request: ExecProcessRequest,
) -> Result<Empty, RequestError> {
    let ExecProcessRequest {
        container_id,
        exec_id,
        process,
        ..
    } = request;
    let key = key(ctx, &container_id, &exec_id)?;
    let process = process.into_option();
    let process = process.ok_or_else(|| RequestError::Invalid("no process".to_owned()))?;
    ctx.execs.start(key, &spec(process)?).await?;
    Ok(Empty::default())
}

pub(super) async fn signal_exec(
    ctx: &Arc<Context>,
    request: SignalProcessRequest,
) -> Result<(), RequestError> {
    let signal = i32::try_from(request.signal)
        .ok()
        .filter(|n| (1..=MAX_SIGNAL).contains(n));
    let signal = signal
        .ok_or_else(|| RequestError::Invalid(format!("there is no signal {}", request.signal)))?;
    let key = key(ctx, &request.container_id, &request.exec_id)?;
    match ctx.execs.signal(&key, signal).await {
        // Kata's word for "it has ended": a shim takes it for success.
        Err(ExecError::Ended(id)) => Err(ExecError::NotFound(id).into()),
        result => Ok(result?),
    }
}

pub(super) async fn wait_exec(
    ctx: &Arc<Context>,
    request: WaitProcessRequest,
) -> Result<i32, RequestError> {
    let key = key(ctx, &request.container_id, &request.exec_id)?;
    Ok(ctx.execs.wait(&key).await?)
}

pub(super) async fn tty_win_resize(
    ctx: &Arc<Context>,
    request: TtyWinResizeRequest,
) -> Result<Empty, RequestError> {
    if is_containers_own(ctx, &request.container_id, &request.exec_id)?.is_some() {
        // There is no terminal whose size could matter; a shim tells it in any case.
        size(request.row, request.column)?;
        return Ok(Empty::default());
    }
    let key = key(ctx, &request.container_id, &request.exec_id)?;
    ctx.execs.resize(&key, size(request.row, request.column)?)?;
    Ok(Empty::default())
}

/// Which exec a request means.
pub(super) fn key(
    ctx: &Context,
    container_id: &str,
    exec_id: &str,
) -> Result<ExecKey, RequestError> {
    ctx.sandbox.expect_container(container_id)?;
    if exec_id.is_empty() || exec_id == container_id {
        let reason = "the container's own process is systemd; its output is the journal";
        return Err(RequestError::Invalid(reason.to_owned()));
    }
    if exec_id.len() > MAX_ID_BYTES || exec_id.contains(|c: char| c.is_control()) {
        let reason = format!("an exec id has at most {MAX_ID_BYTES} bytes and none of control");
        return Err(RequestError::Invalid(reason));
    }
    Ok(ExecKey {
        container: container_id.to_owned(),
        exec: exec_id.to_owned(),
    })
}

/// Capabilities, limits and labels are those of a container inside a VM; here the VM is the boundary,
/// and an exec runs as systemd would run it.
pub(super) fn spec(process: oci::Process) -> Result<ProcessSpec, RequestError> {
    let oci::Process {
        Terminal,
        ConsoleSize,
        User,
        Args,
        Env,
        Cwd,
        NoNewPrivileges,
        ..
    } = process;
    let terminal = match ConsoleSize.into_option() {
        _ if !Terminal => None,
        Some(console) => Some(size(console.Height, console.Width)?),
        None => Some(Size::default()),
    };
    Ok(ProcessSpec {
        arguments: Args,
        environment: Env,
        directory: Cwd,
        user: user(User.unwrap_or_default()),
        no_new_privileges: NoNewPrivileges,
        terminal,
    })
}

/// The name counts where there is one; a group of 0 is one that nobody gave.
fn user(user: oci::User) -> User {
    if user.Username.is_empty() {
        User::Number {
            uid: user.UID,
            gid: (user.GID != 0).then_some(user.GID),
        }
    } else {
        User::Name(user.Username)
    }
}

fn size(rows: u32, columns: u32) -> Result<Size, RequestError> {
    match (u16::try_from(rows), u16::try_from(columns)) {
        (Ok(rows), Ok(columns)) => Ok(Size { rows, columns }),
        _ => Err(RequestError::Invalid(format!(
            "no terminal has {rows} rows, {columns} columns"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_name_or_a_number_with_a_group_of_its_own() {
        let named = oci::User {
            Username: "app".into(),
            UID: 7,
            ..Default::default()
        };
        assert_eq!(user(named), User::Name("app".into()));
        let number = oci::User {
            UID: 7,
            ..Default::default()
        };
        assert_eq!(user(number), User::Number { uid: 7, gid: None });
        let grouped = oci::User {
            UID: 7,
            GID: 8,
            ..Default::default()
        };
        assert_eq!(
            user(grouped),
            User::Number {
                uid: 7,
                gid: Some(8)
            }
        );
    }

    #[test]
    fn a_console_size_counts_only_with_a_terminal() {
        let console = oci::Box {
            Height: 24,
            Width: 80,
            ..Default::default()
        };
        let with_console = |terminal| oci::Process {
            Terminal: terminal,
            ConsoleSize: Some(console.clone()).into(),
            ..Default::default()
        };
        assert_eq!(spec(with_console(false)).unwrap().terminal, None);
        let size = Size {
            rows: 24,
            columns: 80,
        };
        assert_eq!(spec(with_console(true)).unwrap().terminal, Some(size));
        let bare = oci::Process {
            Terminal: true,
            ..Default::default()
        };
        assert_eq!(spec(bare).unwrap().terminal, Some(Size::default()));
        assert!(super::size(70_000, 1).is_err());
    }
}
