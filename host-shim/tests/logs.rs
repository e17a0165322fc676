//! The journal's way over the host: a guest that is played by a script, a puller, segments on a real disk,
//! a FIFO with a reader that stalls. What must hold: every entry once and in order, or a gap that says so.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::VecDeque,
    io::Read,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use seed_protocol::{
    journal::{BatchEncoder, EntryHead},
    seed::v1::{JournalBatch, ReadJournalRequest},
};
use seed_shim::logs::{
    JournalSource, Reading, SourceError,
    entry::{Record, for_each},
    fifo::Output,
    namespaces,
    puller::{spawn, spawn_with},
    reader::{Item, Reader},
    store::{Limits, Store},
};

/// The limit of a drain that ends long before it, and how long one is waited for that has a limit of its own.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);
const ID: [u8; 16] = [7; 16];

/// A guest with a journal of `total` entries, which answers what is asked in batches of at most `batch`.
/// Each answer may be spoiled first.
#[derive(Clone)]
struct Guest {
    total: u64,
    batch: u64,
    trouble: Arc<Mutex<VecDeque<Trouble>>>,
    calls: Arc<AtomicUsize>,
    /// What comes after the last entry: an error, or waiting.
    ends: bool,
    /// As the agent does it, or as one that knows no turns.
    turns: Option<Arc<Mutex<Turns>>>,
}

/// The number that is answered next, where that begins, and the most requests that were under way.
#[derive(Default)]
struct Turns {
    next: u64,
    end: u64,
    waiting: usize,
    most: usize,
}

enum Trouble {
    Unreachable,
    /// The answer begins so many entries too early.
    Repeat(u64),
    /// The answer leaves out so many entries.
    Skip(u64),
    /// The block is cut.
    Broken,
}

impl Guest {
    fn new(total: u64, batch: u64, trouble: impl IntoIterator<Item = Trouble>) -> Self {
        Self {
            total,
            batch,
            trouble: Arc::new(Mutex::new(trouble.into_iter().collect())),
            calls: Arc::default(),
            ends: true,
            turns: Some(Arc::default()),
        }
    }

    /// The number before the first entry of the answer, when it is this request's turn.
    async fn turn(&self, request: &ReadJournalRequest) -> u64 {
        let after = request.after.get_or_default().seqnum;
        let Some(turns) = &self.turns else {
            return after;
        };
        let turn = request.turn.get_or_default();
        if !turn.follows {
            let mut turns = turns.lock().unwrap();
            (turns.next, turns.end, turns.waiting) = (turn.number, after, 0);
        }
        let waiting = |more: bool| {
            let mut turns = turns.lock().unwrap();
            turns.waiting = if more {
                turns.waiting + 1
            } else {
                turns.waiting - 1
            };
            turns.most = turns.most.max(turns.waiting);
        };
        waiting(true);
        loop {
            // An answer takes a while.
            tokio::task::yield_now().await;
            if turns.lock().unwrap().next >= turn.number {
                break;
            }
        }
        waiting(false);
        turns.lock().unwrap().end
    }

    fn answered(&self, request: &ReadJournalRequest, last: u64) -> u64 {
        let Some(turns) = &self.turns else { return 0 };
        let mut turns = turns.lock().unwrap();
        turns.next += 1;
        turns.end = last;
        request.turn.get_or_default().number
    }
}

fn block(from: u64, to: u64) -> Vec<u8> {
    let mut encoder = BatchEncoder::new(4 << 20);
    for seqnum in from..=to {
        let head = EntryHead {
            seqnum,
            realtime_us: 1_763_766_062_000_000 + seqnum,
            monotonic_us: seqnum,
            boot_id: [1; 16],
            xor_hash: seqnum,
        };
        let message = format!("MESSAGE=entry {seqnum}");
        let fields = [
            (Some(1), &b"SYSLOG_IDENTIFIER=app"[..]),
            (None, message.as_bytes()),
        ];
        encoder.push(&head, fields).unwrap();
    }
    encoder.finish()
}

impl JournalSource for Guest {
    fn read(&mut self, request: ReadJournalRequest) -> Reading {
        let guest = self.clone();
        Box::pin(async move { guest.answer(request).await })
    }
}

