//! A line, as `ssh host LINE` sends it, into a [`Command`]. Words are split as a POSIX shell does it, without
//! expanding anything.

use std::time::Duration;

use lexopt::{
    Arg::{Long, Short, Value},
    Parser, ValueExt,
};
use seed_shim::names::ContainerId;

use super::Failure;

/// Lines that `logs` shows when nothing else is said.
const LOG_LINES: usize = 100;

/// More can be had in several steps.
const MAX_LOG_LINES: usize = 1_000_000;

/// How slowly a watched status may change.
const MAX_WATCH_SECONDS: u64 = 3600;

/// A line that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// What to do.
    pub command: Command,
    /// Answer in JSON.
    pub json: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Usage.
    Help,
    /// How instances are.
    Status {
        /// One repository, or one instance of it.
        repo: Option<String>,
        /// Again and again.
        watch: Option<Duration>,
    },
    /// The log of an instance.
    Logs {
        /// `[repo/]instance`.
        which: String,
        /// And on.
        follow: bool,
        /// From the end.
        lines: usize,
    },
    /// The recipient of an instance.
    Keys {
        /// `[repo/]instance`.
        which: String,
    },
    /// Stop and start.
    Restart {
        /// `[repo/]instance`.
        which: String,
    },
    /// A command in an instance.
    Exec {
        /// `[repo/]instance`.
        which: String,
        /// Program and arguments.
        command: Vec<String>,
    },
    /// Registers a repository.
    Plant(Plant),
    /// Another source for a repository.
    Replant {
        /// Which.
        identity: String,
        /// The source.
        uri: String,
    },
}

/// `plant`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plant {
    /// The source.
    pub uri: String,
    /// The invite.
    pub code: String,
    /// The identity's signature over it; without, the connection's own key is the identity.
    pub signature: Option<String>,
    /// Instances, as far as they are known.
    pub instances: Vec<ContainerId>,
    /// `.authorized_keys` comes on standard input; without, the connection's own key is listed alone.
    pub keys: bool,
}

/// Understands a line.
pub fn line(line: &str) -> Result<Invocation, Failure> {
    let words = words(line).ok_or_else(|| Failure::usage("a quote is not closed"))?;
    let mut parser = Parser::from_args(words);
    let mut options = Options::default();
    let mut verb = None;
    let mut args = Vec::new();
    while let Some(arg) = parser.next().map_err(wrong)? {
        match arg {
            Value(word) => {
                let word = word.string().map_err(wrong)?;
                if verb.is_none() {
                    verb = Some(word);
                    continue;
                }
                args.push(word);
                if verb.as_deref() == Some("exec") {
                    let rest = parser.raw_args().map_err(wrong)?;
                    let rest = rest.map(|word| word.string().map_err(wrong));
                    let rest: Vec<String> = rest.collect::<Result<_, _>>()?;
                    let dashes = usize::from(rest.first().is_some_and(|word| word == "--"));
                    args.extend(rest.into_iter().skip(dashes));
                    break;
                }
            }
            Short('h') | Long("help") => options.help = true,
            Long("json") => options.json = true,
            Short('f') | Long("follow") => options.follow = true,
            Short('n') | Long("lines") => options.lines = Some(number(&mut parser, MAX_LOG_LINES)?),
            Short('w') | Long("watch") => {
                let most = usize::try_from(MAX_WATCH_SECONDS).unwrap_or(usize::MAX);
                options.watch = Some(number(&mut parser, most)?);
            }
            Long("instance") => {
                let name = parser.value().and_then(|v| v.string()).map_err(wrong)?;
                let name = ContainerId::try_from(name.as_str());
                options
                    .instances
                    .push(name.map_err(|error| Failure::usage(error.to_string()))?);
            }
            Long("authorized-keys") => options.keys = true,
            other => return Err(wrong(other.unexpected())),
        }
    }
    let verb = verb.filter(|_| !options.help).unwrap_or("help".to_owned());
    let json = options.json;
    Ok(Invocation {
        command: command(&verb, args, options)?,
        json,
    })
}

#[derive(Debug, Default)]
struct Options {
    help: bool,
    json: bool,
    follow: bool,
    lines: Option<usize>,
    watch: Option<usize>,
    instances: Vec<ContainerId>,
    keys: bool,
}

