//! The documents' commands, run: what a reader is told to type is typed by a test.
//!
//! Every fenced block says what it is, after its language ([`blocks`]):
//!
//! | mark | what is done |
//! |---|---|
//! | `sh run` | run, all of a document in one shell, in their order, as root on folders of its own ([`shell`]) |
//! | `sh machine` | run as well, in a guest's systemd in namespaces: what installs, and what starts services ([`machine`]) |
//! | `sh xtask` | each line is a command of this program (or what it prints is evaluated), which the test command or its steps run |
//! | `toml shim`, `toml shell` | checked by the shim, by the seed shell |
//! | `nix` | parsed by Nix |
//! | `text` | nothing: no command |
//! | anything, then `not-run: WHY` | nothing, for that reason |
//!
//! Commands and links in the running text are looked at as well: `cargo xtask WORD` and `seed WORD` must be commands with the options that are named, a relative
//! link must lead to a file, and a message in a table of messages must be one that a program says ([`words`]). What is not run is
//! listed with its reason in CONTRIBUTING.md, which is looked at too.

mod blocks;
mod machine;
mod shell;
mod words;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    image, programs,
    report::Tally,
    setup,
    util::{self, Places, print, read, say},
};
use blocks::{Block, Kind};

/// What is read: every page of the checkout but the one that is made from the options' own words.
const DOCUMENTS: [&str; 20] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "docs/benchmarks.md",
    "docs/fuzzing.md",
    "docs/operator.md",
    "docs/security.md",
    "age-tpm/README.md",
    "age-tpm/tests/vectors/README.md",
    "guest-agent/README.md",
    "guest-agent/journal/README.md",
    "guest-agent/journal/tests/fixtures/README.md",
    "host-shim/README.md",
    "netlink/README.md",
    "nixos-guest-module/README.md",
    "nixos-guest-module/tests/reference/README.md",
    "protocol/README.md",
    "seed-shell/README.md",
    "tests/README.md",
    "xtask/README.md",
];
/// That one: another test compares it.
#[cfg(test)]
const MADE: &str = "nixos-guest-module/OPTIONS.md";

/// Where the list of what is not run stands, and how each line of it begins.
const LIST: &str = "CONTRIBUTING.md";
const LISTED: &str = "- not run: ";

/// A document that was read.
struct Document {
    path: &'static str,
    text: String,
    blocks: Vec<Block>,
}

fn all(places: &Places) -> Result<Vec<Document>> {
    let read = |path: &'static str| {
        let file = places.root.join(path);
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let blocks = blocks::of(&text).with_context(|| path.to_owned())?;
        Ok(Document { path, text, blocks })
    };
    DOCUMENTS.into_iter().map(read).collect()
}

/// Checks, then runs.
pub(crate) fn all_of_them(places: &Places) -> Result<ExitCode> {
    setup::run(places, setup::Need::Test)?;
    programs::build(places)?;
    let guest = image::build(places)?;
    let checked = check(places)?;
    say(&format!(
        "  {} blocks and texts are as they should be",
        checked.passed
    ));
    util::passed_on(&mut command(places, &guest)?)
}

/// All that needs no instance.
pub(crate) fn check(places: &Places) -> Result<Tally> {
    let mut tally = Tally::default();
    let documents = all(places)?;
    listed(&documents)?;
    for document in documents {
        words::check(places, document.path, &document.text)?;
        tally.add(Tally::one());
        for block in &document.blocks {
            let place = format!("{}:{}", document.path, block.line);
            static_check(places, block).context(place)?;
            tally.add(Tally::one());
        }
    }
    Ok(tally)
}

/// The list of what is not run is what the blocks say.
fn listed(documents: &[Document]) -> Result<()> {
    let list = documents.iter().find(|document| document.path == LIST);
    let list = list.map_or("", |document| document.text.as_str());
    let listed: BTreeSet<_> = list
        .lines()
        .filter(|line| line.starts_with(LISTED))
        .collect();
    let marked: BTreeSet<_> = documents.iter().flat_map(not_run).collect();
    let marked: BTreeSet<_> = marked.iter().map(String::as_str).collect();
    ensure!(
        listed == marked,
        "{LIST} must list exactly what is not run:\n{}",
        Vec::from_iter(marked).join("\n")
    );
    Ok(())
}

fn not_run(document: &Document) -> impl Iterator<Item = String> {
    document
        .blocks
        .iter()
        .filter_map(|block| match &block.kind {
            Kind::NotRun(why) => Some(format!("{LISTED}{}: {why}", document.path)),
            _ => None,
        })
}

