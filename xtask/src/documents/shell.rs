//! Runs a document's commands as they stand there, as root, in a mount namespace in which the folders that an installed Seed uses
//! are folders of this run: what is typed needs no other path than a reader's, and touches nothing of the machine's.
//!
//! `ROOT` is the guest's root, as `cargo xtask image` prints it. A line that ends with `# until Ctrl-C` gets one, after a while.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    lab,
    util::{Places, tail},
};

/// A document boots a few guests at most.
const LIMIT: Duration = Duration::from_secs(1200);
/// What is shown of a failure.
const LINES: usize = 30;
/// The folders that a default configuration names.
const FOLDERS: [&str; 3] = ["/run/seed", "/var/lib/seed", "/etc/seed"];
/// Ends every instance that is left, however the commands ended.
const PRELUDE: &str = r#"
set -eu
for folder in $FOLDERS; do
  [ -d "$folder" ] || { mkdir -p "$folder"; made="${made-} $folder"; }
  mkdir -p "$LAB$folder"
  mount --bind "$LAB$folder" "$folder"
done
chmod 0700 /var/lib/seed
clean() {
  set +e
  for name in $(seed ps --json | grep -o '"name": *"[^"]*"' | cut -d'"' -f4) $(ls /var/lib/seed/logs/default 2>/dev/null); do
    seed stop "$name" --kill; seed rm "$name" --yes
  done > /dev/null 2>&1
  cd /
  for folder in $FOLDERS; do umount "$folder"; done
  for folder in ${made-}; do rmdir "$folder"; done
}
trap clean EXIT
mkdir -p "$LAB/here"
cd "$LAB/here"
PS4='$ '
set -x
"#;

/// How long it took.
pub(super) fn run(places: &Places, guest: &Path, commands: &str) -> Result<f64> {
    let folder = Path::new("/tmp").join(format!("seed-doc-{}", std::process::id()));
    fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
    let result = inside(places, guest, commands, &folder);
    fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    result
}

fn inside(places: &Places, guest: &Path, commands: &str, folder: &Path) -> Result<f64> {
    let script = folder.join("script");
    let text = format!("{PRELUDE}{}", interrupted(commands));
    fs::write(&script, text).with_context(|| format!("write {}", script.display()))?;
    let mut shell = Command::new("unshare");
    shell
        .args(["--mount", "--propagation", "private", "sh"])
        .arg(&script)
        .env("PATH", places.path_variable())
        .env("LAB", folder)
        .env("FOLDERS", FOLDERS.join(" "))
        .env("ROOT", guest)
        .env_remove("SEED_CONFIG")
        .stdin(Stdio::null());
    let begin = Instant::now();
    succeeded(&lab::run(&mut shell, &[], LIMIT, None)?)?;
    Ok(begin.elapsed().as_secs_f64())
}

/// The commands' end; if it is none of success, with what they said last.
pub(super) fn succeeded(output: &Output) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{}\n    {}",
        output.status,
        tail(&said, LINES).join("\n    ")
    );
    Ok(())
}

/// What would run until Ctrl-C gets one after five seconds, and may say so by its exit status.
fn interrupted(commands: &str) -> String {
    let line = |line: &str| match line.strip_suffix("# until Ctrl-C") {
        Some(command) => {
            format!("timeout --signal=INT --kill-after=10 5 {command} || [ $? -eq 124 ]\n")
        }
        None => format!("{line}\n"),
    };
    commands.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_runs_for_ever_is_interrupted() {
        let text = interrupted("seed ps\nseed logs -f   # until Ctrl-C\n");
        assert!(text.starts_with("seed ps\ntimeout --signal=INT"), "{text}");
        assert!(text.contains(" seed logs -f "), "{text}");
    }
}
