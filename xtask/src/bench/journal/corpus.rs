//! The corpus, and the guest's systemd that it is made and read in: eight units, four of which send native datagrams with
//! fields of their own and four of which write lines to stdout (`writer.pl`).

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};
use seed_container::{Container, Spec};

use super::{MACHINE_ID, pull::AGENT};
use crate::util::{Places, say};

/// Writes one unit's part of the corpus.
const WRITER: &str = include_str!("writer.pl");
const JOURNALD: &str = "\
[Journal]
Storage=persistent
RateLimitIntervalSec=0
RateLimitBurst=0
SystemMaxUse=8G
SystemKeepFree=1M
SystemMaxFileSize=128M
SystemMaxFiles=1000
";
const CORPUS: &str = "\
[Service]
Type=oneshot
ExecStart=/usr/bin/perl /opt/writer.pl %i
TimeoutStartSec=infinity
";
const LIVE: &str = "\
[Service]
Type=oneshot
ExecStart=/usr/bin/perl /opt/writer.pl live
";
/// The agent's unit.
const SERVICE: &str = "\
[Service]
ExecStart=/opt/bench/seed-agent --listen unix:/run/bench/agent.sock
RuntimeDirectory=bench
";

/// Where the corpus of a size is kept.
pub(super) fn folder(places: &Places, entries: u32) -> PathBuf {
    places.cache.join(format!("journal-{entries}"))
}

/// A guest's systemd in namespaces, with the corpus, our programs and those of another folder in it.
pub(super) fn boot(places: &Places, guest: &Path, corpus: &Path, more: &Path) -> Result<Container> {
    let journal = corpus.join("journal");
    fs::create_dir_all(&journal).with_context(|| format!("make {}", journal.display()))?;
    spec(places, guest, JOURNALD)?
        .file("/etc/machine-id", format!("{MACHINE_ID}\n"))?
        .file("/etc/systemd/system/live.service", LIVE)?
        .bind(&journal, "/var/log/journal")
        .show(more, "/opt/more")
        .boot()
}

/// A guest's systemd in namespaces, with its journald as this says, who writes a corpus, and our programs.
pub(super) fn spec(places: &Places, guest: &Path, journald: &str) -> Result<Spec> {
    let units = "/etc/systemd/system";
    Ok(Spec::new(guest)?
        .file("/etc/systemd/journald.conf.d/zz-bench.conf", journald)?
        .file(&format!("{units}/corpus@.service"), CORPUS)?
        .file(&format!("{units}/{AGENT}"), SERVICE)?
        .file("/opt/writer.pl", WRITER)?
        .show(&places.programs(), "/opt/bench"))
}

/// Fills the corpus unless an earlier run did.
pub(super) fn fill(container: &Container, corpus: &Path, entries: u32) -> Result<()> {
    let made = corpus.join("made");
    if made.exists() {
        return Ok(());
    }
    say(&format!("  making a corpus of {entries} entries, once"));
    let begin = Instant::now();
    // Each is a unit of Type=oneshot: this waits for all of them.
    let units = (1..=8).map(|n| format!("corpus@{n}-{}.service", entries / 8));
    let mut words = vec!["systemctl".to_owned(), "start".to_owned()];
    words.extend(units);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    container.run(&words)?;
    container.run(&["journalctl", "--sync"])?;
    File::create(&made).context("note that the corpus is made")?;
    say(&format!("  made in {:.1} s", begin.elapsed().as_secs_f64()));
    Ok(())
}
