//! Licences, sources, duplicates and advisories of everything that we link, by cargo-deny against `deny.toml`.
//!
//! Advisories need RustSec's database, which cargo-deny fetches with git from the network: where it cannot be had, that is said,
//! and is no failure of ours.

use std::process::{Command, Output};

use anyhow::{Result, bail};

use crate::{
    report::Tally,
    util::{self, Places},
};

/// What cargo-deny says when it cannot have the database.
const NO_DATABASE: &str = "failed to fetch advisory database";

/// All checks.
pub(crate) fn check(places: &Places) -> Result<Tally> {
    let deny = |checks: &[&str]| {
        let mut cargo = Command::new("cargo");
        cargo
            .args(["deny", "--locked", "--all-features", "check"])
            .args(checks)
            .current_dir(&places.root)
            .env("CARGO_TERM_COLOR", "never")
            .env("PATH", places.path_variable());
        cargo
    };
    let mut others = deny(&["licenses", "bans", "sources"]);
    util::step(places, "cargo deny", &mut others)?;
    let mut tally = Tally::one();
    tally.add(advisories(&util::output(&mut deny(&["advisories"]))?)?);
    Ok(tally)
}

fn advisories(output: &Output) -> Result<Tally> {
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(Tally::one());
    }
    if said.contains(NO_DATABASE) {
        return Ok(Tally::skip(
            "advisories",
            "RustSec's database is not to be had",
        ));
    }
    bail!("cargo deny check advisories: {}\n{said}", output.status)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

    use super::*;

    #[test]
    fn only_a_missing_database_is_a_skip() {
        let output = |code: i32, said: &str| Output {
            status: ExitStatus::from_raw(code << 8),
            stdout: Vec::new(),
            stderr: said.as_bytes().to_vec(),
        };
        let good = advisories(&output(0, "advisories ok")).expect("good");
        assert_eq!(good, Tally::one());
        let away = format!("[ERROR] {NO_DATABASE} https://example.org");
        let away = advisories(&output(1, &away)).expect("a skip");
        assert_eq!((away.passed, away.skipped.len()), (0, 1));
        assert!(advisories(&output(1, "error[vulnerability]: x 1.0")).is_err());
    }
}