impl Guest {
    async fn answer(&self, request: ReadJournalRequest) -> Result<JournalBatch, SourceError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let after = request.after.get_or_default();
        assert!(after.seqnum_id.is_empty() || after.seqnum_id == ID);
        // The mark is that of the entry, also after a restart of the puller; a gap has none.
        assert!(after.boot_id.is_empty() || after.xor_hash == after.seqnum);
        let mut first = self.turn(&request).await + 1;
        let trouble = self.trouble.lock().unwrap().pop_front();
        match &trouble {
            Some(Trouble::Unreachable) => return Err(SourceError::Unreachable("gone".into())),
            Some(Trouble::Repeat(n)) => first = first.saturating_sub(*n).max(1),
            Some(Trouble::Skip(n)) => first += n,
            Some(Trouble::Broken) | None => {}
        }
        if first > self.total {
            if self.ends {
                return Err(SourceError::Ended);
            }
            tokio::time::sleep(Duration::from_millis(request.wait_ms.into())).await;
            return Ok(JournalBatch {
                seqnum_id: ID.to_vec(),
                turn: self.answered(&request, self.total),
                ..Default::default()
            });
        }
        let last = self.total.min(first + self.batch - 1);
        let mut block = block(first, last);
        if matches!(trouble, Some(Trouble::Broken)) {
            block.pop();
        }
        Ok(JournalBatch {
            seqnum_id: ID.to_vec(),
            first_seqnum: first,
            last_seqnum: last,
            count: u32::try_from(last - first + 1).unwrap(),
            block,
            tail_seqnum: self.total,
            turn: self.answered(&request, last),
            ..Default::default()
        })
    }
}

/// Every entry's number, a gap as its bounds negated.
fn stored(dir: &Path) -> Vec<i64> {
    let number = |n: u64| i64::try_from(n).unwrap();
    let mut reader = Reader::from_start(dir);
    let mut found = Vec::new();
    while let Some(item) = reader.next().unwrap() {
        let Item::Frame(frame) = item else {
            panic!("segments are missing")
        };
        let Ok(()) = for_each(&frame, |record| {
            match record {
                Record::Entry(entry) => found.push(number(entry.head.seqnum)),
                Record::Gap { gap, .. } => found.extend([-number(gap.first), -number(gap.last)]),
                other => panic!("{other:?}"),
            }
            Ok::<(), std::convert::Infallible>(())
        });
    }
    found
}

#[tokio::test]
async fn repeats_and_lost_connections_neither_double_nor_lose_an_entry() {
    repeats_and_lost_connections(true).await;
}

#[tokio::test]
async fn a_guest_that_knows_no_turns_is_asked_for_one_batch_at_a_time() {
    repeats_and_lost_connections(false).await;
}

async fn repeats_and_lost_connections(turns: bool) {
    let dir = tempfile::tempdir().unwrap();
    let trouble = [
        Trouble::Unreachable,
        Trouble::Repeat(3),
        Trouble::Repeat(7),
        Trouble::Unreachable,
        Trouble::Repeat(500),
    ];
    let mut guest = Guest::new(1000, 7, trouble);
    guest.turns = turns.then(Arc::default);
    let asked = guest.turns.clone();
    let handle = spawn(guest, dir.path(), None);
    let counters = handle.counters();
    while counters.entries() < 1000 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    handle.drain(DRAIN_LIMIT).await;
    assert_eq!(stored(dir.path()), (1..=1000).collect::<Vec<_>>());
    assert_eq!(
        (counters.entries(), counters.lag(), counters.missing()),
        (1000, 0, 0)
    );
    if let Some(asked) = asked {
        assert_eq!(asked.lock().unwrap().most, 2, "requests under way");
    }
}

