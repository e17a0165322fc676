//! The Nix files: that each parses, is formatted and has no dead code; that the module's plain functions hold; and,
//! where `NIXPKGS` and `SOPS_NIX` name trees of those projects, that everything evaluates with a real nixpkgs.
//!
//! The tests themselves are Nix (`nixos-guest-module/tests`): each group of cases evaluates to
//! `{ passed, failures }`. Nothing is built, and no store is written (`--store dummy://`).

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    report::Tally,
    util::{self, Places, say},
};

const EVALUATOR: &str = "nix-instantiate";
const NO_STORE: [&str; 2] = ["--store", "dummy://"];
/// Folders without files of ours, wherever they are.
const FOREIGN: [&str; 3] = [".git", "target", "result"];
/// Snippets of the user reference: as they stand there, not as we would write them.
const REFERENCE: &str = "nixos-guest-module/tests/reference";
const PLAIN: &str = "nixos-guest-module/tests/plain";
const EVALUATED: &str = "nixos-guest-module/tests/eval";
/// Name the trees to evaluate with.
const NIXPKGS: &str = "NIXPKGS";
const SOPS_NIX: &str = "SOPS_NIX";
/// What nixpkgs asks of Nix (its `lib/minfeatures.nix`), as major and minor.
const OLDEST_FOR_NIXPKGS: (u32, u32) = (2, 18);

/// Everything about Nix that can be said on this machine.
pub(crate) fn check(places: &Places) -> Result<Tally> {
    let mut files = Vec::new();
    walk(&places.root, Path::new(""), &mut files)?;
    ensure!(!files.is_empty(), "the checkout has no Nix files");
    files.sort();
    let ours: Vec<_> = files
        .iter()
        .filter(|file| !file.starts_with(REFERENCE))
        .cloned()
        .collect();
    let parse = ["--parse", NO_STORE[0], NO_STORE[1]];
    let mut tally = Tally::default();
    for (label, program, flags, files) in [
        ("nix parse", EVALUATOR, &parse[..], &files),
        ("nixfmt", "nixfmt", &["--check"], &ours),
        ("deadnix", "deadnix", &["--fail"], &ours),
    ] {
        let mut command = command(places, program);
        util::step(places, label, command.args(flags).args(files))?;
        tally.add(Tally::one());
    }
    tally.add(group(places, "plain functions", &[PLAIN])?);
    tally.add(with_nixpkgs(places)?);
    Ok(tally)
}

/// The groups that need a real nixpkgs, or a skip that says what is missing.
fn with_nixpkgs(places: &Places) -> Result<Tally> {
    let skip = |reason: &str| Ok(Tally::skip("modules with a real nixpkgs", reason));
    let (Some(nixpkgs), Some(sops_nix)) = (tree(NIXPKGS)?, tree(SOPS_NIX)?) else {
        return skip("NIXPKGS and SOPS_NIX do not name trees to evaluate with");
    };
    let said = util::read(command(places, EVALUATOR).arg("--version"))?;
    if version(&said).is_none_or(|version| version < OLDEST_FOR_NIXPKGS) {
        let said = said.trim();
        return skip(&format!(
            "NIXPKGS needs Nix 2.18 or later, and this is {said}"
        ));
    }
    let tests = |attribute: &str| -> Vec<String> {
        let words = [
            EVALUATED, "--argstr", "nixpkgs", &nixpkgs, "--argstr", "sops-nix", &sops_nix,
            "--attr", attribute,
        ];
        words.map(str::to_owned).to_vec()
    };
    let names = evaluate(places, "nix groups", &tests("names"))?;
    let names = names.as_array().context("the groups have no names")?;
    let mut tally = Tally::default();
    for name in names.iter().filter_map(Value::as_str) {
        tally.add(group(places, name, &tests(&format!("groups.{name}")))?);
    }
    ensure!(tally.passed > 0, "no case ran with {nixpkgs}");
    flake_check(places, &nixpkgs, &sops_nix)?;
    tally.add(Tally::one());
    Ok(tally)
}

