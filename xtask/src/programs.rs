//! `cargo xtask build`: our own programs, near release and quick to build, into `target/lab/`; and `cargo xtask env`: how a shell
//! finds them, the tools that set-up built beside them, and the guest's root.

use std::{path::Path, process::Command};

use anyhow::Result;

use crate::util::{self, Places};

/// The crates whose programs run in guests and on the host.
const CRATES: &[&str] = &["seed-agent", "age-tpm", "seed-shim", "seed-shell"];

/// Builds them. Quick when nothing changed.
pub(crate) fn build(places: &Places) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--locked", "--profile", "lab", "--bins"]);
    for name in CRATES {
        cargo.args(["--package", name]);
    }
    cargo.current_dir(&places.root);
    util::step(places, "cargo build (profile lab)", &mut cargo)
}

/// Lines for a POSIX shell: `PATH` with our programs and the tools first, and `ROOT`, the guest's root.
pub(crate) fn exports(places: &Places, guest: &Path) -> String {
    let quoted = |path: &Path| format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"));
    format!(
        "export PATH={}:{}:\"$PATH\"\nexport ROOT={}",
        quoted(&places.programs()),
        quoted(&places.tools().join("bin")),
        quoted(guest)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_gets_the_paths_whatever_is_in_them() {
        let places = Places {
            root: "/a".into(),
            cache: "/it's a $cache".into(),
            target: "/a b/target".into(),
        };
        let lines = exports(&places, Path::new("/guest/root"));
        let script = format!("PATH=/bin\n{lines}\necho \"$PATH|$ROOT\"");
        let said = util::read(Command::new("sh").args(["-c", &script])).expect("a shell");
        assert_eq!(
            said.trim_end(),
            "/a b/target/lab:/it's a $cache/tools/bin:/bin|/guest/root"
        );
    }
}
