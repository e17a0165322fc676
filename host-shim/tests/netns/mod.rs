//! A network namespace of a test's own, and commands in it. Root alone can make one.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use seed_shim::net;

/// A network namespace, gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Network(String);

impl Network {
    pub(crate) fn make(test: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            let text = format!("SKIPPED {test}: a network namespace needs root\n");
            std::io::stderr().write_all(text.as_bytes()).unwrap();
            return None;
        }
        let name = format!("seed-test-{}-{test}", std::process::id());
        run(&["ip", "netns", "add", &name]);
        Some(Self(name))
    }

    /// A command inside.
    pub(crate) fn run(&self, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        run(&[&["ip", "netns", "exec", &self.0], &words[..]].concat())
    }

    /// What others know it by.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }

    /// `work` inside.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                net::enter(&self.path()).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn run(words: &[&str]) -> String {
    let done = Command::new(words[0]).args(&words[1..]).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{words:?}: {said}");
    String::from_utf8(done.stdout).unwrap()
}