#[tokio::test]
async fn what_is_missing_is_recorded_with_its_exact_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let trouble = [Trouble::Repeat(0), Trouble::Skip(4), Trouble::Broken];
    let handle = spawn(Guest::new(30, 5, trouble), dir.path(), None);
    let counters = handle.counters();
    while counters.entries() < 21 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    handle.drain(DRAIN_LIMIT).await;
    let expected: Vec<i64> = (1..=5)
        .chain([-6, -9])
        .chain(10..=14)
        .chain([-15, -19])
        .chain(20..=30)
        .collect();
    assert_eq!(stored(dir.path()), expected);
    assert_eq!(counters.missing(), 9);
}

#[tokio::test]
async fn a_puller_that_is_dropped_anywhere_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        segment_bytes: 2000,
        total_bytes: 1 << 20,
        ..Limits::DEFAULT
    };
    for round in 0..20 {
        let handle = spawn_with(Guest::new(300, 3, []), dir.path(), None, limits);
        // Long enough for some batches, dropped in the middle of whatever it does then.
        tokio::time::sleep(Duration::from_micros(round * 150)).await;
        drop(handle);
        // The abort takes effect, and the lock goes.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let handle = spawn_with(Guest::new(300, 3, []), dir.path(), None, limits);
    while stored(dir.path()).last() != Some(&300) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    handle.drain(DRAIN_LIMIT).await;
    assert_eq!(stored(dir.path()), (1..=300).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_drain_takes_what_the_guest_still_has_and_ends_at_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Guest::new(500, 10, []);
    guest.ends = false;
    let handle = spawn(guest, dir.path(), None);
    handle.drain(DRAIN_LIMIT).await;
    assert_eq!(stored(dir.path()).len(), 500);

    #[derive(Clone)]
    struct Hangs;
    impl JournalSource for Hangs {
        fn read(&mut self, _: ReadJournalRequest) -> Reading {
            Box::pin(std::future::pending())
        }
    }
    let handle = spawn(Hangs, &dir.path().join("other"), None);
    // The guest never answers, so that it ends at all is the drain's own doing.
    let drain = handle.drain(Duration::from_millis(300));
    let ended = tokio::time::timeout(DRAIN_LIMIT, drain).await;
    assert!(ended.is_ok(), "the drain did not end at its limit");
}

#[tokio::test]
async fn a_drain_tries_once_more_where_the_folder_was_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let in_use = Store::open(dir.path(), Limits::DEFAULT).unwrap();
    let handle = spawn(Guest::new(10, 5, []), dir.path(), None);
    // On this one thread: it tries, and rests.
    tokio::task::yield_now().await;
    drop(in_use);
    handle.drain(DRAIN_LIMIT).await;
    assert_eq!(stored(dir.path()), (1..=10).collect::<Vec<i64>>());
}

fn fifo(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("stdout");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    path
}

#[tokio::test]
async fn a_stdout_that_nobody_reads_stops_nothing_and_loses_no_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path());
    let output = Output::open(path.to_str().unwrap(), "").unwrap();
    // A pipe takes 64 KiB; these are several times as much.
    let total = 20_000;
    let handle = spawn(Guest::new(total, 500, []), &dir.path().join("logs"), output);
    let counters = handle.counters();
    while counters.entries() < total {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(
        stored(&dir.path().join("logs")).len(),
        20_000,
        "the pull does not wait for stdout"
    );

    let reader = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        std::fs::File::open(path)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    });
    handle.drain(DRAIN_LIMIT).await;
    let text = reader.await.unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 20_000);
    assert_eq!(lines[0], "2025-11-21T23:01:02.000001Z app: entry 1");
    for (line, number) in lines.iter().zip(1..) {
        assert!(line.ends_with(&format!(": entry {number}")), "{line}");
    }
}