fn static_check(places: &Places, block: &Block) -> Result<()> {
    match &block.kind {
        Kind::Run | Kind::Machine | Kind::Text | Kind::NotRun(_) => Ok(()),
        Kind::Xtask => block.text.lines().try_for_each(|line| {
            let command = line.split(" #").next().unwrap_or_default().trim();
            let alone = command.strip_prefix("eval \"$(");
            let command = alone
                .and_then(|rest| rest.strip_suffix(")\""))
                .unwrap_or(command);
            let words = command.strip_prefix("cargo xtask ");
            words::xtask(words.with_context(|| format!("{line:?} is no `cargo xtask`"))?)
        }),
        Kind::ShimConfig => with_file(&block.text, "toml", |file| {
            let mut shim = Command::new(places.programs().join("containerd-shim-seed-v2"));
            read(shim.arg("-check-config").arg(file)).map(drop)
        }),
        Kind::ShellConfig => with_file(&block.text, "toml", |file| {
            let mut shell = Command::new(places.programs().join("seed-shell"));
            read(shell.arg("--config").arg(file).arg("--check-config")).map(drop)
        }),
        Kind::Nix => with_file(&block.text, "nix", |file| {
            let mut nix = Command::new("nix-instantiate");
            nix.args(["--parse", "--store", "dummy://"]).arg(file);
            read(&mut nix).map(drop)
        }),
    }
}

/// A file of its own for a moment.
fn with_file(text: &str, extension: &str, check: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let name = format!("seed-document-{}.{extension}", std::process::id());
    let path = std::env::temp_dir().join(name);
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    let result = check(&path);
    fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    result
}

/// The command that runs as root: the blocks that are run.
pub(crate) fn command(places: &Places, guest: &Path) -> Result<Command> {
    let mut command = util::again_as_root(places, "documents-of")?;
    command.arg(guest);
    Ok(command)
}

/// Runs a document's commands; how many seconds that took.
type Way = fn(&Places, &Path, &str) -> Result<f64>;
/// Of which kind, what it is called, and by whom.
const WAYS: [(Kind, &str, Way); 2] = [
    (Kind::Run, "commands", shell::run),
    (Kind::Machine, "on a machine of its own", machine::run),
];

/// As root. One line for each document and way, and the closing line that the test command reads.
pub(crate) fn run(places: &Places, guest: PathBuf) -> Result<ExitCode> {
    let (mut passed, mut failed) = (0, 0);
    for document in all(places)? {
        not_run(&document).try_for_each(|line| print(line.trim_start_matches("- ")))?;
        for (kind, name, run) in WAYS {
            let blocks = document.blocks.iter().filter(|block| block.kind == kind);
            let script: String = blocks.map(|block| block.text.as_str()).collect();
            if script.is_empty() {
                continue;
            }
            let name = format!("{}, {name}", document.path);
            match run(places, &guest, &script) {
                Ok(seconds) => {
                    passed += 1;
                    print(&format!("test {name} ... ok ({seconds:.1} s)"))?;
                }
                Err(error) => {
                    failed += 1;
                    print(&format!("test {name} ... FAILED\n  {error:#}"))?;
                }
            }
        }
    }
    ensure!(passed + failed > 0, "no document has a command that is run");
    print(&format!("{passed} passed, {failed} failed, 0 skipped"))?;
    if failed > 0 {
        bail!("{failed} of the documents' scripts tell their readers what does not work");
    }
    say("  every command of the documents was run, or says why not");
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_of_every_document_says_what_is_done_with_it() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for path in DOCUMENTS {
            let text = fs::read_to_string(root.join(path)).expect("a document");
            let blocks = blocks::of(&text);
            assert!(blocks.is_ok(), "{path}: {:#}", blocks.expect_err("wrong"));
        }
    }

    #[test]
    fn every_page_of_the_checkout_is_read() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut git = Command::new("git");
        git.args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "*.md",
        ]);
        let pages = read(git.current_dir(root)).expect("git");
        let pages: BTreeSet<_> = pages.lines().filter(|page| *page != MADE).collect();
        assert_eq!(pages, BTreeSet::from(DOCUMENTS));
    }

    #[test]
    fn a_line_for_this_program_is_one_of_its_commands_alone_or_evaluated() {
        let places = Places::find().expect("places");
        let check = |text: &str| {
            let block = Block {
                line: 1,
                kind: Kind::Xtask,
                text: text.to_owned(),
            };
            static_check(&places, &block)
        };
        let good = "cargo xtask demo   # shows it\neval \"$(cargo xtask env)\"\n";
        check(good).expect("commands of this program");
        for wrong in [
            "cargo xtask deploy",
            "cargo xtask release --thrice  # builds",
            "eval \"$(cargo xtask no)\"",
            "seed ps",
        ] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_not_run_is_listed_and_nothing_else() {
        let read = |path: &'static str| {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
            let text = fs::read_to_string(root.join(path)).expect("a document");
            let blocks = blocks::of(&text).expect("blocks");
            Document { path, text, blocks }
        };
        let mut documents: Vec<_> = DOCUMENTS.into_iter().map(read).collect();
        listed(&documents).expect("the list is complete");
        let block = Block {
            line: 1,
            kind: Kind::NotRun("a new reason".to_owned()),
            text: String::new(),
        };
        documents[0].blocks.push(block);
        let error = listed(&documents).expect_err("a block that is not listed");
        assert!(
            error.to_string().contains("README.md: a new reason"),
            "{error}"
        );
    }
}
