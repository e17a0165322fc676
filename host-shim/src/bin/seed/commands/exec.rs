//! `seed exec`: a command in the guest, its streams, its signals, its exit status.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::{Arc, OnceLock},
};

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use seed_shim::{
    containerd::exec::{Command, Session},
    data::{Pieces, json_line},
    text::chain,
};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Context;
use crate::{
    cli::ExecArgs,
    error::{CliError, EXEC_FAILED},
};

pub(super) async fn exec(context: &Context<'_>, args: ExecArgs) -> Result<ExitCode, CliError> {
    let ExecArgs {
        which,
        command,
        env,
        cwd,
        stdin,
        terminal,
    } = args;
    if terminal && !(isatty(io::stdin()) && isatty(io::stdout())) {
        let remedy = "Leave out -t; -i passes on standard input.";
        return Err(CliError::new("-t needs a terminal here", remedy).with_code(EXEC_FAILED));
    }
    let failed = |error: CliError| error.with_code(EXEC_FAILED);
    let instance = context.pick(which).map_err(failed)?;
    let record = instance.record().map_err(|error| failed(error.into()))?;
    let task = instance
        .task(&record)
        .await
        .map_err(|error| failed(error.into()))?;
    let size = terminal.then(window_size);
    let command = Command {
        args: command,
        env,
        cwd,
        terminal: size,
        stdin,
    };
    let folder = instance.paths().run_dir().join("exec");
    let mut signals = Signals::new()?;
    let json = context.global.json;
    let lost = Lost::default();
    let session = Session::start(
        task,
        instance.id().as_str(),
        &folder,
        &command,
        sink(json, "stdout", io::stdout(), &lost),
        sink(json, "stderr", io::stderr(), &lost),
    )
    .await?;
    let raw = if terminal { RawMode::enter() } else { None };
    let status = serve(session, &mut signals, terminal).await;
    drop(raw);
    // Exit statuses are bytes; systemd and Kata keep to that.
    let status = u8::try_from(status? & 0xff).unwrap_or(EXEC_FAILED);
    if json {
        let line = json_line(&json!({ "status": status }));
        put(&mut io::stdout(), line.as_bytes(), &lost);
    }
    match lost.get() {
        None => Ok(ExitCode::from(status)),
        Some(error) => {
            let what = format!(
                "the command ended with status {status}, and some of its output is lost: {}",
                chain(error)
            );
            let remedy = "Mend that where its output goes, and run it again.";
            Err(failed(CliError::new(what, remedy)))
        }
    }
}

/// Why output did not reach somebody who still reads: the first time.
type Lost = Arc<OnceLock<io::Error>>;

/// Writes. Whoever read us may be gone: the command goes on, and is read on.
fn put(to: &mut impl Write, bytes: &[u8], lost: &Lost) {
    match to.write_all(bytes).and_then(|()| to.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => drop(lost.set(error)),
        Ok(()) | Err(_) => {}
    }
}

/// Where the pieces of a stream go: as they are to this stream of ours, or as documents to standard output.
fn sink<W: Write + Send + 'static>(
    json: bool,
    stream: &'static str,
    mut to: W,
    lost: &Lost,
) -> impl FnMut(&[u8]) + Send + use<W> {
    let (mut pieces, lost) = (Pieces::default(), Arc::clone(lost));
    move |data: &[u8]| {
        if !json {
            put(&mut to, data, &lost);
        } else if let Some(piece) = pieces.add(data) {
            let line = json_line(&json!({ stream: piece }));
            put(&mut io::stdout(), line.as_bytes(), &lost);
        }
    }
}

/// Passes on signals and the end of standard input until the command has ended.
async fn serve(
    mut session: Session,
    signals: &mut Signals,
    terminal: bool,
) -> Result<u32, CliError> {
    let (task, container, id) = session.waiter();
    let ended = task.wait(&container, &id);
    tokio::pin!(ended);
    let ended = loop {
        let mut stdin_end = Box::pin(session.stdin_end());
        tokio::select! {
            ended = &mut ended => break ended,
            () = &mut stdin_end => {}
            event = signals.next() => {
                drop(stdin_end);
                match event {
                    Event::Resize if terminal => session.resize(window_size()).await,
                    Event::Resize => {}
                    Event::Signal(number) => session.signal(number).await,
                }
            }
        }
    };
    let ended = ended
        .map_err(|error| CliError::from(seed_shim::containerd::exec::ExecError::from(error)))?;
    session.finish().await;
    Ok(ended.exit_status)
}

fn window_size() -> (u16, u16) {
    tcgetwinsize(io::stdout()).map_or((80, 24), |size| (size.ws_col, size.ws_row))
}

/// The terminal passes every key on; it is as it was when this is dropped.
struct RawMode(Termios);

impl RawMode {
    fn enter() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

enum Event {
    Resize,
    Signal(u32),
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
    resize: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            resize: signal(SignalKind::window_change())?,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.interrupt.recv() => Event::Signal(2),
            _ = self.terminate.recv() => Event::Signal(15),
            _ = self.hangup.recv() => Event::Signal(1),
            _ = self.quit.recv() => Event::Signal(3),
            _ = self.resize.recv() => Event::Resize,
        }
    }
}
