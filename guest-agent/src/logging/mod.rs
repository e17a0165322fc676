//! Where the agent's own words go: to journald, so that they are part of the instance's stream like
//! everything else; to standard error where there is no journald.
//!
//! A journald that is stuck takes nothing, and a send to its socket then waits for as long as that lasts. So whoever says something puts
//! it into a queue (`queue`, `record`), and a thread of its own tells it. What did not fit is counted, and said when
//! journald takes lines again.

mod queue;
mod record;

use std::{io, sync::Arc, time::Duration};

use thiserror::Error;
use tracing::{
    Dispatch, Event, Metadata, Subscriber, dispatcher,
    level_filters::LevelFilter,
    span::{Attributes, Id, Record as SpanRecord},
    warn,
};
use tracing_subscriber::{Registry, layer::SubscriberExt};

use self::{
    queue::{Next, Queue},
    record::Record,
};
use crate::sys::privileges;

/// The name that journald files them under.
const IDENTIFIER: &str = "seed-agent";

/// Why nothing can be logged.
#[derive(Debug, Error)]
#[error("the thread of the log cannot be started")]
pub struct LogError(#[from] io::Error);

/// The log of this process. Its thread ends with it, when all has been told.
#[derive(Debug)]
pub struct Log {
    queue: Arc<Queue>,
}

/// Starts logging for the whole process; a second call changes nothing. Does not wait for journald.
///
/// # Errors
/// When there can be no thread for it.
pub fn start(debug: bool) -> Result<Log, LogError> {
    let level = if debug {
        LevelFilter::DEBUG
    } else {
        LevelFilter::INFO
    };
    let (log, sayer) = begin(level, move || journald_or_stderr(level))?;
    // The only failure is "started before".
    drop(dispatcher::set_global_default(sayer));
    Ok(log)
}

impl Log {
    /// Waits until everything that was said so far has been told. False when the limit was over first.
    pub fn finish(&self, limit: Duration) -> bool {
        self.queue.wait_until_told(limit)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// What tells. Blocks where journald is stuck.
fn journald_or_stderr(level: LevelFilter) -> Dispatch {
    let registry = Registry::default().with(level);
    match tracing_journald::layer() {
        Ok(journald) => {
            let journald = journald.with_syslog_identifier(IDENTIFIER.to_owned());
            registry.with(journald).into()
        }
        Err(_) => {
            let stderr = tracing_subscriber::fmt::layer()
                .with_writer(io::stderr)
                .without_time();
            registry.with(stderr).into()
        }
    }
}

/// The log, whose thread makes what tells; and what takes what is said.
fn begin(
    level: LevelFilter,
    teller: impl FnOnce() -> Dispatch + Send + 'static,
) -> Result<(Log, Dispatch), LogError> {
    let queue = Arc::<Queue>::default();
    let log = Log {
        queue: Arc::clone(&queue),
    };
    let sayer = Sayer {
        level,
        queue: Arc::clone(&queue),
    };
    privileges::spawn("log", move || {
        dispatcher::with_default(&teller(), || {
            while let Some(next) = queue.next() {
                match next {
                    Next::Record(record) => record.say(),
                    Next::Missing(lines) => warn!(
                        lines,
                        "journald took nothing for so long that lines of this agent are missing here"
                    ),
                }
            }
        });
    })?;
    Ok((log, Dispatch::new(sayer)))
}

/// Takes what the agent says. There are no spans in it.
struct Sayer {
    level: LevelFilter,
    queue: Arc<Queue>,
}

impl Subscriber for Sayer {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        self.queue.push(Record::of(event));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &SpanRecord<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[cfg(test)]
mod tests {
    use std::{
        fmt::{self, Write},
        os::unix::net::UnixDatagram,
    };

    use tracing::{
        error,
        field::{Field, Visit},
        info,
    };
    use tracing_subscriber::{Layer, layer::Context};

    use super::*;

    /// Far more than anything takes that shall happen.
    const LIMIT: Duration = Duration::from_secs(60);
    /// More than fits.
    const MANY: u64 = 5000;

    /// Sends each event as a text, and waits while nobody reads, as journald's layer does.
    struct ToSocket(UnixDatagram);

    struct Text(String);

    impl Visit for Text {
        fn record_str(&mut self, field: &Field, value: &str) {
            write!(self.0, "|{}={value}", field.name()).unwrap();
        }

        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            write!(self.0, "|{}={value:?}", field.name()).unwrap();
        }
    }

    impl<S: Subscriber> Layer<S> for ToSocket {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let metadata = event.metadata();
            let begin = format!("{} {:?}", metadata.level(), metadata.line());
            let mut text = Text(begin);
            event.record(&mut text);
            self.0.send(text.0.as_bytes()).unwrap();
        }
    }

    fn socket() -> (UnixDatagram, Dispatch) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_read_timeout(Some(LIMIT)).unwrap();
        let layers = Registry::default().with(LevelFilter::INFO);
        (ours, layers.with(ToSocket(theirs)).into())
    }

    fn receive(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 4096];
        let got = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..got].to_vec()).unwrap()
    }

    #[test]
    fn a_socket_that_nobody_reads_holds_up_nobody_and_what_is_missing_is_said_where_it_is_missing()
    {
        let (socket, teller) = socket();
        let (log, sayer) = begin(LevelFilter::INFO, move || teller).unwrap();
        dispatcher::with_default(&sayer, || {
            (0..MANY).for_each(|number| info!(number));
            assert!(!log.finish(Duration::from_millis(20)));
            let mut told = 0;
            let missing = loop {
                let line = receive(&socket);
                if let Some((_, lines)) = line.split_once("|lines=") {
                    assert!(line.starts_with("WARN"), "{line}");
                    break lines.parse::<u64>().unwrap();
                }
                assert!(line.ends_with(&format!("|number={told}")), "{line}");
                told += 1;
            };
            assert!(told >= 1000, "{told} lines are kept");
            assert_eq!(told + missing, MANY);
            // From here on everything comes again.
            info!(number = MANY);
            assert!(receive(&socket).ends_with(&format!("|number={MANY}")));
            assert!(log.finish(LIMIT));
        });
    }

    #[test]
    fn long_lines_are_bounded_by_their_bytes_and_the_longest_comes_through() {
        let (socket, teller) = socket();
        let (_log, sayer) = begin(LevelFilter::INFO, move || teller).unwrap();
        dispatcher::with_default(&sayer, || {
            let long = "x".repeat(3000);
            (0..MANY).for_each(|number| info!(long, number));
            let told = (0..).take_while(|_| !receive(&socket).contains("|lines="));
            let told = told.count();
            assert!(told < 256, "{told} lines of 3000 bytes are kept");
        });
    }

    #[test]
    fn what_is_told_is_what_was_said() {
        let say = || {
            let path = std::path::Path::new("/a b");
            let cause = io::Error::other("it \"broke\"");
            let cause: &dyn std::error::Error = &cause;
            let absent: Option<u64> = None;
            info!(name: "named", text = "a \"b\"\nc", number = -3_i64, yes = true, "message {}", 7);
            error!(path = %path.display(), debug = ?path, cause, absent, half = 0.5);
            tracing::debug!("not told");
        };
        let (socket, teller) = socket();
        dispatcher::with_default(&teller, say);
        let said = [receive(&socket), receive(&socket)];
        let (log, sayer) = begin(LevelFilter::INFO, move || teller).unwrap();
        dispatcher::with_default(&sayer, say);
        assert_eq!([receive(&socket), receive(&socket)], said);
        assert!(
            said[0].contains("|message=message 7|text=a \"b\"\nc"),
            "{said:?}"
        );
        assert!(log.finish(LIMIT));
        socket.set_nonblocking(true).unwrap();
        assert!(socket.recv(&mut [0; 1]).is_err(), "no more than that");
    }
}
