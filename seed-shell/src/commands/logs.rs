//! `logs`: reads the segments; the instance need not run.

use seed_shim::logs::{
    filter::Filter,
    reader::ReadError,
    render::Human,
    show::{Form, Query, Show},
};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use super::{Context, Failure};
use crate::{access::Target, follow::Bell, ssh::Shared};

pub(super) async fn logs(
    context: &Context<'_>,
    which: &str,
    follow: bool,
    lines: usize,
) -> Result<u8, Failure> {
    let target = context.pick(which)?;
    let form = if context.json {
        Form::Json
    } else {
        Form::Human
    };
    let output = &context.session.output;
    let work = async {
        let shared = &context.session.shared;
        let mut log = Follower::open(shared, &target, lines, form, output.terminal()).await?;
        loop {
            let text = log.next().await?;
            if text.is_empty() && !follow {
                return Ok(0);
            }
            output.text(text).await?;
        }
    };
    context.while_seen(&target.repo, work).await
}

/// The log of an instance as text, the last lines first and then on as it grows.
#[derive(Debug)]
pub struct Follower {
    stage: Stage,
    bell: Bell,
    name: String,
    /// There was nothing more before the bell rings.
    at_end: bool,
    /// There may be more at once.
    more: bool,
}

/// The reader, what it read, and whether there may be more at once.
type Piece = (Box<Show>, Vec<u8>, bool);

/// Where the reader is: disk work is done off the threads that serve connections.
#[derive(Debug)]
enum Stage {
    Here(Box<Show>),
    Reading(JoinHandle<Result<Piece, ReadError>>),
    Lost,
}

impl Follower {
    /// Finds the last `lines`.
    pub async fn open(
        shared: &Shared,
        target: &Target,
        lines: usize,
        form: Form,
        colour: bool,
    ) -> Result<Self, Failure> {
        let dir = shared.instances.logs(&target.repo.namespace, &target.name);
        // Made before the first look, so that it rings for whatever comes after that.
        let bell = shared.bells.of(&dir);
        let query = Query {
            lines: Some(lines),
            filter: Filter::default(),
            form,
        };
        // Escaped also without a terminal of ours: what the client prints to may be one.
        let human = Human::safe(colour);
        let opened = spawn_blocking(move || Show::open(&dir, query, human)).await;
        Ok(Self {
            stage: Stage::Here(Box::new(opened.map_err(unreadable)??)),
            bell,
            name: target.name.to_string(),
            at_end: false,
            more: true,
        })
    }

    /// More text. Nothing once, when all that there was has been read; from then on it waits for more. Dropping
    /// the future loses nothing.
    pub async fn next(&mut self) -> Result<Vec<u8>, Failure> {
        loop {
            if matches!(self.stage, Stage::Here(_)) {
                if self.at_end && !self.more {
                    self.bell.ring().await;
                }
                self.start();
            }
            let Stage::Reading(reading) = &mut self.stage else {
                return Err(Failure::new("the log ended", "Try again."));
            };
            let (mut show, text, more) = match reading.await {
                Ok(Ok(read)) => read,
                Ok(Err(error)) => {
                    self.stage = Stage::Lost;
                    return Err(error.into());
                }
                Err(error) => {
                    self.stage = Stage::Lost;
                    return Err(unreadable(error));
                }
            };
            self.more = more;
            let first_end = text.is_empty() && !more && !self.at_end;
            if first_end {
                show.follow(&self.name);
                self.at_end = true;
            }
            self.stage = Stage::Here(show);
            if first_end || !text.is_empty() {
                return Ok(text);
            }
        }
    }

    fn start(&mut self) {
        let followed = self.at_end;
        self.stage = match std::mem::replace(&mut self.stage, Stage::Lost) {
            Stage::Here(mut show) => Stage::Reading(spawn_blocking(move || {
                let mut text = Vec::new();
                if followed {
                    show.begin_anew(&mut text)?;
                }
                let more = show.read(&mut text)?;
                Ok((show, text, more))
            })),
            other => other,
        };
    }
}

fn unreadable(error: JoinError) -> Failure {
    tracing::error!(%error, "reading a log failed");
    Failure::new(
        "the log cannot be read",
        "This is a failure of the host; tell whoever runs it.",
    )
}