#[tokio::test]
async fn a_reader_of_stdout_that_goes_away_and_comes_back_misses_no_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path());
    let output = Output::open(path.to_str().unwrap(), "").unwrap();
    let total = 20_000;
    let handle = spawn(Guest::new(total, 500, []), &dir.path().join("logs"), output);
    // As containerd does that is killed and started again: each takes a part and is gone.
    let take = |path: std::path::PathBuf, bytes: usize| {
        let mut part = vec![0; bytes];
        let mut file = std::fs::File::open(path).unwrap();
        file.read_exact(&mut part).unwrap();
        part
    };
    let mut text = Vec::new();
    for bytes in [1, 5000, 70_000, 333] {
        let path = path.clone();
        let part = tokio::task::spawn_blocking(move || take(path, bytes));
        text.extend(part.await.unwrap());
        // Nobody has it open but us.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let rest = tokio::task::spawn_blocking(move || {
        let mut rest = Vec::new();
        let mut file = std::fs::File::open(path).unwrap();
        file.read_to_end(&mut rest).unwrap();
        rest
    });
    handle.drain(DRAIN_LIMIT).await;
    text.extend(rest.await.unwrap());
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text.lines().count(), 20_000);
    for (line, number) in text.lines().zip(1..) {
        assert!(line.ends_with(&format!(": entry {number}")), "{line}");
    }
}

#[tokio::test]
async fn stdout_begins_with_this_boot() {
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("logs");
    let handle = spawn(Guest::new(10, 3, []), &logs, None);
    while stored(&logs).len() < 10 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    handle.drain(DRAIN_LIMIT).await;

    let file = dir.path().join("stdout.log");
    let output = Output::open(&format!("file://{}", file.display()), "").unwrap();
    let handle = spawn(Guest::new(12, 3, []), &logs, output);
    let text = || std::fs::read_to_string(&file).unwrap();
    while text().lines().count() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    handle.drain(DRAIN_LIMIT).await;
    assert_eq!(
        text(),
        "2025-11-21T23:01:02.000011Z app: entry 11\n2025-11-21T23:01:02.000012Z app: entry 12\n"
    );
}

/// One batch of entries that were written beforehand, and then the end.
#[derive(Clone)]
struct Script(VecDeque<JournalBatch>);

impl JournalSource for Script {
    fn read(&mut self, _: ReadJournalRequest) -> Reading {
        let next = self.0.pop_front().ok_or(SourceError::Ended);
        Box::pin(std::future::ready(next))
    }
}

fn scripted(entries: &[Vec<Vec<u8>>]) -> Script {
    let batches = (1..).zip(entries).map(|(seqnum, fields)| {
        let mut encoder = BatchEncoder::new(4 << 20);
        let head = EntryHead {
            seqnum,
            realtime_us: 1_763_766_062_000_000,
            monotonic_us: seqnum,
            boot_id: [1; 16],
            xor_hash: seqnum,
        };
        let fields = fields.iter().map(|field| (None, field.as_slice()));
        encoder.push(&head, fields).unwrap();
        JournalBatch {
            seqnum_id: ID.to_vec(),
            first_seqnum: seqnum,
            last_seqnum: seqnum,
            count: 1,
            block: encoder.finish(),
            tail_seqnum: seqnum,
            ..Default::default()
        }
    });
    Script(batches.collect())
}

#[tokio::test]
async fn namespaces_that_a_hostile_guest_names_stay_below_the_log_and_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("a/logs");
    let line = vec![b"MESSAGE=x".to_vec()];
    let mut source = scripted(&[line.clone(), line]);
    let names = ["../../../outside", "/tmp", "..", "", "a/b", "web"];
    let many = (0..100).map(|number| format!("n{number:03}"));
    source.0[0].namespaces = names.map(str::to_owned).into_iter().chain(many).collect();
    let handle = spawn(source, &logs, None);
    handle.drain(DRAIN_LIMIT).await;
    assert_eq!(stored(&logs), [1, 2]);
    let kept = namespaces::kept(&logs).unwrap();
    assert_eq!(kept.len(), namespaces::MAX_KEPT);
    for namespace in &kept {
        assert!(namespace.as_str().starts_with('n') || namespace.as_str() == "web");
        // What was left of the script: each has a log of its own.
        assert_eq!(stored(&namespaces::dir_of(&logs, namespace)), [2]);
    }
    let names = |path: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(path).unwrap();
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
        entries
            .map(|entry| name(entry).into_string().unwrap())
            .collect()
    };
    assert_eq!(names(dir.path()), ["a"]);
    assert_eq!(names(&dir.path().join("a")), ["logs"]);
    let mut inside = names(&logs);
    inside.sort_unstable();
    assert_eq!(inside, ["00000001.seg", "lock", "namespaces"]);
}