fn command(verb: &str, args: Vec<String>, options: Options) -> Result<Command, Failure> {
    let Options {
        help: _,
        json: _,
        follow,
        lines,
        watch,
        instances,
        keys,
    } = options;
    let misplaced = [
        ("-f", follow && verb != "logs"),
        ("--lines", lines.is_some() && verb != "logs"),
        ("-w", watch.is_some() && verb != "status"),
        ("--instance", !instances.is_empty() && verb != "plant"),
        ("--authorized-keys", keys && verb != "plant"),
    ];
    if let Some((flag, _)) = misplaced.iter().find(|(_, misplaced)| *misplaced) {
        return Err(Failure::usage(format!("{verb} has no {flag}")));
    }
    let mut args = args.into_iter();
    let mut need = |what: &str| {
        args.next()
            .ok_or_else(|| Failure::usage(format!("{verb} needs {what}")))
    };
    const INSTANCE: &str = "an instance: INSTANCE or REPO/INSTANCE";
    let command = match verb {
        "help" => return Ok(Command::Help),
        "status" => Command::Status {
            repo: need("").ok(),
            watch: watch.map(|seconds| Duration::from_secs(seconds.max(1) as u64)),
        },
        "logs" => Command::Logs {
            which: need(INSTANCE)?,
            follow,
            lines: lines.unwrap_or(LOG_LINES),
        },
        "keys" => Command::Keys {
            which: need(INSTANCE)?,
        },
        "restart" => Command::Restart {
            which: need(INSTANCE)?,
        },
        "exec" => {
            let which = need(INSTANCE)?;
            let command: Vec<String> = args.by_ref().collect();
            if command.is_empty() {
                return Err(Failure::usage("exec needs a command"));
            }
            Command::Exec { which, command }
        }
        "plant" => Command::Plant(Plant {
            uri: need("a source: silo:NAME, github:USER/REPO or git+https://HOST/PATH")?,
            code: need("an invite code")?,
            signature: need("").ok(),
            instances,
            keys,
        }),
        "replant" => Command::Replant {
            identity: need("an identity")?,
            uri: need("a source")?,
        },
        other => return Err(Failure::usage(format!("there is no command {other:?}"))),
    };
    match args.next() {
        None => Ok(command),
        Some(more) => Err(Failure::usage(format!(
            "{verb} does not know what to do with {more:?}"
        ))),
    }
}

fn number(parser: &mut Parser, most: usize) -> Result<usize, Failure> {
    let text = parser.value().and_then(|v| v.string()).map_err(wrong)?;
    let number = text.parse().ok().filter(|number| *number <= most);
    number.ok_or_else(|| Failure::usage(format!("{text:?} is no number up to {most}")))
}

fn wrong(error: lexopt::Error) -> Failure {
    Failure::usage(error.to_string())
}

/// Splits into words: blanks separate, quotes and backslashes do as in POSIX, nothing is expanded. `None` when a
/// quote is not closed.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => match chars.next()? {
                            c @ ('"' | '\\' | '$' | '`') => word.push(c),
                            c => word.extend(['\\', c]),
                        },
                        c => word.push(c),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(chars.next()?),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn understood(text: &str) -> Command {
        line(text).map(|found| found.command).unwrap()
    }

    #[test]
    fn the_reference_is_understood_word_for_word() {
        let logs = |which: &str, follow, lines| Command::Logs {
            which: which.into(),
            follow,
            lines,
        };
        assert_eq!(understood("logs web"), logs("web", false, 100));
        assert_eq!(understood("logs web -f"), logs("web", true, 100));
        assert_eq!(understood("logs web --lines 500"), logs("web", false, 500));
        assert_eq!(
            understood("logs --lines=5 my-repo/web"),
            logs("my-repo/web", false, 5)
        );
        let status = |repo: Option<&str>, watch| Command::Status {
            repo: repo.map(str::to_owned),
            watch,
        };
        assert_eq!(understood("status"), status(None, None));
        assert_eq!(understood("status my-repo"), status(Some("my-repo"), None));
        assert_eq!(
            understood("status -w 5"),
            status(None, Some(Duration::from_secs(5)))
        );
        assert_eq!(understood("help"), Command::Help);
        assert_eq!(understood("logs --help"), Command::Help);
        assert!(line("status --json").unwrap().json);
        let Command::Plant(plant) = understood("plant silo:my-app code sig --instance web") else {
            panic!("no plant");
        };
        assert_eq!(
            (plant.code.as_str(), plant.signature.as_deref()),
            ("code", Some("sig"))
        );
        assert_eq!(plant.instances.len(), 1);
    }

    #[test]
    fn a_command_for_an_instance_is_passed_on_as_it_is() {
        assert_eq!(
            understood("exec web -- sh -c 'echo \"$HOME\" --json'"),
            Command::Exec {
                which: "web".into(),
                command: vec!["sh".into(), "-c".into(), "echo \"$HOME\" --json".into()],
            }
        );
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        for (text, said) in [
            ("reboot", "there is no command \"reboot\""),
            ("logs", "logs needs an instance"),
            ("logs a b", "does not know what to do with \"b\""),
            ("status -f", "status has no -f"),
            ("logs web --lines x", "is no number"),
            ("logs web --lines", "missing"),
            ("status 'a", "a quote is not closed"),
            ("exec web", "exec needs a command"),
            ("plant silo:a code --instance ../b", "container id"),
            ("keys web --yes", "--yes"),
        ] {
            let failure = line(text).unwrap_err();
            assert!(failure.what.contains(said), "{text}: {}", failure.what);
            assert_eq!(failure.status, 2);
        }
    }

    proptest! {
        #[test]
        fn no_line_is_a_panic(text in ".{0,200}") {
            let _ = line(&text);
        }

        #[test]
        fn quoted_words_come_back(list in prop::collection::vec("[^']{0,20}", 0..6)) {
            let line: Vec<String> = list.iter().map(|word| format!("'{word}'")).collect();
            prop_assert_eq!(words(&line.join(" ")), Some(list));
        }
    }
}
