//! What is stuck holds up whoever asked for it, and nobody else: there is no lock over the calls.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails here fails the test"
)]

mod common;

use std::{fs, path::Path, time::Duration};

use common::{Agent, LIMIT};
use rustix::{
    fd::OwnedFd,
    fs::{CWD, FileType, Mode, OFlags, mknodat, open},
};
use seed_agent::config::Instance;
use seed_kata_client::Kata;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

/// A file at which every reader waits for as long as this is held.
struct Stuck {
    writer: OwnedFd,
}

impl Stuck {
    fn make(path: &Path) {
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(CWD, path, FileType::Fifo, mode, 0).unwrap();
    }

    /// Waits for the first reader.
    async fn hold(path: &Path) -> Self {
        loop {
            // Without a reader there is nobody to write to.
            match open(path, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()) {
                Ok(writer) => return Self { writer },
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Readers that wait see the end of the file; those that come later see an empty one.
    fn release(self, path: &Path) {
        let empty = path.with_extension("empty");
        fs::write(&empty, "").unwrap();
        fs::rename(&empty, path).unwrap();
        drop(self.writer);
    }
}

#[tokio::test]
async fn neither_a_kill_nor_health_waits_behind_statistics() {
    let directory = tempfile::tempdir().unwrap();
    let proc = directory.path().join("proc");
    fs::create_dir(&proc).unwrap();
    let load = proc.join("loadavg");
    Stuck::make(&load);
    let agent = Agent::start_with(directory, Instance::default(), |config| {
        config.paths.proc = proc;
    })
    .await;
    let kata = Kata::new(agent.client.clone());
    kata.create_pause("pod").await.unwrap();
    kata.create("demo", &["A=1"], Vec::new()).await.unwrap();
    kata.start("demo").await.unwrap();
    let asked: Vec<JoinHandle<bool>> = (0..20)
        .map(|_| {
            let kata = kata.clone();
            tokio::spawn(async move { kata.stats("demo").await.is_ok() })
        })
        .collect();
    let stuck = timeout(LIMIT, Stuck::hold(&load)).await.unwrap();
    // The same connection, and while all of them wait.
    assert!(kata.check().await.unwrap());
    kata.signal("pod", "", 9).await.unwrap();
    assert_eq!(kata.wait("pod", "").await.unwrap(), 137);
    assert!(asked.iter().all(|stats| !stats.is_finished()));
    stuck.release(&load);
    for stats in asked {
        timeout(LIMIT, stats).await.unwrap().unwrap();
    }
}
