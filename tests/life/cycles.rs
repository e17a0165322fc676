//! Two hundred lives, several at a time, by turns powered off, killed and restarted.

use std::thread;

use anyhow::{Context, Result, bail};
use seed_tests::Runner;

use super::bench::{Bench, said};

const LIVES: usize = 200;
/// At a time.
const NAMES: [&str; 4] = ["one", "two", "three", "four"];

pub(crate) fn run(runner: &mut Runner, bench: &Bench) {
    runner.case("life: two hundred starts and stops leave nothing", || {
        lives(bench)
    });
}

fn lives(bench: &Bench) -> Result<()> {
    thread::scope(|scope| {
        let threads = NAMES.map(|name| scope.spawn(move || some(bench, name, LIVES / NAMES.len())));
        for thread in threads {
            match thread.join() {
                Ok(result) => result?,
                Err(_) => bail!("a thread panicked"),
            }
        }
        Ok(())
    })?;
    bench.nothing_left()?;
    NAMES.iter().try_for_each(|name| {
        let rm = bench.seed(&["rm", name, "--yes"]);
        rm.map(drop)
    })
}

fn some(bench: &Bench, name: &str, lives: usize) -> Result<()> {
    for life in 0..lives {
        let which = || format!("{name}, life {life}");
        let output = bench.run(name, &[])?;
        if !output.status.success() {
            bail!("{}: {}", which(), said(&output));
        }
        match life % 10 {
            3 => drop(bench.seed(&["restart", name]).with_context(which)?),
            6 => drop(
                bench
                    .seed(&["exec", name, "--", "cat"])
                    .with_context(which)?,
            ),
            _ => {}
        }
        let words: &[&str] = match life % 2 {
            0 => &["stop", name],
            _ => &["stop", name, "--kill"],
        };
        bench.seed(words).with_context(which)?;
    }
    Ok(())
}
