//! A real journald, systemd and all, in namespaces: flood with rotation and deletion, boot with the flush from
//! /run to /var, a killed machine. In the end what was read equals what journalctl prints, minus stated gaps.
//!
//! Needs root, `unshare`, `nsenter`, and in `SEED_JOURNAL_ROOT` a Debian root with systemd:
//! `mmdebstrap --variant=minbase --include=systemd,dbus trixie ROOT`. Run with
//! `cargo test -p seed-journal --test live -- --ignored --test-threads 1`.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::{fs::FileExt, net::UnixDatagram},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{Got, MACHINE, parse_export, read_from};
use seed_journal::{Gap, Journal, Position};
use seed_protocol::journal::EntryHead;

const BOOT: &str = r#"
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
mount --rbind /sys "$1/sys"
mount --rbind /dev "$1/dev"
mount -t proc proc "$1/proc"
cat /proc/sys/kernel/random/uuid > "$1/etc/seed-test-boot-id"
mount --bind "$1/etc/seed-test-boot-id" "$1/proc/sys/kernel/random/boot_id"
mount -t tmpfs tmpfs "$1/run"
mount -t tmpfs tmpfs "$1/tmp"
mount -t cgroup2 cgroup2 "$1/sys/fs/cgroup"
exec chroot "$1" /usr/bin/env -i container=other /lib/systemd/systemd
"#;

/// systemd in namespaces; killed when dropped.
struct Guest {
    root: PathBuf,
    unshare: Child,
    init: u32,
}

fn root() -> PathBuf {
    let root = std::env::var_os("SEED_JOURNAL_ROOT");
    PathBuf::from(root.expect("SEED_JOURNAL_ROOT names a Debian root"))
}

/// A journald configuration, and no journal.
fn prepare(size: &str) -> PathBuf {
    let root = root();
    let conf = root.join("etc/systemd/journald.conf.d");
    fs::create_dir_all(&conf).unwrap();
    let text = format!(
        "[Journal]\nStorage=persistent\nRateLimitBurst=0\nRateLimitIntervalSec=0\nSplitMode=none\n\
         SystemMaxUse={size}\nSystemKeepFree=1M\n"
    );
    fs::write(conf.join("seed-test.conf"), text).unwrap();
    let _ = fs::remove_file(conf.join("t.conf"));
    fs::write(root.join("etc/machine-id"), "5eed".repeat(8) + "\n").unwrap();
    let _ = fs::remove_dir_all(root.join("var/log/journal"));
    fs::create_dir_all(root.join("var/log/journal")).unwrap();
    root
}

impl Guest {
    fn boot(root: &Path) -> Self {
        let unshare = Command::new("unshare")
            .args([
                "--mount",
                "--pid",
                "--uts",
                "--ipc",
                "--cgroup",
                "--net",
                "--fork",
                "--kill-child",
            ])
            .args(["sh", "-c", BOOT, "sh"])
            .arg(root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let init = wait_for("systemd to start", || {
            let init: u32 = fs::read_to_string(&children).ok()?.trim().parse().ok()?;
            let socket = format!("/proc/{init}/root/run/systemd/journal/socket");
            Path::new(&socket).exists().then_some(init)
        });
        Self {
            root: root.to_owned(),
            unshare,
            init,
        }
    }

    fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    fn journal(&self) -> Journal {
        let parents = ["/var/log/journal", "/run/log/journal"].map(|path| self.inside(path));
        Journal::open(&parents, MACHINE)
    }

    fn run(&self, command: &[&str]) -> Vec<u8> {
        let inside = self.inside("/");
        let output = Command::new("nsenter")
            .args([
                "-t",
                &self.init.to_string(),
                "-m",
                "-p",
                "-u",
                "-i",
                "-C",
                "-n",
            ])
            .arg(format!("--root={}", inside.display()))
            .arg(format!("--wd={}", inside.display()))
            .args(["env", "-i", "PATH=/usr/bin:/usr/sbin:/bin:/sbin"])
            .args(command)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {errors}");
        output.stdout
    }

    fn logger(&self) -> UnixDatagram {
        let socket = UnixDatagram::unbound().unwrap();
        socket
            .connect(self.inside("/run/systemd/journal/socket"))
            .unwrap();
        socket
    }

    fn wait_for_flush(&self) {
        let flag = self.inside("/run/systemd/journal/flushed");
        wait_for("the flush", || flag.exists().then_some(()));
    }

    fn exported(&self) -> Vec<Got> {
        self.run(&["journalctl", "--sync"]);
        parse_export(&self.run(&["journalctl", "--quiet", "--no-pager", "-o", "export"]))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let init = PathBuf::from(format!("/proc/{}", self.init));
        wait_for("the guest to end", || (!init.exists()).then_some(()));
        assert!(self.root.join("etc").exists());
    }
}

fn wait_for<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
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
    thread: thread::JoinHandle<(Vec<Got>, Vec<Gap>, Position, u32)>,
}

