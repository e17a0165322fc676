//! `seed logs`: reads the segments; the instance need not run.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use seed_protocol::JournalNamespace;
use seed_shim::logs::{
    namespaces,
    reader::{self, ReadError},
    render::Human,
    show::{Query, Show},
};
use tokio::time::sleep;

use super::Context;
use crate::{
    cli::{Boot, LogsArgs},
    error::CliError,
    output,
};

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(50);

pub(super) async fn logs(context: &Context<'_>, args: LogsArgs) -> Result<ExitCode, CliError> {
    let instance = context.pick(args.which)?;
    let dir = instance.paths().logs_dir();
    if !dir.exists() && !instance.paths().run_dir().exists() {
        // No instance and no log: this says so.
        instance.record()?;
    }
    let dir = match &args.namespace {
        None => dir.to_owned(),
        Some(namespace) => of_namespace(dir, namespace)?,
    };
    let dir = dir.as_path();
    let mut filter = args.filter;
    if let Some(boot) = args.boot {
        filter.boot = Some(resolve(boot, dir)?);
    }
    let query = Query {
        lines: args.lines,
        filter,
        form: args.form,
    };
    let mut show = Show::open(dir, query, Human::new(output::stdout_is_terminal()))?;
    let mut text = Vec::new();
    loop {
        while show.read(&mut text)? {
            flush(&mut text)?;
        }
        flush(&mut text)?;
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        show.follow(instance.id().as_str());
        sleep(LOOK).await;
        if reader_is_gone() {
            return Ok(ExitCode::SUCCESS);
        }
        show.begin_anew(&mut text)?;
    }
}

/// The log of a namespace, which has to be there: a name that was misspelt would show nothing for ever.
fn of_namespace(log: &Path, namespace: &JournalNamespace) -> Result<PathBuf, CliError> {
    let kept = namespaces::kept(log).map_err(|source| ReadError {
        path: log.into(),
        source: source.into(),
    })?;
    if kept.contains(namespace) {
        return Ok(namespaces::dir_of(log, namespace));
    }
    let names: Vec<&str> = kept.iter().map(JournalNamespace::as_str).collect();
    let known = match names.as_slice() {
        [] => "The guest has shown none so far: it does when a unit with LogNamespace= logs."
            .to_owned(),
        names => format!("There is a log of: {}.", names.join(", ")),
    };
    Err(CliError::new(
        format!("there is no log of journal namespace {namespace}"),
        known,
    ))
}

fn flush(text: &mut Vec<u8>) -> Result<(), CliError> {
    if !text.is_empty() {
        output::print_bytes(text)?;
        text.clear();
    }
    Ok(())
}

fn resolve(boot: Boot, dir: &Path) -> Result<[u8; 16], CliError> {
    let offset = match boot {
        Boot::Id(id) => return Ok(id),
        Boot::Offset(offset) => offset,
    };
    let boots = reader::boots(dir)?;
    let count = i64::try_from(boots.len()).unwrap_or(i64::MAX);
    let at = if offset > 0 {
        offset - 1
    } else {
        offset.saturating_add(count - 1)
    };
    let found = usize::try_from(at).ok().and_then(|at| boots.get(at));
    found.copied().ok_or_else(|| {
        let known = if count == 1 { "boot" } else { "boots" };
        CliError::new(
            format!("boot {offset} is not in the log, which has {count} {known}"),
            "Count from the last (0, -1, -2...) or from the first (1, 2...).",
        )
    })
}

/// Whoever read our stdout has gone, seen before there is anything to write.
fn reader_is_gone() -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let stdout = io::stdout();
    let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::ERR)
}