/// `nix flake check` without building, with the trees in place of what the lock names. It needs a store to copy sources
/// to, which is kept in the cache.
fn flake_check(places: &Places, nixpkgs: &str, sops_nix: &str) -> Result<()> {
    let store = places.cache.join("nix-store");
    let input = |folder: &str| {
        // Nix copies a checkout once, and a folder each time.
        let kind = if Path::new(folder).join(".git").exists() {
            "git+file"
        } else {
            "path"
        };
        format!("{kind}://{folder}")
    };
    let mut command = command(places, "nix");
    command
        .args(["--extra-experimental-features", "nix-command flakes"])
        // For root without a group of builders; nothing is built.
        .args(["--option", "build-users-group", "", "--offline"])
        .arg("--store")
        .arg(store)
        .args(["flake", "check", "--no-build", "--no-write-lock-file"])
        .args(["--override-input", "nixpkgs", &input(nixpkgs)])
        .args(["--override-input", "sops-nix", &input(sops_nix)])
        .arg(".");
    util::step(places, "nix flake check", &mut command)
}

/// Evaluates a group of cases; what does not hold is told with what it gave.
fn group(places: &Places, name: &str, arguments: &[impl AsRef<str>]) -> Result<Tally> {
    let value = evaluate(places, &format!("nix {name}"), arguments)?;
    let (tally, wrong) = read_group(&value).with_context(|| format!("read the group {name}"))?;
    for line in wrong {
        say(&format!("    {name}: {line}"));
    }
    Ok(tally)
}

/// `{ passed, failures = [ { name, got, want } ] }`, as counts and sentences.
fn read_group(value: &Value) -> Result<(Tally, Vec<String>)> {
    let passed = value["passed"].as_u64().context("it has no count")?;
    let failures = value["failures"].as_array().context("it has no failures")?;
    let tally = Tally {
        passed: usize::try_from(passed)?,
        failed: failures.len(),
        ..Tally::default()
    };
    let say = |case: &Value| {
        let name = case["name"].as_str().unwrap_or("a case");
        format!("{name}: got {}, want {}", case["got"], case["want"])
    };
    Ok((tally, failures.iter().map(say).collect()))
}

/// Evaluates to JSON.
fn evaluate(places: &Places, label: &str, arguments: &[impl AsRef<str>]) -> Result<Value> {
    let mut command = command(places, EVALUATOR);
    command
        .args(["--eval", "--strict", "--json"])
        .args(NO_STORE);
    command.args(arguments.iter().map(AsRef::as_ref));
    util::step(places, label, &mut command)?;
    let log = util::step_log(places, label);
    let text = fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))?;
    // Warnings come before it, each on lines of its own.
    let json = text.lines().last().unwrap_or_default();
    serde_json::from_str(json).with_context(|| format!("{} ends with no JSON", log.display()))
}

/// In the checkout, with the tools in its path.
fn command(places: &Places, program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(&places.root)
        .env("PATH", places.path_variable());
    command
}

/// The folder that a variable names, or nothing where it is unset.
fn tree(variable: &str) -> Result<Option<String>> {
    let Some(folder) = env::var_os(variable).filter(|folder| !folder.is_empty()) else {
        return Ok(None);
    };
    let folder = fs::canonicalize(&folder)
        .with_context(|| format!("{variable}: {}", Path::new(&folder).display()))?;
    let folder = folder.into_os_string().into_string();
    Ok(Some(folder.ok().with_context(|| {
        format!("{variable} names a folder whose name is no text")
    })?))
}

