//! A real journald, systemd and all, in namespaces: flood with rotation and deletion, boot with the flush from
//! /run to /var, a killed machine. In the end what was read equals what journalctl prints, minus stated gaps.
//!
//! Runs as root where `SEED_TEST_GUEST` names a guest's root.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    os::unix::{fs::FileExt, net::UnixDatagram},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{Got, MACHINE, parse_export, read_from};
use seed_container::{Container, Spec, guest_root};
use seed_journal::{Gap, Journal, Position};
use seed_protocol::journal::EntryHead;

/// A guest's systemd, its journal in a folder that outlives it, and the boot id of the folders.
struct Guest {
    container: Container,
}

/// Folders of this machine for a guest's journal, so that they can be read before it boots and after it ended.
struct Folders {
    root: PathBuf,
    parent: tempfile::TempDir,
    /// journald deletes what it has flushed only from a tmpfs.
    memory: tempfile::TempDir,
    /// What a guest sees as its kernel's.
    boot_id: tempfile::NamedTempFile,
}

impl Folders {
    /// What outlives a boot.
    fn persistent(&self) -> PathBuf {
        self.parent.path().join("var")
    }

    /// What does not.
    fn volatile(&self) -> PathBuf {
        self.memory.path().join("run")
    }

    fn journal(&self) -> Journal {
        let text = fs::read_to_string(self.boot_id.path()).unwrap();
        let id = u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap();
        Journal::open(&[self.persistent(), self.volatile()], MACHINE).in_boot(id.to_be_bytes())
    }

    /// The next guest is another boot.
    fn begin_boot(&self) {
        let id = fs::read("/proc/sys/kernel/random/uuid").unwrap();
        fs::write(self.boot_id.path(), id).unwrap();
    }
}

/// Folders; `None`, and a line that says so, where there can be no guest.
fn prepare() -> Option<Folders> {
    match guest_root() {
        Ok(root) => {
            let parent = tempfile::tempdir().unwrap();
            let memory = tempfile::tempdir_in("/dev/shm").unwrap();
            let folders = Folders {
                root,
                parent,
                memory,
                boot_id: tempfile::NamedTempFile::new().unwrap(),
            };
            folders.begin_boot();
            fs::create_dir(folders.persistent()).unwrap();
            Some(folders)
        }
        Err(reason) => {
            // Past libtest's capture, and in one write: a skip must be seen.
            let test = thread::current();
            let line = format!("SKIPPED {}: {reason}\n", test.name().unwrap_or_default());
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            None
        }
    }
}

impl Guest {
    fn boot(folders: &Folders, size: &str) -> Self {
        let _ = fs::remove_dir_all(folders.volatile());
        fs::create_dir(folders.volatile()).unwrap();
        let conf = format!(
            "[Journal]\nStorage=persistent\nRateLimitBurst=0\nRateLimitIntervalSec=0\nSplitMode=none\n\
             SystemMaxUse={size}\nSystemKeepFree=1M\n"
        );
        let spec = Spec::new(&folders.root)
            .and_then(|spec| spec.file("/etc/machine-id", "5eed".repeat(8) + "\n"))
            .and_then(|spec| spec.file("/etc/systemd/journald.conf.d/zz-test.conf", conf))
            .unwrap();
        let container = spec
            .bind(&folders.persistent(), "/var/log/journal")
            .bind(&folders.volatile(), "/run/log/journal")
            .show(folders.boot_id.path(), "/proc/sys/kernel/random/boot_id")
            .boot()
            .unwrap();
        Self { container }
    }

    fn run(&self, command: &[&str]) -> Vec<u8> {
        self.container.read(command).unwrap()
    }

    fn logger(&self) -> UnixDatagram {
        let socket = UnixDatagram::unbound().unwrap();
        socket
            .connect(self.container.inside("/run/systemd/journal/socket"))
            .unwrap();
        socket
    }

    fn exported(&self) -> Vec<Got> {
        self.run(&["journalctl", "--sync"]);
        parse_export(&self.run(&["journalctl", "--quiet", "--no-pager", "-o", "export"]))
    }
}

fn send(socket: &UnixDatagram, number: u64) {
    let message = format!(
        "MESSAGE=flood {number} {}\nPRIORITY=6\nSYSLOG_IDENTIFIER=flood\nNUMBER={number}\nSHARD={}\n",
        "x".repeat(usize::try_from(number % 300).unwrap()),
        number % 16
    );
    socket.send(message.as_bytes()).unwrap();
}

/// An entry whatever its number is.
type Identity = (EntryHead, u64);

fn identity(got: &Got) -> Identity {
    let mut hasher = DefaultHasher::new();
    got.fields.hash(&mut hasher);
    (
        EntryHead {
            seqnum: 0,
            ..got.head
        },
        hasher.finish(),
    )
}

struct Reader {
    stop: Arc<AtomicBool>,
    numbered: Arc<AtomicUsize>,
    thread: thread::JoinHandle<(Vec<Got>, Vec<Gap>, Position, u32)>,
}

