//! `exec`: a command in an instance, as its root, with the client's input, output, terminal and signals.
//!
//! It is the one command whose output is passed on as it is: that is what was asked for. With `--json` each piece of
//! output is a document, and so is the end.

use russh::Sig;
use seed_protocol::seed::management::{Output as Stream, StartExecRequest};
use seed_shim::{
    data::Pieces,
    management::{ClientError, Command},
};
use serde_json::json;

use super::{Context, Failure};
use crate::ssh::channel::{Input, Session};

/// What ssh(1) ends with when it is not the command that failed.
const NOT_THE_COMMAND: u8 = 255;

pub(super) async fn exec(
    context: &Context<'_>,
    which: &str,
    command: Vec<String>,
) -> Result<u8, Failure> {
    run(context, which, command)
        .await
        .map_err(|failure| Failure {
            status: NOT_THE_COMMAND,
            ..failure
        })
}

async fn run(context: &Context<'_>, which: &str, args: Vec<String>) -> Result<u8, Failure> {
    let session = context.session;
    let config = &session.shared.config;
    let target = context.pick(which)?;
    if !config.exec {
        return Err(Failure::new(
            "commands in instances are switched off on this host",
            "Ask whoever runs it, or look at 'logs' and 'status'.",
        ));
    }
    // Nothing has been waited for yet, so nothing of it was thrown away.
    session.want_much_input()?;
    let size = session.size.as_ref().filter(|_| !context.json);
    let (rows, columns) = size.map_or((0, 0), |size| {
        let size = *size.borrow();
        (size.rows.into(), size.columns.into())
    });
    let term = session.term.iter().filter(|term| !term.is_empty());
    let request = StartExecRequest {
        args,
        env: term.map(|term| format!("TERM={term}")).collect(),
        terminal: size.is_some(),
        rows,
        columns,
        ..Default::default()
    };
    let namespace = &target.repo.namespace;
    let work = async {
        let instances = &session.shared.instances;
        let command = instances.command(namespace, &target.name, &request).await?;
        // The program and what it is given are the owner's secret.
        tracing::info!(%namespace, instance = %target.name, who = %session.who, "command started");
        follow(context, &command).await
    };
    context.while_seen(&target.repo, work).await
}

/// Until it has ended and all its output is on its way.
async fn follow(context: &Context<'_>, command: &Command) -> Result<u8, Failure> {
    let session = context.session;
    let ended = async {
        let (status, (), ()) = tokio::try_join!(
            async { command.wait().await.map_err(Failure::from) },
            copy(context, command, Stream::OUTPUT_STDOUT),
            copy(context, command, Stream::OUTPUT_STDERR),
        )?;
        if context.json {
            session.output.json(&json!({ "status": status })).await?;
        }
        Ok(u8::try_from(status).unwrap_or(u8::MAX))
    };
    tokio::select! {
        ended = ended => ended,
        failure = feed(session, command) => Err(failure),
        () = resizes(session, command) => Err(gone()),
        () = signals(session, command) => Err(gone()),
    }
}

fn gone() -> Failure {
    Failure::new("the client has gone", "")
}

async fn copy(context: &Context<'_>, command: &Command, stream: Stream) -> Result<(), Failure> {
    let output = &context.session.output;
    let (mut position, mut pieces) = (0, Pieces::default());
    loop {
        let data = command.read(stream, position).await?;
        let last = data.is_empty();
        position += data.len() as u64;
        if context.json {
            if let Some(piece) = pieces.add(&data) {
                let stream = match stream {
                    Stream::OUTPUT_STDOUT => "stdout",
                    Stream::OUTPUT_STDERR => "stderr",
                };
                output.json(&json!({ stream: piece })).await?;
            }
        } else if !last {
            output.raw(stream == Stream::OUTPUT_STDERR, data).await?;
        }
        if last {
            return Ok(());
        }
    }
}

/// Passes input on; ends only when input cannot be had.
async fn feed(session: &Session, command: &Command) -> Failure {
    let mut position = 0;
    let mut fed: Result<(), ClientError> = Ok(());
    loop {
        match session.input().await {
            // What a command does not take any more is thrown away: its end is the answer.
            Ok(Input::Data(data)) if fed.is_ok() => {
                fed = command.write(position, &data).await;
                position += data.len() as u64;
            }
            Ok(Input::Data(_)) => {}
            Ok(Input::Eof) => {
                if let Err(error) = command.close_input().await {
                    tracing::debug!(%error, "input was not closed");
                }
                return std::future::pending().await;
            }
            Err(error) => return error.into(),
        }
    }
}

async fn resizes(session: &Session, command: &Command) {
    let Some(mut sizes) = session.size.clone() else {
        return std::future::pending().await;
    };
    while sizes.changed().await.is_ok() {
        let size = *sizes.borrow_and_update();
        if let Err(error) = command.resize(size.columns, size.rows).await {
            tracing::debug!(%error, "terminal was not resized");
        }
    }
}

async fn signals(session: &Session, command: &Command) {
    while let Some(signal) = session.signal().await {
        let Some(number) = number(&signal) else {
            continue;
        };
        if let Err(error) = command.signal(number).await {
            tracing::debug!(%error, number, "command was not signalled");
        }
    }
}

/// Linux's number of a signal of RFC 4254, section 6.10.
fn number(signal: &Sig) -> Option<u32> {
    Some(match signal {
        Sig::HUP => 1,
        Sig::INT => 2,
        Sig::QUIT => 3,
        Sig::ILL => 4,
        Sig::ABRT => 6,
        Sig::FPE => 8,
        Sig::KILL => 9,
        Sig::USR1 => 10,
        Sig::SEGV => 11,
        Sig::PIPE => 13,
        Sig::ALRM => 14,
        Sig::TERM => 15,
        Sig::Custom(name) => match name.as_str() {
            "USR2" => 12,
            "WINCH" => 28,
            _ => return None,
        },
    })
}
