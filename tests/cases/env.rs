//! `/run/seed/env`: the same values through systemd and through a shell, and in no log.

use std::fs;

use anyhow::{Context, Result, ensure};
use seed_tests::{Instance, limit};

/// Names and values that break careless quoting.
pub(crate) const NASTY: [(&str, &str); 8] = [
    ("T_SPACES", "  two  words "),
    ("T_QUOTES", r#"it's "quoted""#),
    ("T_DOLLAR", "$HOME ${T_SPACES} $(id) `id`"),
    ("T_BACKSLASH", r"a\b\\c\n\"),
    ("T_NEWLINE", "first\nsecond\n\nfourth"),
    ("T_HASH", "# no comment; still=a value"),
    ("T_EMPTY", ""),
    ("T_UTF8", "grüße 種"),
];

/// Of these values, what is written the same in every log.
const PARTS: [&str; 2] = ["still=a value", "grüße"];

/// `printenv -0` of every name: NUL ends each value, so nothing hides.
fn printenv() -> String {
    let names: Vec<_> = NASTY.iter().map(|(name, _)| *name).collect();
    format!("printenv -0 {}", names.join(" "))
}

fn check(how: &str, printed: &str) -> Result<()> {
    let values: Vec<_> = printed.split('\0').collect();
    // An empty last piece stands behind the last NUL.
    ensure!(
        values.len() == NASTY.len() + 1,
        "{how}: {} values: {printed:?}",
        values.len() - 1
    );
    for ((name, expected), value) in NASTY.iter().zip(&values) {
        ensure!(
            value == expected,
            "{how}: {name} is {value:?}, not {expected:?}"
        );
    }
    Ok(())
}

/// A unit with `EnvironmentFile=` sees each value as it was given.
pub(crate) fn values_reach_a_unit_unchanged(instance: &Instance<'_>) -> Result<()> {
    let unit = "systemd-run --quiet --pipe --wait -p EnvironmentFile=/run/seed/env";
    check(
        "EnvironmentFile=",
        &instance.sh(&format!("{unit} {}", printenv()))?,
    )?;
    // Who does not ask for them has none of them.
    let managers = instance.sh("systemctl show-environment")?;
    let is_left_alone = !managers.contains("T_") && !managers.contains("SEED_");
    ensure!(is_left_alone, "systemd has {managers}");
    Ok(())
}

/// So does a shell that sources the file; and the file is nobody else's business.
pub(crate) fn values_reach_a_shell_unchanged(instance: &Instance<'_>) -> Result<()> {
    check(
        "sh",
        &instance.sh(&format!("set -a; . /run/seed/env; {}", printenv()))?,
    )?;
    let named = instance.sh(". /run/seed/env; echo \"$SEED_NAMESPACE/$SEED_INSTANCE\"")?;
    ensure!(
        named == format!("default/{}", instance.name()),
        "the instance takes itself for {named}"
    );
    let mode = instance.sh("stat -c '%a %U' /run/seed/env")?;
    ensure!(mode == "600 root", "/run/seed/env is {mode}");
    Ok(())
}

/// What was given is nobody's to read later: neither in the guest's journal, nor on its console, nor in the shim's log.
pub(crate) fn values_are_in_no_log(instance: &Instance<'_>) -> Result<()> {
    for part in PARTS {
        let given = NASTY.iter().any(|(_, value)| value.contains(part));
        ensure!(given, "no value has {part:?}");
    }
    let words = ["logs", instance.name(), "--lines", "all", "--json"];
    let journal = instance.lab().seed_ok(&words, limit::COMMAND)?;
    let read = |file: &str| {
        let path = instance.run_dir().join(file);
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        anyhow::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let console = read("vm/console.log")?;
    ensure!(
        journal.contains("seed-agent") && !console.is_empty(),
        "the logs do not have the boot"
    );
    let logs = [
        ("journal", journal),
        ("console", console),
        ("shim's log", read("bundle/log")?),
    ];
    for (name, text) in logs {
        let told = text
            .lines()
            .find(|line| PARTS.iter().any(|part| line.contains(part)));
        ensure!(told.is_none(), "the {name} has a value: {told:?}");
    }
    Ok(())
}
