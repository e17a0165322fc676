//! Words into an [`Invocation`].

use std::{ffi::OsString, time::Duration};

use lexopt::{
    Arg::{Long, Short, Value},
    Parser, ValueExt,
};
use seed_shim::{
    config::Accel,
    containerd::volumes::VolumeArg,
    logs::{
        filter::{Filter, Pattern, parse_priority},
        show::Form,
        when,
    },
    names::{ContainerId, Namespace},
    spec::Size,
};

use super::{
    Boot, Command, EnvArg, ExecArgs, Global, Invocation, LogsArgs, RunArgs, WaitFor, Which, help,
};
use crate::error::CliError;

/// Entries that `seed logs` shows when nothing else is said.
const LOG_LINES: usize = 100;

/// How long an orderly poweroff may take.
const STOP_LIMIT: Duration = Duration::from_secs(90);

/// Reads the whole command line, the program's own name first.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Invocation, CliError> {
    let mut parser = Parser::from_iter(words);
    let mut state = State::default();
    let name = loop {
        match next(&mut parser, "")? {
            None => return Ok(Invocation::Text(help::of(""))),
            Some(Value(word)) => break text(word, "")?,
            Some(Long("help") | Short('h')) => return Ok(Invocation::Text(help::of(""))),
            Some(Long("version") | Short('V')) => {
                return Ok(Invocation::Text(format!(
                    "seed {}\n",
                    env!("CARGO_PKG_VERSION")
                )));
            }
            Some(other) => {
                let other = match other {
                    Long(long) => format!("--{long}"),
                    Short(short) => format!("-{short}"),
                    Value(_) => String::new(),
                };
                if !state.global(&other, &mut parser, "")? {
                    return Err(CliError::usage(format!("option {other} is unknown"), ""));
                }
            }
        }
    };
    let command = match name.as_str() {
        "help" => {
            let of = match next(&mut parser, "")? {
                Some(Value(word)) => text(word, "")?,
                _ => String::new(),
            };
            return help::known(&of)
                .map(Invocation::Text)
                .ok_or_else(|| CliError::usage(format!("there is no command {of:?}"), ""));
        }
        name if help::known(name).is_none() => {
            return Err(CliError::usage(format!("there is no command {name:?}"), ""));
        }
        name => state.command(name, &mut parser)?,
    };
    Ok(match command {
        Some(command) => {
            let default = || Namespace::try_from("default");
            let namespace = state.namespace.map_or_else(default, Ok)?;
            Invocation::Command {
                global: Global {
                    namespace,
                    json: state.json,
                },
                command,
            }
        }
        None => Invocation::Text(help::of(&name)),
    })
}

#[derive(Default)]
struct State {
    namespace: Option<Namespace>,
    json: bool,
    words: Vec<String>,
    rest: Vec<String>,
    options: Vec<(String, Option<OsString>)>,
}

/// Which options a command has, and whether each takes a value.
fn options_of(command: &str) -> &'static [(&'static str, bool)] {
    match command {
        "run" => &[
            ("--name", true),
            ("--toplevel", true),
            ("--size", true),
            ("--accel", true),
            ("--network", true),
            ("--kernel-param", true),
            ("--env", true),
            ("-e", true),
            ("--env-file", true),
            ("--volume", true),
            ("--wait", true),
        ],
        "ps" => &[("--all-namespaces", false), ("-A", false)],
        "logs" => &[
            ("--lines", true),
            ("-n", true),
            ("--follow", false),
            ("-f", false),
            ("--unit", true),
            ("-u", true),
            ("--priority", true),
            ("-p", true),
            ("--since", true),
            ("-S", true),
            ("--until", true),
            ("-U", true),
            ("--grep", true),
            ("-g", true),
            ("--boot", false),
            ("-b", false),
            ("--export", false),
        ],
        "keys" => &[("--tag", false)],
        "restart" => &[("--timeout", true), ("--wait", true)],
        "stop" => &[("--kill", false), ("--timeout", true)],
        "rm" => &[("--yes", false), ("-y", false)],
        "exec" => &[
            ("-i", false),
            ("-t", false),
            ("--env", true),
            ("-e", true),
            ("--cwd", true),
        ],
        _ => &[],
    }
}

impl State {
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

