//! `seed logs`: reads the segments; the instance need not run.

use std::{io, process::ExitCode, time::Duration};

use seed_shim::logs::{
    entry::{Record, records},
    reader::{self, Item, Reader},
    render::{Human, json},
};
use tokio::time::sleep;

use super::Context;
use crate::{cli::LogsArgs, error::CliError, output};

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
    let mut printer = Printer {
        human: Human::for_user(output::stdout_is_terminal()),
        json: context.global.json,
        text: Vec::new(),
    };
    let shown = |record: &Record| args.filter.passes(record);
    let mut reader = match args.lines {
        None => Reader::from_start(dir),
        Some(lines) => {
            let wanted = |frame: &_| records(frame).into_iter().filter(shown).collect();
            let (last, reader) = reader::tail(dir, lines, wanted)?;
            for record in &last {
                printer.add(record)?;
            }
            reader
        }
    };
    loop {
        while let Some(item) = reader.next()? {
            let records = match item {
                Item::Frame(frame) => records(&frame),
                Item::Removed => vec![Record::Removed],
            };
            for record in records.iter().filter(|record| shown(record)) {
                printer.add(record)?;
            }
        }
        printer.flush()?;
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        sleep(LOOK).await;
        if reader_is_gone() {
            return Ok(ExitCode::SUCCESS);
        }
    }
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
    json: bool,
    text: Vec<u8>,
}

impl Printer {
    fn add(&mut self, record: &Record) -> Result<(), CliError> {
        if self.json {
            json::render(record, &mut self.text);
        } else {
            self.human.render(record, &mut self.text);
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
