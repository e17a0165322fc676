//! Commands, links and messages in a document's running text: that they exist. Pure but for looking whether a file is there and
//! what the sources say.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    setup,
    util::{self, Places},
};

/// Where programs say their messages.
const SOURCES: [&str; 4] = [
    "host-shim/src",
    "guest-agent/src",
    "age-tpm/src",
    "seed-shell/src",
];
/// How far the parts of a message may be from each other in the source, in bytes: what is filled in stands there by name.
const NEAR: usize = 80;
/// The head of a table of messages.
const MESSAGES: &str = "| message |";

/// Everything in one document.
pub(super) fn check(places: &Places, document: &str, text: &str) -> Result<()> {
    let prose = without_blocks(text);
    for span in spans(&prose) {
        if let Some(words) = span.strip_prefix("cargo xtask ") {
            xtask(words).with_context(|| format!("{document}: `{span}`"))?;
        } else if let Some(words) = span.strip_prefix("seed ") {
            seed(places, words).with_context(|| format!("{document}: `{span}`"))?;
        }
    }
    packages(text).with_context(|| document.to_owned())?;
    let own = places.root.join(document);
    for link in links(&prose) {
        let there = leads(&own, link)?;
        ensure!(there, "{document}: the link to {link} leads nowhere");
    }
    let wanted = messages(&prose);
    if wanted.is_empty() {
        return Ok(());
    }
    let said = sources(&places.root)?;
    for message in wanted {
        ensure!(
            says(&said, &message),
            "{document}: no program says {message:?}"
        );
    }
    Ok(())
}

/// Whether the parts of a message stand in one place of the sources, in their order.
fn says(said: &str, message: &str) -> bool {
    let parts: Vec<_> = message.split('…').map(squeezed).collect();
    let mut parts = parts.iter().filter(|part| !part.is_empty());
    let Some(first) = parts.next() else {
        return false;
    };
    let rest: Vec<_> = parts.collect();
    said.match_indices(first.as_str()).any(|(at, found)| {
        let mut after = &said[at + found.len()..];
        rest.iter().all(|part| {
            let Some(place) = after.find(part.as_str()).filter(|place| *place <= NEAR) else {
                return false;
            };
            after = &after[place + part.len()..];
            true
        })
    })
}

/// Words after `cargo xtask`: the first is a command in the usage text, the second one of its kinds where it has some and this is a
/// word and no name in capitals, and what looks like an option is one that the text has of that command.
pub(super) fn xtask(words: &str) -> Result<()> {
    let mut first = words.split([' ', '\n', '[']);
    let word = first.next().unwrap_or_default();
    let (mut help, mut kinds, mut inside) = (String::new(), Vec::new(), false);
    for line in crate::USAGE.lines() {
        let command = line
            .strip_prefix("  ")
            .filter(|rest| !rest.starts_with(' '));
        if let Some(command) = command {
            let mut parts = command.split("  ").next().unwrap_or_default().split(' ');
            inside = parts.next() == Some(word);
            kinds.extend(parts.next().filter(|kind| inside && is_word(kind)));
        }
        if inside {
            help.push_str(line);
            help.push('\n');
        }
    }
    ensure!(!help.is_empty(), "there is no command {word:?}");
    if let Some(kind) = first.next().filter(|kind| is_word(kind)) {
        let known = kinds.is_empty() || kinds.contains(&kind);
        ensure!(known, "'{word}' has no {kind:?}");
    }
    match unknown_option(words, &help) {
        Some(option) => bail!("'{word}' has no option {option}"),
        None => Ok(()),
    }
}

/// Something to be typed as it stands there.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase())
}

/// Words after `seed`: the first is a command of the program, and what looks like an option is one of that command.
fn seed(places: &Places, words: &str) -> Result<()> {
    let word = words.split(' ').next().unwrap_or_default();
    if word.starts_with('-') || word.chars().all(|c| c.is_ascii_uppercase()) {
        return Ok(());
    }
    let mut help = Command::new(places.programs().join("seed"));
    let output = util::output(help.args(["help", word]))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let help = String::from_utf8_lossy(&output.stdout);
    match unknown_option(words, &help) {
        Some(option) => bail!("'seed {word}' has no option {option}"),
        None => Ok(()),
    }
}

