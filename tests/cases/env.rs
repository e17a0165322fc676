//! `/run/seed/env`: the same values through systemd and through a shell.

use anyhow::{Result, ensure};
use seed_tests::Instance;

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
