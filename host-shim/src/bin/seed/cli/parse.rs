//! Words into [`Given`]: which command, its words, its options, as the table has them. What they mean is said in
//! [`super::meaning`].

use std::ffi::OsString;

use lexopt::{
    Arg::{Long, Short, Value},
    Parser, ValueExt,
};
use seed_shim::names::Namespace;

use super::{
    Global, Invocation, completions, help, man, meaning,
    table::{self, Info, Value as OptValue},
};
use crate::error::CliError;

/// What the user gave.
#[derive(Debug, Default)]
pub(super) struct Given {
    namespace: Option<Namespace>,
    pub(super) json: bool,
    /// Words that are no options.
    pub(super) words: Vec<String>,
    /// The words of another command line.
    pub(super) rest: Vec<String>,
    /// Options by their long names, in order.
    options: Vec<(&'static str, Option<OsString>)>,
}

/// Reads the whole command line, the program's own name first.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Invocation, CliError> {
    let mut parser = Parser::from_iter(words);
    let mut given = Given::default();
    let program_help = || Ok(Invocation::Text(help::of("").unwrap_or_default()));
    let name = loop {
        let option = match next(&mut parser, "")? {
            None => return program_help(),
            Some(Value(word)) => break text(word, "")?,
            Some(Long("help") | Short('h')) => return program_help(),
            Some(Long("version") | Short('V')) => {
                return Ok(Invocation::Text(version()));
            }
            Some(Long(long)) => format!("--{long}"),
            Some(Short(short)) => format!("-{short}"),
        };
        if !given.global(&option, &mut parser, "")? {
            return Err(CliError::usage(format!("option {option} is unknown"), ""));
        }
    };
    if name == "help" {
        let of = match next(&mut parser, "")? {
            Some(Value(word)) => text(word, "")?,
            _ => String::new(),
        };
        return help::of(&of)
            .map(Invocation::Text)
            .ok_or_else(|| no_command(&of));
    }
    let info = table::find(&name).ok_or_else(|| no_command(&name))?;
    if !given.read(info, &mut parser)? {
        return Ok(Invocation::Text(help::of(info.name).unwrap_or_default()));
    }
    if given.json && !info.has_data() {
        let what = format!("'seed {}' prints no data: leave out --json", info.name);
        return Err(CliError::usage(what, info.name));
    }
    match info.name {
        "completions" => Ok(Invocation::Text(completions::of(&given.one_word(info)?)?)),
        "man" => Ok(Invocation::Text(man::of(&given.one_word(info)?)?)),
        _ => {
            let command = meaning::command(info.name, &mut given)?;
            let default = || Namespace::try_from("default");
            let namespace = given.namespace.map_or_else(default, Ok)?;
            let json = given.json;
            let global = Global { namespace, json };
            Ok(Invocation::Command { global, command })
        }
    }
}

/// Whether a failure of this command line is to be told as data.
pub(crate) fn wants_json(words: &[OsString]) -> bool {
    match parse(words.iter().cloned()) {
        Ok(Invocation::Command { global, .. }) => global.json,
        // It was not read to its end.
        Ok(Invocation::Text(_)) | Err(_) => {
            let mut ours = words.iter().take_while(|word| *word != "--");
            ours.any(|word| word == "--json")
        }
    }
}

pub(super) fn version() -> String {
    seed_protocol::version::line("seed")
}

fn no_command(name: &str) -> CliError {
    CliError::usage(format!("there is no command {name:?}"), "")
}

