//! Help texts, from the table.

use super::table::{self, Info};

/// Lines are no longer than this.
const WIDTH: usize = 96;

/// Where the text of an option begins.
const COLUMN: usize = 24;

/// The help of a command; of the program for an empty name. `None` for a command that there is not.
pub(super) fn of(command: &str) -> Option<String> {
    match command {
        "" => Some(program()),
        name => table::find(name).map(text),
    }
}

fn program() -> String {
    let mut text = "\
seed: run one NixOS system in a microVM of its own

Usage: seed COMMAND [--namespace NS] [--json]

"
    .to_owned();
    for info in table::COMMANDS {
        entry(&mut text, &synopsis(info), info.summary);
    }
    text += "
NAME may be left out where there is only one instance.
'seed COMMAND --help' tells more about a command.
";
    text
}

/// The name and the words, less `--yes` and other details.
fn synopsis(info: &Info) -> String {
    let words = info.words.replace(" [ARGUMENT...]", "...");
    format!("{} {words}", info.name).trim_end().to_owned()
}

fn text(info: &Info) -> String {
    let options = match info.options {
        [] => "",
        _ => " [options]",
    };
    let words = match info.words.split_once(" -- ") {
        Some((before, after)) => format!("{before}{options} -- {after}"),
        None => format!("{}{options}", info.words),
    };
    let mut text = format!("Usage: seed {} {}", info.name, words.trim_start());
    text.truncate(text.trim_end().len());
    text.push('\n');
    for paragraph in info.about {
        text.push('\n');
        for line in wrapped(paragraph, WIDTH) {
            text += &format!("{line}\n");
        }
    }
    text.push('\n');
    for option in info.all_options() {
        entry(&mut text, &option.spelled(), option.help);
    }
    text
}

/// A name and what it means, in two columns; under each other where the name is long.
fn entry(text: &mut String, name: &str, meaning: &str) {
    let mut lines = wrapped(meaning, WIDTH - COLUMN).into_iter();
    let mut line = format!("  {name}");
    if line.chars().count() + 2 > COLUMN {
        *text += &format!("{line}\n");
        line = String::new();
    }
    let first = lines.next().unwrap_or_default();
    *text += &format!("{line:<COLUMN$}{first}\n");
    for more in lines {
        *text += &format!("{:COLUMN$}{more}\n", "");
    }
}

/// Broken between words.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_help_that_fits_a_terminal() {
        for name in table::COMMANDS.iter().map(|info| info.name).chain([""]) {
            let text = of(name).unwrap();
            for line in text.lines() {
                assert!(line.chars().count() <= WIDTH, "{name}: {line}");
                assert_eq!(line, line.trim_end(), "{name}");
            }
        }
        assert_eq!(of("nonesuch"), None);
    }

    #[test]
    fn long_names_stand_alone_and_long_meanings_go_on_below() {
        let mut text = String::new();
        entry(&mut text, "-q", "names only");
        entry(&mut text, "--a-very-long-name VALUE", &"word ".repeat(20));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "  -q                    names only");
        assert_eq!(lines[1], "  --a-very-long-name VALUE");
        assert!(lines[2].starts_with(&" ".repeat(COLUMN)) && lines.len() == 4);
    }
}