/// Major and minor of `nix-instantiate (Nix) 2.26.3`.
fn version(said: &str) -> Option<(u32, u32)> {
    let mut parts = said.split_whitespace().last()?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Every Nix file below the checkout, by its path in it.
fn walk(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let at = root.join(folder);
    for entry in fs::read_dir(&at).with_context(|| format!("read {}", at.display()))? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), folder.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() && !FOREIGN.iter().any(|foreign| name == *foreign) {
            walk(root, &path, files)?;
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "nix") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{io::Write, process::Stdio};

    use serde_json::json;

    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(version("nix-instantiate (Nix) 2.8.0\n"), Some((2, 8)));
        assert_eq!(version("nix-instantiate (Nix) 2.26.3"), Some((2, 26)));
        assert_eq!(version("Lix"), None);
        assert!(version("(Nix) 2.8.0") < Some(OLDEST_FOR_NIXPKGS));
    }

    #[test]
    fn what_does_not_hold_is_counted_and_told() {
        let value =
            json!({ "passed": 2, "failures": [{ "name": "ports", "got": 1, "want": [2] }] });
        let (tally, wrong) = read_group(&value).expect("a group");
        assert_eq!((tally.passed, tally.failed), (2, 1));
        assert_eq!(wrong, ["ports: got 1, want [2]"]);
        assert!(read_group(&json!({ "passed": 2 })).is_err());
    }

    /// What a program makes of a text, in the module's folder.
    fn filtered(program: &str, arguments: &[&str], text: &str) -> String {
        let mut child = Command::new(program)
            .args(arguments)
            .current_dir(root().join("nixos-guest-module"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}; cargo xtask setup installs it"));
        let mut input = child.stdin.take().expect("it was piped");
        input.write_all(text.as_bytes()).expect("it reads all");
        drop(input);
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("as the input")
    }

    fn with_authority(caddyfile: &str) -> String {
        let address = "address={$SEED_ACME_URL:https://ca.example}";
        filtered("awk", &["-v", address, "-f", "caddyfile.awk"], caddyfile)
    }

    #[test]
    fn a_closures_page_has_its_size_and_the_largest_first() {
        let path = |index: usize| {
            let store = "/nix/store/0c2iwdjvs6jyw29rlv0bdsy3skkj3nl2";
            json!({ "path": format!("{store}-part-{index}"), "narSize": index * 524_288 })
        };
        let closure: Vec<_> = (1..=12).map(path).collect();
        let text = json!({ "closure": closure }).to_string();
        let page = filtered("jq", &["--raw-output", "--from-file", "closure.jq"], &text);
        let lines: Vec<_> = page.lines().collect();
        assert_eq!(lines[0], "39 MiB in 12 paths. The ten largest:");
        assert_eq!(lines[4], "| `part-12` | 6 MiB |");
        assert_eq!(lines[13..], ["| `part-3` | 1.5 MiB |"]);
    }

    #[test]
    fn a_caddyfile_without_global_options_gets_them() {
        let site = "# mine\n\n{$SEED_FQDN}, id.example.com {\n\trespond ok\n}\n";
        let want = "# mine\n\n{\n\tacme_ca {$SEED_ACME_URL:https://ca.example}\n}\n{$SEED_FQDN}, id.example.com {\n\trespond ok\n}\n";
        assert_eq!(with_authority(site), want);
    }

    #[test]
    fn a_caddyfile_with_global_options_gets_one_more() {
        let want = "{ # mine\n\tacme_ca {$SEED_ACME_URL:https://ca.example}\n\temail a@b.example\n}\n:80\n";
        let got = with_authority("{ # mine\n\temail a@b.example\n}\n:80\n");
        assert_eq!(got, want);
    }

    #[test]
    fn a_caddyfile_that_decides_for_itself_stays_as_it_is() {
        for own in [
            "{\n\tacme_ca https://ca.test\n}\n:80\n",
            "import /srv/options\n:80\n",
            "# nothing yet\n",
            "",
        ] {
            assert_eq!(with_authority(own), own);
        }
    }

    #[test]
    fn every_nix_file_is_found_and_nothing_built() {
        let root = root();
        let mut files = Vec::new();
        walk(&root, Path::new(""), &mut files).expect("read");
        let found = |name: &str| files.iter().any(|file| file == Path::new(name));
        assert!(found("flake.nix") && found("nixos-guest-module/lib/sizes.nix"));
        assert!(!files.iter().any(|file| file.starts_with("target")));
    }
}