/// What containerd's logger makes of a stream: lines of at most 16 KiB, tagged `F`; what is longer comes in
/// pieces tagged `P`, which its readers join again.
fn as_containerd(text: &[u8]) -> Vec<(char, usize)> {
    text.split_inclusive(|byte| *byte == b'\n')
        .flat_map(|line| {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let mut pieces: Vec<_> = line
                .chunks(16 << 10)
                .map(|piece| ('P', piece.len()))
                .collect();
            if let Some(last) = pieces.last_mut() {
                last.0 = 'F';
            }
            pieces
        })
        .collect()
}

#[tokio::test]
async fn errors_go_to_stderr_and_a_broken_line_is_whole_again() {
    let dir = tempfile::tempdir().unwrap();
    let (out, err) = (dir.path().join("out"), dir.path().join("err"));
    let line = |text: &[u8], more: &[&[u8]]| -> Vec<Vec<u8>> {
        let mut fields = vec![b"SYSLOG_IDENTIFIER=app".to_vec(), b"_STREAM_ID=1".to_vec()];
        fields.push([b"MESSAGE=", text].concat());
        fields.extend(more.iter().map(|field| field.to_vec()));
        fields
    };
    // As journald does it with LineMax=48K.
    let part = vec![b'x'; 48 << 10];
    let broken: &[u8] = b"_LINE_BREAK=line-max";
    let source = scripted(&[
        line(b"short", &[]),
        line(&part, &[broken]),
        line(&part, &[broken]),
        line(b"its end", &[]),
        line(b"disk full", &[b"PRIORITY=3"]),
        line(b"after it", &[b"PRIORITY=4"]),
    ]);
    let url = |path: &Path| format!("file://{}", path.display());
    let output = Output::open(&url(&out), &url(&err)).unwrap();
    let handle = spawn(source, &dir.path().join("logs"), output);
    handle.drain(DRAIN_LIMIT).await;
    let prefix = "2025-11-21T23:01:02.000000Z app: ";
    let text = std::fs::read(&out).unwrap();
    let x = "x".repeat(96 << 10);
    assert_eq!(
        String::from_utf8(text.clone()).unwrap(),
        format!("{prefix}short\n{prefix}{x}its end\n{prefix}after it\n")
    );
    let long = prefix.len() + (96 << 10) + "its end".len();
    let mut expected = vec![('F', prefix.len() + 5)];
    expected.extend([('P', 16 << 10); 6]);
    expected.extend([('F', long - (96 << 10)), ('F', prefix.len() + 8)]);
    assert_eq!(as_containerd(&text), expected);
    assert_eq!(
        std::fs::read_to_string(&err).unwrap(),
        format!("{prefix}disk full\n")
    );
}

#[tokio::test]
async fn a_reader_that_stalls_ends_and_is_started_again_misses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path());
    let output = Output::open(path.to_str().unwrap(), "").unwrap();
    let total = 20_000;
    let handle = spawn(Guest::new(total, 500, []), &dir.path().join("logs"), output);
    let reader = tokio::task::spawn_blocking(move || {
        let mut text = Vec::new();
        // containerd reads, stalls, is restarted, and so on: the FIFO is opened anew each time.
        for round in 0..5 {
            let mut file = std::fs::File::open(&path).unwrap();
            let mut part = vec![0; 30_000];
            file.read_exact(&mut part).unwrap();
            text.extend(part);
            std::thread::sleep(Duration::from_millis(round * 50));
            drop(file);
            std::thread::sleep(Duration::from_millis(20));
        }
        std::fs::File::open(&path)
            .unwrap()
            .read_to_end(&mut text)
            .unwrap();
        String::from_utf8(text).unwrap()
    });
    let counters = handle.counters();
    while counters.entries() < total {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    handle.drain(DRAIN_LIMIT).await;
    let text = reader.await.unwrap();
    assert_eq!(text.lines().count(), 20_000);
    for (line, number) in text.lines().zip(1..) {
        assert!(line.ends_with(&format!(": entry {number}")), "{line}");
    }
}
