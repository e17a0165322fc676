//! The guest's own journalctl as the reader, for files in a form that ours does not know (a flag that a later systemd
//! invented). It is slower by an order of magnitude and holds nothing back: the same batches, gaps and positions.
//!
//! One process from a position to the end of the journal; batches are cut from what it prints, so it is started again
//! only when there may be something new: when a file changed, and now and then. It ends with this value, has to print
//! something within [`PRINT_LIMIT`], and to end within [`END_LIMIT`] of that.

use std::{
    ffi::OsString,
    fs,
    io::{self, BufReader},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use seed_journal::{
    Gap, GapReason, Mark, Position, Query, ReadOutcome, SYSTEM_DIRECTORIES, Skipped,
};
use seed_protocol::{
    JournalNamespace,
    journal::{BatchEncoder, Commit},
};
use thiserror::Error;

use super::{
    Batch,
    export::{self, ExportError, Exported},
};
use crate::sys::command;

/// How long journalctl may take until it prints the next entry, or ends.
const PRINT_LIMIT: Duration = Duration::from_secs(20);

/// How long it may take to end once it has closed its output.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Entries that are parsed ahead: a few, since each may be some MiB.
const PARSED_AHEAD: usize = 4;

/// Entries that one batch passes over at most.
const MAX_PASSED: u32 = 50_000;

/// How often it is started anew because files were renamed or deleted while it looked for them. journald does so once in
/// seconds; where somebody has it do so all the time, the last start has to do.
const MAX_STARTS: usize = 20;

/// journald holds its changes back for up to 250 ms, and a changed file shows; this is for what does not.
const LOOK_ANYWAY: Duration = Duration::from_secs(5);

/// Why journalctl gave nothing.
#[derive(Debug, Error)]
pub enum JournalctlError {
    /// It is not there, or cannot be started.
    #[error("journalctl cannot be started")]
    Start(#[source] io::Error),
    /// It cannot be waited for.
    #[error("journalctl cannot be waited for")]
    Wait(#[source] io::Error),
    /// It hangs.
    #[error("journalctl printed nothing for {} s", PRINT_LIMIT.as_secs())]
    Silent,
    /// It has closed its output and stays.
    #[error("journalctl did not end within {} s of its last entry", END_LIMIT.as_secs())]
    Stays,
    /// It failed.
    #[error("journalctl ended with {0}")]
    Failed(std::process::ExitStatus),
    /// What it printed is not what it should be.
    #[error("what journalctl printed cannot be read: {0}")]
    Export(String),
}

/// The journal of some folders, by journalctl.
#[derive(Debug)]
pub(super) struct Journalctl {
    program: PathBuf,
    folders: Vec<PathBuf>,
    namespace: Option<JournalNamespace>,
    stream: Option<Stream>,
    /// There was nothing after this position when the files looked like this.
    at_end: Option<(Position, Vec<Stamp>, Instant)>,
}

/// One process. Killed when it is dropped.
#[derive(Debug)]
struct Stream {
    child: Child,
    entries: Receiver<Result<Exported, ExportError>>,
    /// Taken, and not in a batch yet.
    held: Option<Exported>,
    /// What was given last.
    end: Position,
}

/// What changes with a file when journald writes to it.
type Stamp = (PathBuf, i64, i64, u64);

impl Journalctl {
    /// `folders` hold the files of this machine, or of the namespace.
    pub(super) fn new(
        program: PathBuf,
        folders: Vec<PathBuf>,
        namespace: Option<JournalNamespace>,
    ) -> Self {
        Self {
            program,
            folders,
            namespace,
            stream: None,
            at_end: None,
        }
    }

    /// The wanted entries after a position. Blocks until journalctl has printed them.
    pub(super) fn read(
        &mut self,
        after: &Position,
        max_bytes: usize,
        filter: &Query,
    ) -> Result<Batch, JournalctlError> {
        let goes_on = self.stream.take().filter(|stream| stream.is_at(after));
        let mut stream = match goes_on {
            Some(stream) => stream,
            None => {
                let stamps = self.stamps();
                if self.is_at_end(after, &stamps) {
                    return Ok(Cut::new(after, max_bytes, filter).batch(after, true));
                }
                self.at_end = None;
                self.start(after)?
            }
        };
        let mut cut = Cut::new(after, max_bytes, filter);
        let ended = loop {
            let Some(entry) = stream.next()? else {
                break true;
            };
            if let Some(entry) = cut.take(entry) {
                stream.held = Some(entry);
                break false;
            }
        };
        if let Some(end) = cut.end {
            stream.end = end;
        }
        if ended {
            let end = stream.end;
            stream.finish(END_LIMIT)?;
            // Entries that come while this runs change the stamps.
            let stamps = self.stamps();
            if cut.end.is_none() {
                self.at_end = Some((end, stamps, Instant::now()));
            }
        } else {
            self.stream = Some(stream);
        }
        Ok(cut.batch(after, ended))
    }

    fn is_at_end(&self, after: &Position, stamps: &[Stamp]) -> bool {
        self.at_end.as_ref().is_some_and(|(position, seen, since)| {
            is_same(position, after) && seen == stamps && since.elapsed() < LOOK_ANYWAY
        })
    }

    /// journalctl lists a folder and then opens what it found: a file that journald renames in between is missing in all that
    /// it prints, which would look as if its entries were lost. It has opened all when the first entry is there, so the
    /// files are the same before and after that, or it is done again.
    fn start(&self, after: &Position) -> Result<Stream, JournalctlError> {
        let mut files = self.files();
        for _ in 1..MAX_STARTS {
            let stream = self.start_once(after)?;
            let now = self.files();
            if now == files {
                return Ok(stream);
            }
            files = now;
        }
        self.start_once(after)
    }

    fn start_once(&self, after: &Position) -> Result<Stream, JournalctlError> {
        let mut command = Command::new(&self.program);
        command.args(["--quiet", "--no-pager", "--all", "--output=export"]);
        command.args(self.scope());
        if !after.is_start() {
            // And not `--after-cursor=`, which passes over an entry also when the cursor's own is gone.
            command.arg(format!("--cursor={}", export::cursor(after)));
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(JournalctlError::Start)?;
        let output = child.stdout.take();
        let (send, entries) = mpsc::sync_channel(PARSED_AHEAD);
        // It ends with the pipe, or when nobody receives.
        let parse = move || {
            let Some(output) = output else { return };
            let mut output = BufReader::with_capacity(64 * 1024, output);
            while let Some(entry) = export::next(&mut output).transpose() {
                let failed = entry.is_err();
                if send.send(entry).is_err() || failed {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("journalctl".to_owned());
        let mut stream = Stream {
            child,
            entries,
            held: None,
            end: *after,
        };
        thread.spawn(parse).map_err(JournalctlError::Start)?;
        // The cursor's own entry, when it is still there.
        if let Some(first) = stream.next()?
            && !is_same(&place(&first), after)
            && !is_copy(&place(&first), after)
        {
            stream.held = Some(first);
        }
        Ok(stream)
    }

    /// journalctl knows the system's folders by itself, and passes over what it cannot read in them. (Files that are
    /// named one by one have all to be fine.) It takes one other folder: the first one that has files.
    fn scope(&self) -> Option<OsString> {
        let parents = self.folders.iter().filter_map(|folder| folder.parent());
        if parents.eq(SYSTEM_DIRECTORIES.iter().map(Path::new)) {
            let namespace = self.namespace.as_ref();
            return namespace.map(|name| format!("--namespace={name}").into());
        }
        let folder = self
            .folders
            .iter()
            .find(|folder| !names(folder).is_empty())?;
        let mut option = OsString::from("--directory=");
        option.push(folder);
        Some(option)
    }

    /// Which files there are, and under which names.
    fn files(&self) -> Vec<(PathBuf, u64)> {
        let stamps = self.stamps().into_iter();
        stamps.map(|(path, .., inode)| (path, inode)).collect()
    }

    fn stamps(&self) -> Vec<Stamp> {
        let mut stamps: Vec<Stamp> = self
            .folders
            .iter()
            .flat_map(|folder| names(folder))
            .filter_map(|path| {
                let data = fs::metadata(&path).ok()?;
                Some((path, data.mtime(), data.mtime_nsec(), data.ino()))
            })
            .collect();
        stamps.sort_unstable();
        stamps
    }
}

impl Stream {
    fn is_at(&self, after: &Position) -> bool {
        is_same(&self.end, after)
    }

    /// The next entry, `None` when journalctl has printed all.
    fn next(&mut self) -> Result<Option<Exported>, JournalctlError> {
        if let Some(entry) = self.held.take() {
            return Ok(Some(entry));
        }
        match self.entries.recv_timeout(PRINT_LIMIT) {
            Ok(Ok(entry)) => Ok(Some(entry)),
            Ok(Err(error)) => Err(JournalctlError::Export(error.to_string())),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(JournalctlError::Silent),
        }
    }

    /// Waits for its end.
    fn finish(mut self, limit: Duration) -> Result<(), JournalctlError> {
        let status = command::wait(&mut self.child, limit).map_err(JournalctlError::Wait)?;
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(JournalctlError::Failed(status)),
            None => Err(JournalctlError::Stays),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One batch being cut: entries of one stream, in order, without a gap inside.
struct Cut<'q> {
    after: Position,
    filter: &'q Query,
    block: BatchEncoder,
    /// The first entry that was looked at, and the first that is in the block.
    begun: u64,
    first: u64,
    gap: Option<Gap>,
    end: Option<Position>,
    passed: u32,
}

impl<'q> Cut<'q> {
    fn new(after: &Position, max_bytes: usize, filter: &'q Query) -> Self {
        Self {
            after: *after,
            filter,
            block: BatchEncoder::new(max_bytes),
            begun: 0,
            first: 0,
            gap: None,
            end: None,
            passed: 0,
        }
    }

    /// Gives an entry back that belongs to the next batch.
    fn take(&mut self, entry: Exported) -> Option<Exported> {
        let last = self.end.unwrap_or(self.after);
        let seqnum = entry.head.seqnum;
        let goes_on = entry.seqnum_id == last.seqnum_id && seqnum == last.seqnum + 1;
        if (self.end.is_some() && !goes_on) || self.passed >= MAX_PASSED {
            return Some(entry);
        }
        let fields = entry.fields.iter().map(|field| field.bytes.as_slice());
        if self.filter.wants(&entry.head, fields) {
            let Ok(mut out) = self.block.begin(&entry.head) else {
                return Some(entry);
            };
            for field in &entry.fields {
                out.inline(&field.bytes, field.true_length);
            }
            if out.commit() == Commit::Full {
                return Some(entry);
            }
            self.first = if self.first == 0 { seqnum } else { self.first };
        } else {
            self.passed += 1;
        }
        if self.end.is_none() {
            self.begun = seqnum;
            let follows = entry.seqnum_id == last.seqnum_id && seqnum > last.seqnum + 1;
            // journalctl passes over what it cannot read and does not say why.
            self.gap = follows.then(|| Gap {
                from: last.seqnum + 1,
                to: seqnum - 1,
                reason: GapReason::Vacuumed,
            });
        }
        self.end = Some(place(&entry));
        None
    }

    fn batch(self, after: &Position, caught_up: bool) -> Batch {
        let position = |end| (!self.filter.is_empty()).then_some(end);
        let Some(end) = self.end else {
            return Batch {
                position: position(*after),
                ..Batch::empty(*after)
            };
        };
        let began_anew = end.seqnum_id != after.seqnum_id || self.begun <= after.seqnum;
        let outcome = ReadOutcome {
            seqnum_id: end.seqnum_id,
            first: self.first,
            last: end.seqnum,
            count: self.block.count(),
            gap: self.gap,
            reset: !after.is_start() && began_anew,
            tail_seqnum: end.seqnum,
            caught_up,
            skipped: Skipped::default(),
        };
        Batch {
            outcome,
            position: position(end),
            block: self.block.finish(),
            namespaces: Vec::new(),
        }
    }
}

fn place(entry: &Exported) -> Position {
    Position {
        seqnum_id: entry.seqnum_id,
        seqnum: entry.head.seqnum,
        mark: Some(Mark::from(&entry.head)),
    }
}

/// The same entry, as far as both say.
fn is_same(one: &Position, other: &Position) -> bool {
    let marks = one.mark.zip(other.mark);
    (one.seqnum_id, one.seqnum) == (other.seqnum_id, other.seqnum)
        && marks.is_none_or(|(one, other)| one == other)
}

/// The same entry under another number: what journald flushes from /run to /var is numbered anew, and journalctl goes to the
/// copy of a cursor's entry by boot and time.
fn is_copy(one: &Position, other: &Position) -> bool {
    one.mark.is_some() && one.mark == other.mark
}

fn names(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths
        .filter(|path| has_ending(path, ".journal") || has_ending(path, ".journal~"))
        .collect()
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.as_os_str()
        .as_encoded_bytes()
        .ends_with(ending.as_bytes())
}

#[cfg(test)]
mod tests {
    use seed_protocol::journal::BatchDecoder;

    use super::*;

    const ONE: u8 = 0x11;
    const TWO: u8 = 0x22;

    fn entry(stream: u8, number: u64) -> String {
        let id = format!("{stream:02x}").repeat(16);
        format!("__CURSOR=s={id};i={number:x};b={id};m={number:x};t=1;x=2\nMESSAGE=m{number}\n\n")
    }

    /// A program that prints these entries from the one that the cursor names, as journalctl does; all of them where that one
    /// is gone.
    fn program(dir: &Path, entries: &str, more: &str) -> Journalctl {
        fs::write(dir.join("entries"), entries).unwrap();
        let script = format!(
            "#!/bin/sh\necho \"$*\" >> {0}/calls\nfrom=$(echo \"$*\" | sed -n 's/.*--cursor=\\(s=[^;]*;i=[^; ]*\\).*/\\1/p')\n\
             if [ -n \"$from\" ] && grep -q \"$from;\" {0}/entries; then sed -n \"/$from;/,\\$p\" {0}/entries; else cat {0}/entries; fi\n{more}\n",
            dir.display()
        );
        let path = dir.join("journalctl");
        seed_script::write(&path, &script);
        fs::create_dir(dir.join("files")).unwrap();
        fs::write(dir.join("files/system.journal"), "").unwrap();
        Journalctl::new(path, vec![dir.join("files"), dir.join("none")], None)
    }

    fn calls(dir: &Path) -> Vec<String> {
        let text = fs::read_to_string(dir.join("calls")).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn numbers(batch: &Batch) -> Vec<u64> {
        let entries = BatchDecoder::new(&batch.block).unwrap();
        entries.map(|entry| entry.unwrap().head.seqnum).collect()
    }

    #[test]
    fn batches_end_where_the_numbers_jump_and_where_another_stream_begins() {
        let dir = tempfile::tempdir().unwrap();
        let text: String = [(ONE, 1), (ONE, 2), (ONE, 5), (TWO, 3), (TWO, 4)]
            .map(|(stream, number)| entry(stream, number))
            .concat();
        let mut journal = program(dir.path(), &text, "");
        let mut at = Position::START;
        let mut found = Vec::new();
        loop {
            let batch = journal.read(&at, 1 << 20, &Query::new()).unwrap();
            if batch.is_empty() {
                break;
            }
            let ReadOutcome { gap, reset, .. } = batch.outcome;
            found.push((numbers(&batch), gap.map(|gap| (gap.from, gap.to)), reset));
            at = batch.end();
        }
        assert_eq!(
            found,
            [
                (vec![1, 2], None, false),
                (vec![5], Some((3, 4)), false),
                (vec![3, 4], None, true),
            ]
        );
        let calls = calls(dir.path());
        // From the beginning, and once more from the end; then nothing has changed.
        assert_eq!(calls.len(), 2, "{calls:?}");
        let folder = format!("--directory={}/files", dir.path().display());
        assert!(calls[0].ends_with(&folder), "{calls:?}");
        journal.read(&at, 1 << 20, &Query::new()).unwrap();
        assert_eq!(self::calls(dir.path()).len(), 2);

        // New entries change a file.
        fs::write(dir.path().join("entries"), text + &entry(TWO, 5)).unwrap();
        fs::write(dir.path().join("files/system@1.journal"), "").unwrap();
        let batch = journal.read(&at, 1 << 20, &Query::new()).unwrap();
        assert_eq!((numbers(&batch), batch.outcome.gap), (vec![5], None));
    }

    #[test]
    fn a_full_batch_is_followed_by_the_rest_from_the_same_process() {
        let dir = tempfile::tempdir().unwrap();
        let text: String = (1..=100).map(|number| entry(ONE, number)).collect();
        let mut journal = program(dir.path(), &text, "");
        let mut at = Position::START;
        let mut all = Vec::new();
        while all.len() < 100 {
            let batch = journal.read(&at, 500, &Query::new()).unwrap();
            assert!(batch.block.len() <= 500);
            all.extend(numbers(&batch));
            at = batch.end();
        }
        assert_eq!(all, (1..=100).collect::<Vec<_>>());
        assert_eq!(calls(dir.path()).len(), 1);
        // Another caller's position is another process.
        let batch = journal
            .read(&Position { seqnum: 50, ..at }, 1 << 20, &Query::new())
            .unwrap();
        assert_eq!(numbers(&batch), (51..=100).collect::<Vec<_>>());
    }

    #[test]
    fn a_file_that_is_renamed_while_journalctl_looks_for_it_is_not_missed() {
        let dir = tempfile::tempdir().unwrap();
        let text: String = (1..=5).map(|number| entry(ONE, number)).collect();
        let mut journal = program(dir.path(), &text, "");
        // The first time it misses the file that is renamed, and prints what is behind it.
        fs::write(dir.path().join("behind"), entry(ONE, 5)).unwrap();
        let path = dir.path().join("journalctl");
        let whole = fs::read_to_string(&path).unwrap();
        let (_, whole) = whole.split_once('\n').unwrap();
        let rotates = format!(
            "#!/bin/sh\ncd {}\nif mv files/system.journal files/system@1.journal 2> missing; then : > files/user-1.journal; \
             cat behind; exit; fi\n{whole}",
            dir.path().display()
        );
        seed_script::write(&path, &rotates);
        let batch = journal
            .read(&Position::START, 1 << 20, &Query::new())
            .unwrap();
        assert_eq!(
            (numbers(&batch), batch.outcome.gap),
            (vec![1, 2, 3, 4, 5], None)
        );
        assert_eq!(calls(dir.path()).len(), 1, "the one that saw all files");
    }

    #[test]
    fn an_entry_that_the_flush_numbered_anew_comes_once() {
        let dir = tempfile::tempdir().unwrap();
        let id = |byte: u8| format!("{byte:02x}").repeat(16);
        let copy = |number: u64| {
            let (stream, boot, seqnum) = (id(TWO), id(ONE), number + 100);
            format!("__CURSOR=s={stream};i={seqnum:x};b={boot};m={number:x};t=1;x=2\nMESSAGE=m\n\n")
        };
        let mut journal = program(dir.path(), &(copy(3) + &copy(4)), "");
        let after = Position {
            seqnum_id: [ONE; 16],
            seqnum: 3,
            mark: Some(Mark {
                boot_id: [ONE; 16],
                realtime_us: 1,
                monotonic_us: 3,
                xor_hash: 2,
            }),
        };
        let batch = journal.read(&after, 1 << 20, &Query::new()).unwrap();
        assert_eq!((numbers(&batch), batch.outcome.gap), (vec![104], None));
    }

    #[test]
    fn a_filter_leaves_out_and_the_position_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let text: String = [1, 2, 3, 6, 7].map(|number| entry(ONE, number)).concat();
        let mut journal = program(dir.path(), &text, "");
        let wanted = Query::new().any_of(["MESSAGE=m2", "MESSAGE=m7"]);
        let batch = journal.read(&Position::START, 1 << 20, &wanted).unwrap();
        let end = batch.position.unwrap();
        assert_eq!(
            (numbers(&batch), batch.outcome.first, end.seqnum),
            (vec![2], 2, 3)
        );
        assert!(end.mark.is_some());
        let batch = journal.read(&end, 1 << 20, &wanted).unwrap();
        let gap = batch.outcome.gap.map(|gap| (gap.from, gap.to));
        assert_eq!((numbers(&batch), gap), (vec![7], Some((4, 5))));
        let end = batch.position.unwrap();
        let batch = journal.read(&end, 1 << 20, &wanted).unwrap();
        assert_eq!((numbers(&batch), batch.position), (vec![], Some(end)));
    }

    #[test]
    fn one_that_closes_its_output_and_stays_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let journal = program(dir.path(), &entry(ONE, 1), "exec >&-\nexec sleep 600");
        let mut stream = journal.start(&Position::START).unwrap();
        assert!(stream.next().unwrap().is_some());
        assert!(stream.next().unwrap().is_none());
        let process = format!("/proc/{}", stream.child.id());
        let error = stream.finish(Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error, JournalctlError::Stays), "{error}");
        assert!(!Path::new(&process).exists());
    }

    #[test]
    fn what_goes_wrong_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = program(dir.path(), "", "exit 3");
        let error = journal
            .read(&Position::START, 1000, &Query::new())
            .unwrap_err();
        assert!(matches!(error, JournalctlError::Failed(_)), "{error}");
        fs::write(dir.path().join("entries"), "no export\n\n").unwrap();
        let error = journal
            .read(&Position::START, 1000, &Query::new())
            .unwrap_err();
        assert!(matches!(error, JournalctlError::Export(_)), "{error}");
        let mut journal = Journalctl::new(dir.path().join("absent"), Vec::new(), None);
        let error = journal
            .read(&Position::START, 1000, &Query::new())
            .unwrap_err();
        assert!(matches!(error, JournalctlError::Start(_)), "{error}");
    }
}
