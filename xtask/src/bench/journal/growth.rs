//! The journal's way as it grows: for each size the reader alone, a pull of everything by the agent and the puller as they ship,
//! and the last lines of what was pulled. For `bench growth`.

use std::path::Path;

use anyhow::{Result, ensure};

use super::{INSTANCE, Readers, Scratch, corpus, pull, row, show};
use crate::{
    bench::Row,
    util::{Places, say},
};

/// Tenfold each.
const SIZES: [u32; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// Its corpus takes some 6 GB.
const LARGEST: u32 = 10_000_000;

/// All sizes; the largest when the bench is a `full` one.
pub(in crate::bench) fn rows(places: &Places, guest: &Path, full: bool) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for entries in SIZES.into_iter().chain(full.then_some(LARGEST)) {
        rows.extend(size(places, guest, entries)?);
    }
    Ok(rows)
}

fn size(places: &Places, guest: &Path, entries: u32) -> Result<Vec<Row>> {
    say(&format!("  {entries} entries of a journal"));
    let scratch = Scratch::make(places)?;
    let corpus = corpus::folder(places, entries);
    let container = corpus::boot(places, guest, &corpus, &scratch.0)?;
    corpus::fill(&container, &corpus, entries)?;
    let readers = Readers::of(&container, &[])?;
    // Its writers', and some of systemd's own.
    ensure!(
        readers.entries >= f64::from(entries),
        "the corpus of {entries} entries has {}: delete {}",
        readers.entries,
        corpus.display()
    );
    let segments = scratch.0.join("state/logs/default").join(INSTANCE);
    let pulled = pull::once(places, &container, &segments)?;
    let last = show::last_lines(places, &scratch.0)?;
    let figure =
        |what: &str, unit, figure| row(&format!("{entries} entries: {what}"), unit, figure, &[]);
    Ok(vec![
        figure("read and encode, CPU each", "us", readers.cost("encode")?),
        figure("reader's private memory", "MiB", readers.private_mib),
        figure("pulled, wall each", "us", pulled.wall_us),
        figure(
            "agent's most private memory, on top of idle",
            "MiB",
            pulled.agent_mib,
        ),
        figure("puller's private memory", "MiB", pulled.puller_mib),
        figure("the last 10 lines printed", "ms", last),
    ])
}