    /// `None` when help is wanted.
    fn command(&mut self, name: &str, parser: &mut Parser) -> Result<Option<Command>, CliError> {
        // In `seed exec NAME CMD -x`, -x is the command's.
        let until_words = if name == "exec" { 2 } else { usize::MAX };
        loop {
            if self.words.len() >= until_words || self.begins_rest(name, parser) {
                for word in parser.raw_args().map_err(|error| usage(&error, name))? {
                    self.rest.push(text(word, name)?);
                }
                break;
            }
            let option = match next(parser, name)? {
                None => break,
                Some(Value(word)) => {
                    self.words.push(text(word, name)?);
                    continue;
                }
                Some(Long("help") | Short('h')) => return Ok(None),
                Some(Long(long)) => format!("--{long}"),
                Some(Short(short)) => format!("-{short}"),
            };
            if self.global(&option, parser, name)? {
                continue;
            }
            match options_of(name).iter().find(|(known, _)| *known == option) {
                Some((_, true)) => {
                    let value = value(parser, &option, name)?;
                    self.options.push((option, Some(value)));
                }
                Some((_, false)) if matches!(option.as_str(), "--boot" | "-b") => {
                    let which = boot_word(parser);
                    self.options.push((option, which));
                }
                Some((_, false)) => self.options.push((option, None)),
                None => return Err(CliError::usage(format!("option {option} is unknown"), name)),
            }
        }
        self.build(name).map(Some)
    }

    /// Takes `--` where the words of another command line begin.
    fn begins_rest(&self, name: &str, parser: &mut Parser) -> bool {
        name == "exec"
            && parser.try_raw_args().is_some_and(|mut raw| {
                let begins = raw.peek().is_some_and(|word| word == "--");
                if begins {
                    raw.next();
                }
                begins
            })
    }

    fn build(&mut self, name: &str) -> Result<Command, CliError> {
        Ok(match name {
            "run" => Command::Run(Box::new(self.run_args()?)),
            "ps" => {
                self.no_words(name)?;
                Command::Ps {
                    all: self.has("-A", "--all-namespaces"),
                }
            }
            "status" => Command::Status(self.which(name)?),
            "logs" => Command::Logs(self.logs_args()?),
            "keys" => Command::Keys {
                which: self.which(name)?,
                tag: self.has("", "--tag"),
            },
            "restart" => Command::Restart {
                which: self.which(name)?,
                limit: self.limit(name)?,
                wait: self.wait(name)?,
            },
            "exec" => Command::Exec(self.exec_args()?),
            "stop" => Command::Stop {
                which: self.which(name)?,
                kill: self.has("", "--kill"),
                limit: self.limit(name)?,
            },
            "rm" => {
                let yes = self.has("-y", "--yes");
                let id = self.which(name)?;
                let id = id.ok_or_else(|| CliError::usage("which instance is not said", name))?;
                Command::Rm { id, yes }
            }
            _ => {
                self.no_words(name)?;
                Command::Doctor
            }
        })
    }

    fn no_words(&mut self, command: &str) -> Result<(), CliError> {
        match self.words.first() {
            None => Ok(()),
            Some(word) => Err(CliError::usage(
                format!("word {word:?} is too many"),
                command,
            )),
        }
    }

    fn which(&mut self, command: &str) -> Result<Which, CliError> {
        let mut words = std::mem::take(&mut self.words).into_iter();
        let name = words
            .next()
            .map(|word| ContainerId::try_from(word.as_str()))
            .transpose()?;
        self.words = words.collect();
        self.no_words(command)?;
        Ok(name)
    }

    fn has(&self, short: &str, long: &str) -> bool {
        self.options
            .iter()
            .any(|(option, _)| option == short || option == long)
    }