/// Reads on a thread of its own until it is stopped and has caught up, and pauses between two reads; the pause is told
/// when it is time to stop.
fn follow(
    mut journal: Journal,
    mut position: Position,
    pause: impl Fn(&AtomicBool) + Send + 'static,
) -> Reader {
    let stop = Arc::new(AtomicBool::new(false));
    let numbered = Arc::new(AtomicUsize::new(0));
    let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&numbered));
    let thread = thread::spawn(move || {
        let (mut all, mut gaps, mut resets) = (Vec::new(), Vec::new(), 0);
        loop {
            let last_round = stopped.load(Ordering::SeqCst);
            let (got, outcomes) = read_from(&mut journal, &mut position, 64 * 1024);
            counted.fetch_add(numbers(&got).count(), Ordering::SeqCst);
            all.extend(got);
            gaps.extend(outcomes.iter().filter_map(|outcome| outcome.gap));
            resets +=
                u32::try_from(outcomes.iter().filter(|outcome| outcome.reset).count()).unwrap();
            if last_round {
                return (all, gaps, position, resets);
            }
            journal.wait_for_change(Duration::from_millis(50));
            pause(&stopped);
        }
    });
    Reader {
        stop,
        numbered,
        thread,
    }
}

impl Reader {
    /// Waits until that many of the numbered entries were read.
    fn has_read(&self, count: usize) {
        let until = Instant::now() + Duration::from_secs(180);
        while self.numbered.load(Ordering::SeqCst) < count {
            assert!(Instant::now() < until, "{count} entries were not read");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn finish(self) -> (Vec<Got>, Vec<Gap>, Position, u32) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// The numbers that were sent, of the entries that have one.
fn numbers(all: &[Got]) -> impl Iterator<Item = u64> {
    all.iter().filter_map(|got| {
        let field = got
            .fields
            .iter()
            .find_map(|field| field.strip_prefix(b"NUMBER="))?;
        std::str::from_utf8(field).unwrap().parse().ok()
    })
}

/// What was sent is there once, in order; what is not there lies in a gap.
fn assert_numbers(all: &[Got], missing: u64, sent: u64) {
    let mut seen = 0;
    let mut last = 0;
    for number in numbers(all) {
        assert!(number > last, "{number} after {last}");
        last = number;
        seen += 1;
    }
    assert!(
        sent - seen <= missing,
        "{} of {sent} missing, gaps say {missing}",
        sent - seen
    );
}

#[test]
fn a_flood_with_rotation_and_deletion_is_read_once() {
    flood("64M", 0);
}

#[test]
fn a_reader_that_is_overtaken_by_deletion_counts_exactly_what_it_missed() {
    // So many rotations later there is none of the files that it knew.
    let missing = flood("64M", 5);
    assert!(missing != Some(0), "the reader was not slow enough");
}

/// Returns how many entries the reader reports missing, which waits for so many rotations between two reads.
fn flood(size: &str, pause: u32) -> Option<u64> {
    let folders = prepare()?;
    let guest = Guest::boot(&folders, size);
    // Where it begins to read nothing is missing before.
    let (mut journal, mut position) = (folders.journal(), Position::START);
    let (mut all, _) = read_from(&mut journal, &mut position, 64 * 1024);
    assert!(!all.is_empty(), "a guest that has booted has logged");
    let rotations = Arc::new(AtomicU32::new(0));
    let reader = follow(journal, position, {
        let rotations = Arc::clone(&rotations);
        move |stopped: &AtomicBool| {
            let until = rotations.load(Ordering::SeqCst) + pause;
            while rotations.load(Ordering::SeqCst) < until && !stopped.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(5));
            }
        }
    });
    let socket = guest.logger();
    let flood = thread::spawn(move || {
        let begin = Instant::now();
        for number in 1..=200_000 {
            send(&socket, number);
            // 20 k a second
            if number % 200 == 0 {
                let due = Duration::from_millis(number / 20);
                thread::sleep(due.saturating_sub(begin.elapsed()));
            }
        }
        begin.elapsed()
    });
    // On a busy machine there are few in the time that the flood takes.
    while !flood.is_finished() || rotations.load(Ordering::SeqCst) <= 20 {
        guest.run(&["journalctl", "--rotate"]);
        guest.run(&["journalctl", "--vacuum-files=3"]);
        rotations.fetch_add(1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(100));
    }
    let took = flood.join().unwrap();
    let exported = guest.exported();
    let (rest, gaps, _, resets) = reader.finish();
    all.extend(rest);
    let missing: u64 = gaps.iter().map(Gap::count).sum();
    eprintln!(
        "{} entries in {took:?}, {} rotations, {missing} missing in {} gaps, {resets} resets",
        all.len(),
        rotations.load(Ordering::SeqCst),
        gaps.len()
    );
    assert_eq!(resets, 0);
    // Numbers of the persistent stream: everything from its first to its last, read or in a gap.
    let mut numbers: BTreeMap<[u8; 16], Vec<u64>> = BTreeMap::new();
    for got in &all {
        numbers.entry(got.stream).or_default().push(got.head.seqnum);
    }
    let span: u64 = numbers
        .values()
        .map(|numbers| numbers[numbers.len() - 1] - numbers[0] + 1)
        .sum();
    assert_eq!(span - all.len() as u64, missing);
    assert_numbers(&all, missing, 200_000);
    let read: HashSet<Identity> = all.iter().map(identity).collect();
    assert_eq!(read.len(), all.len(), "doubled entries");
    let in_gap = |got: &Got| {
        gaps.iter()
            .any(|gap| (gap.from..=gap.to).contains(&got.head.seqnum))
    };
    for got in &exported {
        assert!(
            read.contains(&identity(got)) || in_gap(got),
            "lost {}: {}",
            got.head.seqnum,
            got.message()
        );
    }
    Some(missing)
}

#[test]
fn three_boots_are_read_once_through_the_flush_and_a_killed_machine() {
    let Some(folders) = prepare() else {
        return;
    };
    let (journal, copy) = (folders.persistent(), folders.parent.path().join("copy"));
    let mut position = Position::START;
    let mut all: Vec<Got> = Vec::new();
    let mut killed_at = u64::MAX;
    for boot in 0..3 {
        folders.begin_boot();
        // From the first moment on, when there is only /run.
        let reader = follow(folders.journal(), position, |_| {});
        let guest = Guest::boot(&folders, "1G");
        let socket = guest.logger();
        for number in 1..=3000 {
            send(&socket, number);
        }
        for number in 3001..=6000 {
            send(&socket, number);
        }
        guest.run(&["journalctl", "--sync"]);
        let before_kill = guest.exported();
        if boot == 1 {
            // The disk as a killed VM leaves it: without what came after.
            let status = Command::new("cp")
                .arg("-a")
                .arg(&journal)
                .arg(&copy)
                .status();
            assert!(status.unwrap().success());
        }
        for number in 6001..=9000 {
            send(&socket, number);
        }
        let exported = guest.exported();
        let (got, gaps, at, resets) = reader.finish();
        println!(
            "boot {boot}: {} entries, {resets} resets, {gaps:?}",
            got.len()
        );
        assert_eq!(gaps, []);
        assert_eq!(
            resets,
            u32::from(boot == 2),
            "only the boot after the kill begins anew"
        );
        all.extend(got);
        position = at;
        let read: HashSet<Identity> = all.iter().map(identity).collect();
        assert_eq!(read.len(), all.len(), "doubled entries");
        let there: HashSet<Identity> = exported.iter().map(identity).collect();
        let lost = exported.iter().find(|got| !read.contains(&identity(got)));
        assert!(lost.is_none(), "lost: {lost:?}");
        // Only what the kill took from the disk was read and is not there.
        let extra: Vec<&Got> = all
            .iter()
            .filter(|got| !there.contains(&identity(got)))
            .collect();
        assert!(
            extra
                .iter()
                .all(|got| boot == 2 && got.head.realtime_us > killed_at)
        );
        assert!(boot < 2 || extra.len() >= 3000);
        drop(guest);
        if boot == 1 {
            fs::remove_dir_all(&journal).unwrap();
            fs::rename(&copy, &journal).unwrap();
            killed_at = before_kill[before_kill.len() - 1].head.realtime_us;
        }
    }
}

#[test]
fn an_active_file_that_is_damaged_costs_only_what_was_damaged() {
    let Some(folders) = prepare() else {
        return;
    };
    let guest = Guest::boot(&folders, "1G");
    let reader = follow(folders.journal(), Position::START, |_| {});
    let socket = guest.logger();
    let active = folders
        .persistent()
        .join("5eed".repeat(8))
        .join("system.journal");
    let mut damaged = 0;
    for number in 1..=40_000 {
        send(&socket, number);
        if number % 8000 == 0 {
            guest.run(&["journalctl", "--sync"]);
            reader.has_read(usize::try_from(number).unwrap());
            // 4 KiB in the middle of what is written, as a failing disk would.
            let file = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(&active)
                .unwrap();
            let mut tail = [0; 8];
            file.read_exact_at(&mut tail, 136).unwrap();
            let middle = u64::from_le_bytes(tail) / 2;
            file.write_all_at(&[0xa5; 4096], middle).unwrap();
            damaged += 1;
        }
    }
    let exported = guest.exported();
    let (all, gaps, _, resets) = reader.finish();
    let missing: u64 = gaps.iter().map(Gap::count).sum();
    eprintln!(
        "{} read, {} exported, {damaged} times damaged, {missing} missing in {} gaps, {resets} resets",
        all.len(),
        exported.len(),
        gaps.len()
    );
    let unique = |entries: &[Got]| -> HashSet<u64> { numbers(entries).collect() };
    // Read as it was written, the damage came too late to matter; journalctl, afterwards, has less.
    assert_eq!(unique(&all).len(), 40_000);
    assert!(unique(&exported).is_subset(&unique(&all)));
    assert_eq!((missing, resets), (0, 0));
}