/// The first option among the words, up to a lone `--` or another program, that the help does not name.
fn unknown_option<'a>(words: &'a str, help: &str) -> Option<&'a str> {
    let known = |option: &str| {
        help.split(|c: char| c.is_whitespace() || ",[]=|".contains(c))
            .any(|word| word == option)
    };
    words
        .split_whitespace()
        .take_while(|word| !["--", "|"].contains(word))
        .map(|word| word.trim_matches(['[', ']']))
        .filter(|word| word.starts_with('-') && word.len() > 1)
        .map(|word| word.split('=').next().unwrap_or(word))
        .find(|option| !known(option))
}

/// What a text tells to install is what set-up knows. No block that is run installs anything.
fn packages(text: &str) -> Result<()> {
    for told in text.split("apt install ").skip(1) {
        let told = told.split(['`', '#', '\n']).next().unwrap_or_default();
        let unknown = told
            .split_whitespace()
            .find(|name| !setup::is_package(name));
        ensure!(unknown.is_none(), "set-up knows no package {unknown:?}");
    }
    Ok(())
}

fn without_blocks(text: &str) -> String {
    let parts = text.split("```").step_by(2);
    parts.collect::<Vec<_>>().join("\n")
}

/// What stands between single backquotes.
fn spans(prose: &str) -> Vec<&str> {
    prose
        .lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .collect()
}

/// Relative targets of links and pictures.
fn links(prose: &str) -> Vec<&str> {
    let targets = prose.split("](").skip(1);
    targets
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
        .filter(|target| !target.contains("://"))
        .collect()
}

/// Whether a link in a document leads to a file, and to a heading of it where it names one.
fn leads(document: &Path, link: &str) -> Result<bool> {
    let (file, heading) = link.split_once('#').unwrap_or((link, ""));
    let folder = document.parent().unwrap_or(Path::new(""));
    let path = if file.is_empty() {
        document.to_owned()
    } else {
        folder.join(file)
    };
    if heading.is_empty() {
        return Ok(path.exists());
    }
    let Ok(text) = fs::read_to_string(&path) else {
        return Ok(false);
    };
    let text = without_blocks(&text);
    let mut headings = text.lines().filter(|line| line.starts_with('#'));
    Ok(headings.any(|line| anchor(line) == heading))
}

/// What a heading is called in links: its letters in lower case, digits and underscores, with hyphens for blanks.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
    words
        .chars()
        .filter(kept)
        .collect::<String>()
        .replace(' ', "-")
}

/// The first cells of tables of messages; `…` stands for what differs.
fn messages(prose: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in prose.lines() {
        if line.starts_with(MESSAGES) {
            inside = true;
        } else if !line.starts_with('|') {
            inside = false;
        } else if inside && let Some(message) = line.split('`').nth(1) {
            found.push(message.to_owned());
        }
    }
    found
}

/// All that programs say as one text, as a message in it would be: strings that go over several lines are joined. What stands in
/// comments, in lines for developers and in tests is said to nobody.
fn sources(root: &Path) -> Result<String> {
    let mut text = String::new();
    let mut open: Vec<PathBuf> = SOURCES.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = fs::read_to_string(&path)
                    .with_context(|| format!("read {}", path.display()))?;
                text.push_str(&spoken(&source));
                text.push('\n');
            }
        }
    }
    ensure!(!text.is_empty(), "there are no sources");
    Ok(text)
}

fn spoken(source: &str) -> String {
    let program = source
        .split("#[cfg(test)]\nmod ")
        .next()
        .unwrap_or_default();
    let silent = |line: &&str| line.starts_with("//") || line.starts_with("debug!(");
    let lines: Vec<_> = program
        .lines()
        .map(|line| line.trim().trim_start_matches("tracing::"))
        .filter(|line| !silent(line))
        .collect();
    squeezed(&lines.join("\n").replace("\\\n", " ").replace("\\\"", "\""))
}

