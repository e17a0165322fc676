//! `seed logs`: reads the segments; the instance need not run.

use std::{io, path::Path, process::ExitCode, time::Duration};

use seed_shim::logs::{
    entry::{self, Record},
    filter::{Filter, Verdict},
    reader::{self, Item, Reader, Tail},
    render::{Human, Json, export},
};
use tokio::time::sleep;

use super::Context;
use crate::{
    cli::{Boot, Form, LogsArgs},
    error::CliError,
    output,
};

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How much text is gathered before it is printed.
const CHUNK_BYTES: usize = 64 << 10;

pub(super) async fn logs(context: &Context<'_>, args: LogsArgs) -> Result<ExitCode, CliError> {
    let instance = context.pick(args.which)?;
    let dir = instance.paths().logs_dir();
    if !dir.exists() && !instance.paths().run_dir().exists() {
        // No instance and no log: this says so.
        instance.record()?;
    }
    let mut filter = args.filter;
    if let Some(boot) = args.boot {
        filter.boot = Some(resolve(boot, dir)?);
    }
    let Tail { mut reader, skip } = match args.lines {
        None => Tail {
            reader: Reader::from_start(dir),
            skip: 0,
        },
        Some(lines) => reader::tail(dir, lines, |frame| wanted(frame, &filter))?,
    };
    let mut printer = Printer {
        human: Human::new(output::stdout_is_terminal()),
        json: Json::default(),
        form: args.form,
        filter,
        skip,
        text: Vec::new(),
    };
    loop {
        while let Some(item) = reader.next()? {
            match item {
                Item::Frame(frame) => entry::for_each(&frame, |record| printer.add(record))?,
                Item::Removed => printer.add(&Record::Removed)?,
            }
        }
        printer.flush()?;
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        printer.human.follow(instance.id().as_str());
        sleep(LOOK).await;
        if reader_is_gone() {
            return Ok(ExitCode::SUCCESS);
        }
        if reader.begin_anew()? {
            printer.add(&Record::Removed)?;
        }
    }
}

/// How many of a frame's entries are asked for.
fn wanted(frame: &seed_shim::logs::segment::Frame, filter: &Filter) -> usize {
    let mut count = 0;
    let Ok(()) = entry::for_each(frame, |record| {
        if let Record::Entry(entry) = record
            && filter.passes(entry)
        {
            count += 1;
        }
        Ok::<(), std::convert::Infallible>(())
    });
    count
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

struct Printer {
    human: Human,
    json: Json,
    form: Form,
    filter: Filter,
    /// Wanted entries that come before the first one to print.
    skip: usize,
    text: Vec<u8>,
}

impl Printer {
    fn add(&mut self, record: &Record<'_>) -> Result<(), CliError> {
        let dropped;
        let record = match self.filter.judge(record) {
            Verdict::Hide => return Ok(()),
            Verdict::Show => record,
            Verdict::Dropped(count) => {
                dropped = Record::Dropped { count };
                &dropped
            }
        };
        if self.skip > 0 {
            // A mark before the first wanted entry tells of what is before it.
            self.skip -= usize::from(matches!(record, Record::Entry(_)));
            return Ok(());
        }
        match self.form {
            Form::Human => self.human.render(record, &mut self.text),
            Form::Json => self.json.render(record, &mut self.text),
            Form::Export => export::render(record, &mut self.text),
        }
        if self.text.len() >= CHUNK_BYTES {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), CliError> {
        if !self.text.is_empty() {
            output::print_bytes(&self.text)?;
            self.text.clear();
        }
        Ok(())
    }
}
