//! `logs`: reads the segments; the instance need not run.

use seed_shim::logs::{
    filter::Filter,
    render::Human,
    show::{Form, Query, Show},
};
use tokio::task::spawn_blocking;

use super::{Context, Failure};

pub(super) async fn logs(
    context: &Context<'_>,
    which: &str,
    follow: bool,
    lines: usize,
) -> Result<u8, Failure> {
    let target = context.pick(which)?;
    let work = show(context, &target, follow, lines);
    context.while_seen(&target.repo, work).await
}

async fn show(
    context: &Context<'_>,
    target: &crate::access::Target,
    follow: bool,
    lines: usize,
) -> Result<u8, Failure> {
    let shared = &context.session.shared;
    let output = &context.session.output;
    let dir = shared.instances.logs(&target.repo.namespace, &target.name);
    // Made before the first look, so that it rings for whatever comes after that.
    let mut bell = shared.bells.of(&dir);
    let query = Query {
        lines: Some(lines),
        filter: Filter::default(),
        form: if context.json {
            Form::Json
        } else {
            Form::Human
        },
    };
    // Escaped also without a terminal of ours: what the client prints to may be one.
    let human = Human::safe(output.terminal());
    let mut show = blocking(move || Show::open(&dir, query, human)).await?;
    let mut followed = false;
    loop {
        loop {
            let (back, text, more) = blocking(move || {
                let mut text = Vec::new();
                if followed {
                    show.begin_anew(&mut text)?;
                }
                let more = show.read(&mut text)?;
                Ok((show, text, more))
            })
            .await?;
            show = back;
            if !text.is_empty() {
                output.text(text).await?;
            }
            if !more {
                break;
            }
        }
        if !follow {
            return Ok(0);
        }
        if !followed {
            show.follow(target.name.as_str());
            followed = true;
        }
        bell.ring().await;
    }
}

/// Disk work, off the threads that serve connections.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, seed_shim::logs::reader::ReadError> + Send + 'static,
) -> Result<T, Failure> {
    match spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(error) => {
            tracing::error!(%error, "reading a log failed");
            Err(Failure::new(
                "the log cannot be read",
                "This is a failure of the host; tell whoever runs it.",
            ))
        }
    }
}