/// One blank wherever there are several.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_of_this_program_is_known_and_another_is_not() {
        for good in [
            "test",
            "bench all --json",
            "chaos [--minutes N]",
            "test vm FILTER",
        ] {
            assert!(xtask(good).is_ok(), "{good}");
        }
        for wrong in [
            "deploy",
            "Each",
            "bench all-of-it --jsn",
            "bench everything",
            "release --thrice",
            "chaos [--hours N]",
        ] {
            assert!(xtask(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_option_is_one_that_the_help_names() {
        let help = "Usage: seed ps [--quiet]\n  -A, --all-namespaces  of every namespace\n  --size SIZE  how large";
        assert_eq!(unknown_option("ps -A --all-namespaces", help), None);
        assert_eq!(unknown_option("ps --all", help), Some("--all"));
        assert_eq!(unknown_option("run --size=xs -- --odd", help), None);
        assert_eq!(unknown_option("tpm backup db - | age -r KEY", help), None);
        assert_eq!(unknown_option("ps [-A] [--none]", help), Some("--none"));
    }

    #[test]
    fn what_is_told_to_be_installed_is_what_set_up_installs() {
        let page = |line: &str| format!("text\n```sh not-run: x\n{line}\n```\nand `{line}`.\n");
        packages(&page("apt install git gcc   # a linker")).expect("packages of set-up");
        assert!(packages(&page("apt install gcc quemu")).is_err());
        for document in super::super::DOCUMENTS {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
            let text = fs::read_to_string(root.join(document)).expect("a document");
            packages(&text).expect(document);
        }
    }

    #[test]
    fn the_parts_of_a_message_stand_in_one_place_and_in_order() {
        let said = format!(
            "\"volume {{name}} is in use by another VM\" {} \"socket path {{}} has {{}} bytes\"",
            "x".repeat(NEAR)
        );
        let said = said.as_str();
        assert!(says(said, "volume … is in use by another VM"));
        assert!(says(said, "socket path … has … bytes"));
        assert!(!says(said, "socket path … is in use by another VM"));
        assert!(!says(said, "volume … bytes") && !says(said, "…"));
    }

    #[test]
    fn a_message_is_none_that_only_developers_see() {
        let source = "// a comment\n#[error(\"it is \\\n  \\\"so\\\"\")]\n  debug!(\"noise\");\n#[cfg(test)]\nmod tests {\n\"a test\"";
        assert_eq!(spoken(source), "#[error(\"it is \"so\"\")]");
    }

    #[test]
    fn a_program_says_each_message_of_the_operators_page() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let said = sources(&root).expect("sources");
        let page = fs::read_to_string(root.join("docs/operator.md")).expect("a page");
        let wanted = messages(&without_blocks(&page));
        assert!(wanted.len() > 5, "{wanted:?}");
        let unsaid: Vec<_> = wanted.iter().filter(|text| !says(&said, text)).collect();
        assert!(unsaid.is_empty(), "{unsaid:?}");
    }

    #[test]
    fn a_link_leads_to_a_heading_that_is_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let leads = |document: &str, link: &str| leads(&root.join(document), link).expect("read");
        assert!(leads("README.md", "#try-it") && leads("README.md", "LICENSE"));
        assert!(leads("docs/operator.md", "#the-pods-control-group"));
        assert!(leads(
            "docs/operator.md",
            "../ARCHITECTURE.md#what-survives-what"
        ));
        assert!(!leads("README.md", "#try-this") && !leads("docs/operator.md", "README.md"));
    }

    #[test]
    fn links_of_every_document_lead_somewhere() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for document in super::super::DOCUMENTS {
            let own = root.join(document);
            let text = fs::read_to_string(&own).expect("a document");
            let prose = without_blocks(&text);
            for link in links(&prose) {
                assert!(leads(&own, link).expect("read"), "{document}: {link}");
            }
        }
    }

    #[test]
    fn spans_links_and_messages_are_found_outside_of_blocks() {
        let text = "a `seed ps` [b](c.md#d) [e](https://x)\n```sh run\n`not this`\n```\n| message | why |\n|---|---|\n| `cannot … it` | `x` |\n\n| other |\n| `no` |\n";
        let prose = without_blocks(text);
        assert_eq!(spans(&prose)[..2], ["seed ps", "cannot … it"]);
        assert_eq!(links(&prose), ["c.md#d"]);
        assert_eq!(messages(&prose), ["cannot … it"]);
    }
}
