//! The dashboard in a real terminal: tmux is the terminal, OpenSSH the client, and what is on the screen is compared.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use common::{Host, public, until};

/// Each terminal has a server of its own.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// How long a whole screen may take to be drawn.
const DRAWN: Duration = Duration::from_secs(30);

/// A terminal of this size in which `ssh host` runs.
struct Screen {
    socket: PathBuf,
}

impl Screen {
    fn open(host: &Host, key: &std::path::Path, columns: u16, rows: u16) -> Self {
        let screen = Self {
            socket: host.path(&format!(
                "tmux-{columns}-{}",
                NUMBER.fetch_add(1, Ordering::Relaxed)
            )),
        };
        let options = host.options(key).join("' '");
        let line = format!("ssh '{options}' -tt 127.0.0.1; echo \"ended with $?\"; exec cat");
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let args = [
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            &columns,
            "-y",
            &rows,
            &line,
        ];
        screen.tmux(&args);
        screen
    }

    fn tmux(&self, args: &[&str]) -> String {
        let output = Command::new("tmux")
            // Frames are lines, whatever the locale.
            .args(["-u", "-S"])
            .arg(&self.socket)
            .args(args)
            .env("TERM", "xterm-256color")
            .output()
            .unwrap();
        assert!(output.status.success(), "tmux {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn text(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn shows(&self, what: &str) {
        until(what, || self.text().contains(what));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // The test may have ended it already.
        let _ = Command::new("tmux")
            .arg("-S")
            .arg(&self.socket)
            .arg("kill-server")
            .output();
    }
}

#[test]
fn it_shows_instances_and_the_log_and_obeys_keys() {
    let mut host = Host::start();
    let key = host.key("me", &["ed25519"]);
    let repo = host.plant("app", &public(&key), &["api", "web"]);
    let web = host.run(&repo, "web");
    let mut log = host.log(&repo, "web");
    log.add((1..=100).map(|n| format!("line {n}")));
    log.add(["\x1b[2J\x1b]0;owned\x07 \u{9b}31m hostile"]);

    let screen = Screen::open(&host, &key, 80, 24);
    screen.shows("app/web");
    screen.keys(&["Down"]);
    screen.shows("\\x1b[2J\\x1b]0;owned\\x07 \\u{9b}31m hostile");
    let golden = include_str!("dashboard/80x24.txt");
    // It is drawn piece by piece.
    let begun = Instant::now();
    while screen.text() != golden && begun.elapsed() < DRAWN {
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(
        screen.text(),
        golden,
        "the screen is now\n{}",
        screen.text()
    );

    // On with the log.
    log.add(["fresh"]);
    screen.shows("web app: fresh");
    // Scroll, search.
    screen.keys(&["PPage"]);
    screen.shows("lines back");
    screen.keys(&["/", "l", "i", "n", "e", " ", "4", "2", "Enter"]);
    screen.shows("web app: line 42");
    screen.keys(&["End"]);
    screen.shows("web app: fresh");
    // A restart asks first.
    screen.keys(&["r"]);
    screen.shows("restart app/web? y/n");
    screen.keys(&["n"]);
    screen.shows("not restarted");
    assert_eq!(web.restarts.load(Ordering::SeqCst), 0);
    screen.keys(&["r"]);
    screen.shows("restart app/web? y/n");
    screen.keys(&["y"]);
    until("the restart", || web.restarts.load(Ordering::SeqCst) == 1);
    // Another size.
    screen.tmux(&["resize-window", "-x", "120", "-y", "40"]);
    until("the whole width", || {
        let text = screen.text();
        text.lines().count() >= 30 && text.lines().any(|line| line.chars().count() == 120)
    });
    screen.tmux(&["resize-window", "-x", "40", "-y", "10"]);
    screen.shows("app/web");
    // The end leaves nothing behind.
    screen.keys(&["q"]);
    screen.shows("ended with 0");
    assert!(!screen.text().contains("INSTANCE"), "{}", screen.text());
    let title = screen.tmux(&["display", "-p", "#{pane_title}"]);
    assert!(!title.contains("owned"), "{title}");
}

#[test]
fn who_sees_nothing_gets_help_and_a_key_that_is_taken_away_ends_it() {
    let host = Host::start();
    let key = host.key("me", &["ed25519"]);
    let other = host.key("other", &["ed25519"]);
    let screen = Screen::open(&host, &other, 80, 24);
    screen.shows("No repository lists your key");
    screen.shows("ended with 0");
    drop(screen);
    let repo = host.plant("app", &public(&key), &["web"]);
    let screen = Screen::open(&host, &key, 80, 24);
    screen.shows("app/web");
    host.registry().authorize(&repo, &public(&other)).unwrap();
    screen.shows("no repository lists your key any more");
    screen.shows("ended with 1");
}
