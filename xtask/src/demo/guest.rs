//! Point 4: the environment in the guest, as a unit with `EnvironmentFile=` sees it and as a shell does.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Demo, NAME};

/// Names and values that careless quoting breaks.
pub(super) const VALUES: [(&str, &str); 7] = [
    ("GREETING", "hello from the host"),
    ("SPACES", "  two  words "),
    ("QUOTES", r#"it's "quoted""#),
    ("DOLLAR", "$HOME ${SPACES} $(id) `id`"),
    ("BACKSLASH", r"a\b\\c\n\"),
    ("NEWLINE", "first\nsecond\n\nfourth"),
    ("HASH", "# no comment; x=y"),
];

pub(super) fn environment(demo: &mut Demo) -> Result<()> {
    demo.screen
        .typed(&format!("seed exec {NAME} -- sh -c '. /run/seed/env; ...'"));
    // The app's own environment: systemd read the file for it.
    let unit = "cat /proc/$(systemctl show --property MainPID --value app.service)/environ";
    let unit = variables(demo, unit).context("app.service")?;
    let shell = variables(demo, "set -a; . /run/seed/env; env -0").context("the shell")?;
    for (name, value) in VALUES {
        let of = |all: &[(String, String)]| {
            let found = all.iter().find(|(other, _)| other == name);
            found.map(|(_, value)| value.clone())
        };
        let (in_unit, in_shell) = (of(&unit), of(&shell));
        let ok = in_unit.as_deref() == Some(value) && in_shell.as_deref() == Some(value);
        let shown = match (&in_unit, &in_shell) {
            (Some(unit), Some(shell)) if unit == shell => format!("{unit:?}"),
            other => format!("{other:?}"),
        };
        let kept = json!({ "given": value, "unit": in_unit, "shell": in_shell });
        demo.screen.fact(name, name, &shown, kept, ok);
    }
    let mode = demo.lab.sh(NAME, "stat -c '%a %U' /run/seed/env")?;
    demo.screen
        .text("file", "/run/seed/env", &mode, mode == "600 root");
    Ok(())
}

/// Runs a shell line that prints an environment with NUL after each variable.
fn variables(demo: &Demo, line: &str) -> Result<Vec<(String, String)>> {
    let output = demo.lab.exec(NAME, &["/bin/sh", "-c", line])?;
    ensure!(
        output.status.success(),
        "`{line}`: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let variables = text.split('\0').filter_map(|one| one.split_once('='));
    Ok(variables
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}