    /// Every value of an option, in order.
    fn values<'s>(
        &'s self,
        names: &'s [&str],
        command: &'s str,
    ) -> impl Iterator<Item = Result<(&'s str, String), CliError>> {
        self.options
            .iter()
            .filter(move |(option, _)| names.contains(&option.as_str()))
            .map(move |(option, value)| {
                Ok((
                    option.as_str(),
                    text(value.clone().unwrap_or_default(), command)?,
                ))
            })
    }

    fn last(&self, names: &[&str], command: &str) -> Result<Option<String>, CliError> {
        self.values(names, command)
            .last()
            .transpose()
            .map(|found| found.map(|(_, value)| value))
    }

    fn limit(&self, command: &str) -> Result<Duration, CliError> {
        match self.last(&["--timeout"], command)? {
            None => Ok(STOP_LIMIT),
            Some(text) => text.parse().map(Duration::from_secs).map_err(|_| {
                CliError::usage(
                    format!("--timeout {text:?} is no number of seconds"),
                    command,
                )
            }),
        }
    }

    fn wait(&self, command: &str) -> Result<WaitFor, CliError> {
        match self.last(&["--wait"], command)?.as_deref() {
            None | Some("running") => Ok(WaitFor::Running),
            Some("provisioned") => Ok(WaitFor::Provisioned),
            Some("none") => Ok(WaitFor::None),
            Some(other) => {
                let what = format!("--wait {other:?} is unknown: use running, provisioned or none");
                Err(CliError::usage(what, command))
            }
        }
    }

    fn run_args(&mut self) -> Result<RunArgs, CliError> {
        const RUN: &str = "run";
        let wrong = |what: String| CliError::usage(what, RUN);
        let mut words = std::mem::take(&mut self.words).into_iter();
        let root = words
            .next()
            .ok_or_else(|| CliError::usage("which root is not said", RUN))?;
        self.words = words.collect();
        self.no_words(RUN)?;
        let name = self.last(&["--name"], RUN)?;
        let accel = self
            .last(&["--accel"], RUN)?
            .map(|text| text.parse::<Accel>())
            .transpose();
        let size = self.last(&["--size"], RUN)?;
        if let Some(size) = &size {
            size.parse::<Size>()
                .map_err(|problem| wrong(format!("--size {size:?}: {problem}")))?;
        }
        let network = self.last(&["--network"], RUN)?;
        if let Some(other) = network
            .as_deref()
            .filter(|word| !["none", "user"].contains(word))
        {
            return Err(wrong(format!(
                "--network {other:?} is unknown: use none or user"
            )));
        }
        let env = self
            .values(&["--env", "-e", "--env-file"], RUN)
            .map(|found| {
                Ok(match found? {
                    ("--env-file", path) => EnvArg::File(path.into()),
                    (_, assignment) => EnvArg::Assignment(assignment),
                })
            })
            .collect::<Result<_, CliError>>()?;
        let volumes = self
            .values(&["--volume"], RUN)
            .map(|found| Ok(found?.1.parse::<VolumeArg>()?))
            .collect::<Result<_, CliError>>()?;
        let toplevel = self
            .last(&["--toplevel"], RUN)?
            .unwrap_or_else(|| "/seed-system".into());
        if !toplevel.starts_with('/') {
            return Err(wrong(format!("--toplevel {toplevel:?} is not absolute")));
        }
        Ok(RunArgs {
            root: root.into(),
            toplevel: toplevel.into(),
            name: name
                .map(|name| ContainerId::try_from(name.as_str()))
                .transpose()?,
            size,
            accel: accel.map_err(|error| wrong(error.to_string()))?,
            network,
            kernel_params: self
                .values(&["--kernel-param"], RUN)
                .map(|found| Ok(found?.1))
                .collect::<Result<_, CliError>>()?,
            env,
            volumes,
            wait: self.wait(RUN)?,
        })
    }

    fn logs_args(&mut self) -> Result<LogsArgs, CliError> {
        const LOGS: &str = "logs";
        let wrong = |what: String| CliError::usage(what, LOGS);
        let mut filter = Filter::default();
        for unit in self.values(&["--unit", "-u"], LOGS) {
            filter.add_unit(&unit?.1);
        }
        if let Some(text) = self.last(&["--priority", "-p"], LOGS)? {
            let priority = parse_priority(&text);
            filter.priority = Some(priority.map_err(|error| wrong(error.to_string()))?);
        }
        if let Some(text) = self.last(&["--grep", "-g"], LOGS)? {
            let pattern = Pattern::new(&text);
            filter.text = Some(pattern.map_err(|error| wrong(error.to_string()))?);
        }
        let now = jiff::Zoned::now();
        let time = |names: &[&str]| {
            let text = self.last(names, LOGS)?;
            text.map(|text| when::parse(&text, &now))
                .transpose()
                .map_err(|error| wrong(error.to_string()))
        };
        filter.since_us = time(&["--since", "-S"])?;
        filter.until_us = time(&["--until", "-U"])?;
        let boot = self.boot(LOGS)?;
        let lines = match self.last(&["--lines", "-n"], LOGS)?.as_deref() {
            // Who names a time or a boot wants all of it.
            None if filter.since_us.is_some() || filter.until_us.is_some() || boot.is_some() => {
                None
            }
            None => Some(LOG_LINES),
            Some("all") => None,
            Some(text) => {
                Some(text.parse().map_err(|_| {
                    wrong(format!("--lines {text:?} is neither a number nor 'all'"))
                })?)
            }
        };
        let follow = self.has("-f", "--follow");
        if follow && filter.until_us.is_some() {
            return Err(wrong("--until and --follow exclude each other".into()));
        }
        let form = match (self.json, self.has("--export", "")) {
            (false, false) => Form::Human,
            (true, false) => Form::Json,
            (false, true) => Form::Export,
            (true, true) => return Err(wrong("--json and --export exclude each other".into())),
        };
        Ok(LogsArgs {
            which: self.which(LOGS)?,
            lines,
            follow,
            filter,
            boot,
            form,
        })
    }

    /// `-b [ID|OFFSET]`
    fn boot(&self, command: &str) -> Result<Option<Boot>, CliError> {
        let given = self
            .options
            .iter()
            .rfind(|(name, _)| matches!(name.as_str(), "--boot" | "-b"));
        let Some((_, word)) = given else {
            return Ok(None);
        };
        let Some(word) = word else {
            return Ok(Some(Boot::Offset(0)));
        };
        let word = text(word.clone(), command)?;
        boot_of(&word).map(Some).ok_or_else(|| {
            let what = format!("boot {word:?} is neither an id of 32 digits nor 0, -1, 1...");
            CliError::usage(what, command)
        })
    }

    fn exec_args(&mut self) -> Result<ExecArgs, CliError> {
        const EXEC: &str = "exec";
        let mut words = std::mem::take(&mut self.words).into_iter();
        let which = words
            .next()
            .map(|word| ContainerId::try_from(word.as_str()))
            .transpose()?;
        let command: Vec<String> = words.chain(std::mem::take(&mut self.rest)).collect();
        if command.is_empty() {
            return Err(CliError::usage("which command is not said", EXEC));
        }
        let terminal = self.has("-t", "");
        let env = self
            .values(&["--env", "-e"], EXEC)
            .map(|found| Ok(found?.1));
        Ok(ExecArgs {
            which,
            command,
            env: env.collect::<Result<_, CliError>>()?,
            cwd: self.last(&["--cwd"], EXEC)?.unwrap_or_else(|| "/".into()),
            stdin: terminal || self.has("-i", ""),
            terminal,
        })
    }
}

