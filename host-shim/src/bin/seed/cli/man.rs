//! Manual pages, from the table, in the macros that every man(1) reads (man(7)).

use super::{
    parse,
    table::{self, Info, Opt},
};
use crate::error::CliError;

/// The page of a command; of the program for an empty name.
pub(super) fn of(command: &str) -> Result<String, CliError> {
    if command.is_empty() {
        return Ok(program());
    }
    match table::find(command) {
        Some(info) => Ok(page(info)),
        None => Err(CliError::usage(
            format!("there is no command {command:?}"),
            "man",
        )),
    }
}

fn program() -> String {
    let mut text = head("seed", "run one NixOS system in a microVM of its own");
    text += ".B seed\n.I COMMAND\n[\\fB\\-\\-namespace\\fR \\fINS\\fR] [\\fB\\-\\-json\\fR]\n";
    text += ".SH COMMANDS\n";
    for info in table::COMMANDS {
        let words = plain(info.words);
        let (name, summary) = (plain(info.name), plain(info.summary));
        text += &format!(".TP\n\\fB{name}\\fR {words}\n{summary}, see \\fBseed-{name}\\fR(1)\n");
    }
    text += ".PP\n\\fINAME\\fR may be left out where there is only one instance.\n";
    text += ".SH OPTIONS\n";
    options(&mut text, table::GLOBAL.iter().chain(table::PROGRAM));
    text += ".SH EXIT STATUS\n0 done, 1 failed, 2 not understood; \\fBseed exec\\fR passes on the command's own.\n";
    text += ".PP\nWith \\fB\\-\\-json\\fR an error is one object on standard error, with the members \\fBerror\\fR, \\fBremedy\\fR and \\fBstatus\\fR.\n";
    text += ".SH ENVIRONMENT\n.TP\n.B SEED_CONFIG\nthe configuration file, in place of /etc/seed/shim.toml\n";
    text += ".TP\n.B SEED_LOG\nwhat this program logs to standard error: \\fBdebug\\fR, \\fBseed_shim=trace\\fR...\n";
    text
}

fn page(info: &Info) -> String {
    let mut text = head(&format!("seed-{}", info.name), info.summary);
    let synopsis = format!("[\\fIoptions\\fR] {}", plain(info.words));
    text += &format!(".B seed {}\n{}\n", plain(info.name), synopsis.trim_end());
    text += ".SH DESCRIPTION\n";
    for (number, paragraph) in info.about.iter().enumerate() {
        if number > 0 {
            text += ".PP\n";
        }
        text += &format!("{}\n", plain(paragraph));
    }
    text += ".SH OPTIONS\n";
    options(&mut text, info.all_options());
    text += ".SH SEE ALSO\n.BR seed (1)\n";
    text
}

fn head(name: &str, summary: &str) -> String {
    let version = parse::version();
    format!(
        ".TH {} 1 \"\" \"{}\"\n.SH NAME\n{} \\- {}\n.SH SYNOPSIS\n",
        name.to_uppercase().replace('-', "\\-"),
        version.trim(),
        plain(name),
        plain(summary),
    )
}

fn options<'o>(text: &mut String, options: impl Iterator<Item = &'o Opt>) {
    for option in options {
        let spelled = plain(&option.spelled());
        *text += &format!(".TP\n\\fB{spelled}\\fR\n{}\n", plain(option.help));
    }
}

/// Text that roff prints as it is. A line never begins with a control character: each is a paragraph of its own.
fn plain(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    match escaped.chars().next() {
        Some('.' | '\'') => format!("\\&{escaped}"),
        _ => escaped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_names_all_its_options_and_nothing_is_a_request_by_accident() {
        let names = table::COMMANDS.iter().map(|info| info.name);
        for name in names.chain([""]) {
            let text = of(name).unwrap();
            assert!(text.starts_with(".TH SEED"), "{name}");
            for line in text.lines().filter(|line| line.starts_with(['.', '\''])) {
                let request = line.split(' ').next().unwrap();
                let known = [".TH", ".SH", ".TP", ".PP", ".B", ".BR", ".I"];
                assert!(known.contains(&request), "{name}: {line}");
            }
            for option in table::find(name).map_or(&[][..], |info| info.options) {
                let long = format!("\\-\\-{}", option.long.replace('-', "\\-"));
                assert!(text.contains(&long), "{name}: {long}");
            }
        }
        assert!(of("nonesuch").is_err());
    }

    #[test]
    fn what_roff_would_take_for_its_own_is_escaped() {
        assert_eq!(plain(".-\\x"), "\\&.\\-\\ex");
        assert_eq!(plain("'quoted'"), "\\&'quoted'");
    }
}