/// Reads on a thread of its own until it is stopped and has caught up.
fn follow(mut journal: Journal, mut position: Position, pause: Duration) -> Reader {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = thread::spawn(move || {
        let (mut all, mut gaps, mut resets) = (Vec::new(), Vec::new(), 0);
        loop {
            let last_round = stopped.load(Ordering::SeqCst);
            let (got, outcomes) = read_from(&mut journal, &mut position, 64 * 1024);
            all.extend(got);
            gaps.extend(outcomes.iter().filter_map(|outcome| outcome.gap));
            resets +=
                u32::try_from(outcomes.iter().filter(|outcome| outcome.reset).count()).unwrap();
            if last_round {
                return (all, gaps, position, resets);
            }
            journal.wait_for_change(Duration::from_millis(50));
            thread::sleep(pause);
        }
    });
    Reader { stop, thread }
}

impl Reader {
    fn finish(self) -> (Vec<Got>, Vec<Gap>, Position, u32) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// What was sent is there once, in order; what is not there lies in a gap.
fn assert_numbers(all: &[Got], missing: u64, sent: u64) {
    let mut numbers = all.iter().filter_map(|got| {
        let field = got
            .fields
            .iter()
            .find_map(|field| field.strip_prefix(b"NUMBER="))?;
        std::str::from_utf8(field).unwrap().parse::<u64>().ok()
    });
    let mut seen = 0;
    let mut last = 0;
    for number in &mut numbers {
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
#[ignore = "needs root and SEED_JOURNAL_ROOT"]
fn a_flood_with_rotation_and_deletion_is_read_once() {
    flood("64M", Duration::ZERO);
}

#[test]
#[ignore = "needs root and SEED_JOURNAL_ROOT"]
fn a_reader_that_is_overtaken_by_deletion_counts_exactly_what_it_missed() {
    let missing = flood("64M", Duration::from_millis(900));
    assert!(missing > 0, "the reader was not slow enough");
}

/// Returns how many entries the reader reports missing.
fn flood(size: &str, pause: Duration) -> u64 {
    let guest = Guest::boot(&prepare(size));
    guest.wait_for_flush();
    let reader = follow(guest.journal(), Position::START, pause);
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
    let mut rotations = 0;
    while !flood.is_finished() {
        guest.run(&["journalctl", "--rotate"]);
        guest.run(&["journalctl", "--vacuum-files=3"]);
        rotations += 1;
        thread::sleep(Duration::from_millis(100));
    }
    let took = flood.join().unwrap();
    let exported = guest.exported();
    let (all, gaps, _, resets) = reader.finish();
    let missing: u64 = gaps.iter().map(Gap::count).sum();
    eprintln!(
        "{} entries in {took:?}, {rotations} rotations, {missing} missing in {} gaps, {resets} resets",
        all.len(),
        gaps.len()
    );
    assert!(rotations > 20);
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
    missing
}

#[test]
#[ignore = "needs root and SEED_JOURNAL_ROOT"]
fn three_boots_are_read_once_through_the_flush_and_a_killed_machine() {
    let root = prepare("1G");
    let mut position = Position::START;
    let mut all: Vec<Got> = Vec::new();
    let copy = root.join("var/log/journal-before");
    let _ = fs::remove_dir_all(&copy);
    let mut killed_at = u64::MAX;
    for boot in 0..3 {
        let guest = Guest::boot(&root);
        // From the first moment on, when there is only /run.
        let reader = follow(guest.journal(), position, Duration::ZERO);
        let socket = guest.logger();
        for number in 1..=3000 {
            send(&socket, number);
        }
        guest.wait_for_flush();
        for number in 3001..=6000 {
            send(&socket, number);
        }
        guest.run(&["journalctl", "--sync"]);
        let before_kill = guest.exported();
        if boot == 1 {
            // The disk as a killed VM leaves it: without what came after.
            let status = Command::new("cp")
                .arg("-a")
                .arg(root.join("var/log/journal"))
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
            fs::remove_dir_all(root.join("var/log/journal")).unwrap();
            fs::rename(&copy, root.join("var/log/journal")).unwrap();
            killed_at = before_kill[before_kill.len() - 1].head.realtime_us;
        }
    }
}

#[test]
#[ignore = "needs root and SEED_JOURNAL_ROOT"]
fn an_active_file_that_is_damaged_costs_only_what_was_damaged() {
    let guest = Guest::boot(&prepare("1G"));
    guest.wait_for_flush();
    let reader = follow(guest.journal(), Position::START, Duration::ZERO);
    let socket = guest.logger();
    let active = guest.inside(&format!(
        "/var/log/journal/{}/system.journal",
        "5eed".repeat(8)
    ));
    let mut damaged = 0;
    for number in 1..=40_000 {
        send(&socket, number);
        if number % 8000 == 0 {
            guest.run(&["journalctl", "--sync"]);
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
    let numbers = |entries: &[Got]| -> HashSet<Vec<u8>> {
        let fields = entries.iter().flat_map(|got| got.fields.iter());
        fields
            .filter(|field| field.starts_with(b"NUMBER="))
            .cloned()
            .collect()
    };
    // Read as it was written, the damage came too late to matter; journalctl, afterwards, has less.
    assert_eq!(numbers(&all).len(), 40_000);
    assert!(numbers(&exported).is_subset(&numbers(&all)));
    assert_eq!((missing, resets), (0, 0));
}