impl Given {
    /// Takes an option that every command knows.
    fn global(
        &mut self,
        option: &str,
        parser: &mut Parser,
        command: &str,
    ) -> Result<bool, CliError> {
        match option {
            "--json" => self.json = true,
            "--namespace" => {
                let value = text(value(parser, option, command)?, command)?;
                self.namespace = Some(Namespace::try_from(value.as_str())?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The rest of the command line. False when help is wanted.
    fn read(&mut self, info: &'static Info, parser: &mut Parser) -> Result<bool, CliError> {
        let name = info.name;
        // In `seed exec NAME CMD -x`, -x is the command's.
        let until_words = if info.passes_words_on { 2 } else { usize::MAX };
        loop {
            if self.words.len() >= until_words || begins_rest(info, parser) {
                for word in parser.raw_args().map_err(|error| usage(&error, name))? {
                    self.rest.push(text(word, name)?);
                }
                return Ok(true);
            }
            let option = match next(parser, name)? {
                None => return Ok(true),
                Some(Value(word)) => {
                    self.words.push(text(word, name)?);
                    continue;
                }
                Some(Long("help") | Short('h')) => return Ok(false),
                Some(Long(long)) => format!("--{long}"),
                Some(Short(short)) => format!("-{short}"),
            };
            if self.global(&option, parser, name)? {
                continue;
            }
            let known = info.options.iter().find(|known| known.is(&option));
            let Some(known) = known else {
                return Err(CliError::usage(format!("option {option} is unknown"), name));
            };
            let value = match known.value {
                OptValue::Flag => None,
                OptValue::Needed(..) => Some(value(parser, &option, name)?),
                OptValue::Optional(_) => meaning::optional(parser),
            };
            self.options.push((known.long, value));
        }
    }

    /// Fails when there is a word left.
    pub(super) fn no_words(&mut self, command: &str) -> Result<(), CliError> {
        match self.words.first() {
            None => Ok(()),
            Some(word) => Err(CliError::usage(
                format!("word {word:?} is too many"),
                command,
            )),
        }
    }

    /// Takes the first word, and fails when there is another.
    pub(super) fn first_word(&mut self, command: &str) -> Result<Option<String>, CliError> {
        let mut words = std::mem::take(&mut self.words).into_iter();
        let first = words.next();
        self.words = words.collect();
        self.no_words(command)?;
        Ok(first)
    }

    /// The only word of a command that prints a text; empty where there is none.
    fn one_word(&mut self, info: &Info) -> Result<String, CliError> {
        Ok(self.first_word(info.name)?.unwrap_or_default())
    }

    /// Whether this option was given.
    pub(super) fn has(&self, long: &str) -> bool {
        self.options.iter().any(|(option, _)| *option == long)
    }

    /// Every value of these options, in order, with the option's name.
    pub(super) fn values<'s>(
        &'s self,
        names: &'s [&str],
        command: &'s str,
    ) -> impl Iterator<Item = Result<(&'static str, String), CliError>> {
        self.options
            .iter()
            .filter(move |(option, _)| names.contains(option))
            .map(move |(option, value)| {
                Ok((*option, text(value.clone().unwrap_or_default(), command)?))
            })
    }

    /// The last value of this option.
    pub(super) fn last(&self, name: &str, command: &str) -> Result<Option<String>, CliError> {
        let names = [name];
        let last = self.values(&names, command).last().transpose()?;
        Ok(last.map(|(_, value)| value))
    }

    /// Every value of this option.
    pub(super) fn all(&self, name: &str, command: &str) -> Result<Vec<String>, CliError> {
        self.values(&[name], command)
            .map(|found| Ok(found?.1))
            .collect()
    }

    /// An option whose value may be left out: the outer level says whether it was given.
    pub(super) fn last_optional(&self, name: &str) -> Option<Option<&OsString>> {
        let given = self.options.iter().rfind(|(option, _)| *option == name);
        given.map(|(_, value)| value.as_ref())
    }
}

/// Takes `--` where the words of another command line begin.
fn begins_rest(info: &Info, parser: &mut Parser) -> bool {
    info.passes_words_on
        && parser.try_raw_args().is_some_and(|mut raw| {
            let begins = raw.peek().is_some_and(|word| word == "--");
            if begins {
                raw.next();
            }
            begins
        })
}

fn next<'p>(parser: &'p mut Parser, command: &str) -> Result<Option<lexopt::Arg<'p>>, CliError> {
    parser.next().map_err(|error| usage(&error, command))
}

fn value(parser: &mut Parser, option: &str, command: &str) -> Result<OsString, CliError> {
    parser
        .value()
        .map_err(|_| CliError::usage(format!("option {option} needs a value"), command))
}

/// A word as text.
pub(super) fn text(word: OsString, command: &str) -> Result<String, CliError> {
    word.string().map_err(|error| usage(&error, command))
}

fn usage(error: &lexopt::Error, command: &str) -> CliError {
    CliError::usage(error.to_string(), command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Command;

    fn command(line: &[&str]) -> Command {
        match parse(["seed"].iter().chain(line).map(OsString::from)) {
            Ok(Invocation::Command { command, .. }) => command,
            other => panic!("{other:?}"),
        }
    }

    fn exec(line: &[&str]) -> (Option<String>, Vec<String>, bool) {
        match command(line) {
            Command::Exec(args) => (
                args.which.map(|id| id.to_string()),
                args.command,
                args.stdin,
            ),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_follows_the_two_dashes_is_the_guests() {
        let words = |list: &[&str]| {
            list.iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        let demo = Some("demo".to_owned());
        let uname = words(&["uname", "-a"]);
        assert_eq!(
            exec(&["exec", "demo", "--", "uname", "-a"]),
            (demo.clone(), uname.clone(), false)
        );
        assert_eq!(
            exec(&["exec", "--", "uname", "-a"]),
            (None, uname.clone(), false)
        );
        assert_eq!(
            exec(&["exec", "demo", "uname", "-a"]),
            (demo.clone(), uname.clone(), false)
        );
        assert_eq!(
            exec(&["exec", "-i", "demo", "--", "uname", "-a"]),
            (demo.clone(), uname.clone(), true)
        );
        assert_eq!(
            exec(&["exec", "demo", "-i", "--", "uname", "-a"]),
            (demo.clone(), uname, true)
        );
        let dashes = words(&["sh", "-c", "--", "--json"]);
        assert_eq!(
            exec(&["exec", "demo", "--", "sh", "-c", "--", "--json"]),
            (demo, dashes, false)
        );
    }

    #[test]
    fn global_options_stand_anywhere() {
        for line in [["--json", "ps"], ["ps", "--json"]] {
            match parse(["seed"].iter().chain(&line).map(OsString::from)) {
                Ok(Invocation::Command {
                    global,
                    command:
                        Command::Ps {
                            all: false,
                            quiet: false,
                            kept: false,
                        },
                }) => {
                    assert!(global.json);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn logs_default_to_a_hundred_entries() {
        let Command::Logs(args) = command(&["logs", "-f", "-u", "app", "-p", "err"]) else {
            panic!()
        };
        assert_eq!((args.lines, args.follow), (Some(100), true));
        assert_eq!(args.filter.units, ["app.service"]);
        assert_eq!(args.filter.priority, Some(3));
        let Command::Logs(args) = command(&["logs", "demo", "--lines", "all"]) else {
            panic!()
        };
        assert_eq!(args.lines, None);
        let Command::Logs(args) = command(&["logs", "demo", "--log-namespace", "web"]) else {
            panic!()
        };
        assert_eq!(args.namespace.unwrap().as_str(), "web");
    }
}
