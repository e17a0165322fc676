//! Fenced blocks of a Markdown text and their marks. Pure.

use anyhow::{Result, bail, ensure};

/// What a block is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Commands that are run.
    Run,
    /// Commands that are run on a machine of their own.
    Machine,
    /// Commands of this program.
    Xtask,
    /// The shim's configuration.
    ShimConfig,
    /// The seed shell's configuration.
    ShellConfig,
    /// Nix.
    Nix,
    /// No command.
    Text,
    /// Not run, for this reason.
    NotRun(String),
}

/// A block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    /// Of its first line, from 1.
    pub(super) line: usize,
    pub(super) kind: Kind,
    /// With a newline at the end of each line.
    pub(super) text: String,
}

/// All blocks. One without a mark, or an indented one, is an error: it would be tried by nobody.
pub(super) fn of(text: &str) -> Result<Vec<Block>> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    let mut blank = true;
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        if let Some(info) = line.strip_prefix("```") {
            open = !open;
            if open {
                let Some(kind) = kind(info) else {
                    bail!("line {number}: {info:?} does not say what is to be done with the block");
                };
                let line = number + 1;
                let text = String::new();
                blocks.push(Block { line, kind, text });
            }
        } else if open {
            if let Some(block) = blocks.last_mut() {
                block.text.push_str(line);
                block.text.push('\n');
            }
        } else {
            let indented = blank && line.starts_with("    ") && !line.trim().is_empty();
            ensure!(
                !indented,
                "line {number}: an indented block cannot say whether it is run"
            );
        }
        blank = line.trim().is_empty();
    }
    ensure!(!open, "the last block has no end");
    Ok(blocks)
}

fn kind(info: &str) -> Option<Kind> {
    let (language, mark) = info.split_once(' ').unwrap_or((info, ""));
    if let Some(why) = mark.strip_prefix("not-run: ") {
        return Some(Kind::NotRun(why.trim().to_owned())).filter(|_| !why.trim().is_empty());
    }
    match (language, mark) {
        ("sh", "run") => Some(Kind::Run),
        ("sh", "machine") => Some(Kind::Machine),
        ("sh", "xtask") => Some(Kind::Xtask),
        ("toml", "shim") => Some(Kind::ShimConfig),
        ("toml", "shell") => Some(Kind::ShellConfig),
        ("nix", "") => Some(Kind::Nix),
        ("text", "") => Some(Kind::Text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_told_by_their_marks() {
        let text = "# T\n```sh run\nseed ps\n```\nx\n```yaml not-run: needs a cluster\na: b\n```\n";
        let blocks = of(text).expect("good");
        assert_eq!(blocks[0].line, 3);
        assert_eq!(
            (&blocks[0].kind, blocks[0].text.as_str()),
            (&Kind::Run, "seed ps\n")
        );
        assert_eq!(blocks[1].kind, Kind::NotRun("needs a cluster".to_owned()));
    }

    #[test]
    fn a_block_that_nobody_would_try_is_refused() {
        for text in [
            "```\nseed ps\n```\n",
            "```sh\nseed ps\n```\n",
            "```sh not-run:\nseed ps\n```\n",
            "text\n\n    seed ps\n",
            "```sh run\nseed ps\n",
        ] {
            assert!(of(text).is_err(), "{text:?}");
        }
        assert!(of("- a list\n    with a long line\n").is_ok());
    }
}