/// The value of `-b`, which may be left out: `-bID`, `-b=ID`, or the next word where that can be one.
fn boot_word(parser: &mut Parser) -> Option<OsString> {
    if let Some(value) = parser.optional_value() {
        return Some(value);
    }
    let mut raw = parser.try_raw_args()?;
    let is_boot = |word: &std::ffi::OsStr| word.to_str().is_some_and(|w| boot_of(w).is_some());
    if raw.peek().is_some_and(is_boot) {
        raw.next()
    } else {
        None
    }
}

fn boot_of(word: &str) -> Option<Boot> {
    let digits: String = word.chars().filter(|c| *c != '-').collect();
    if digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let number = u128::from_str_radix(&digits, 16).ok()?;
        return Some(Boot::Id(number.to_be_bytes()));
    }
    word.parse().ok().map(Boot::Offset)
}

fn next<'p>(parser: &'p mut Parser, command: &str) -> Result<Option<lexopt::Arg<'p>>, CliError> {
    parser.next().map_err(|error| usage(&error, command))
}

fn value(parser: &mut Parser, option: &str, command: &str) -> Result<OsString, CliError> {
    parser
        .value()
        .map_err(|_| CliError::usage(format!("option {option} needs a value"), command))
}

fn text(word: OsString, command: &str) -> Result<String, CliError> {
    word.string().map_err(|error| usage(&error, command))
}

fn usage(error: &lexopt::Error, command: &str) -> CliError {
    CliError::usage(error.to_string(), command)
}

#[cfg(test)]
mod tests {
    use super::*;

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
                    command: Command::Ps { all: false },
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
    }
}
