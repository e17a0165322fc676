//! What a command's words and options mean: [`Given`] into [`Command`].

use std::{ffi::OsString, time::Duration};

use lexopt::Parser;
use seed_protocol::JournalNamespace;
use seed_shim::{
    config::Accel,
    containerd::volumes::VolumeArg,
    logs::{
        filter::{Filter, Pattern, parse_priority},
        show::Form,
        when,
    },
    management::units,
    names::ContainerId,
    spec::{Forward, MemoryMib, Size, Vcpus, parse_size},
};

use super::{
    Boot, Command, EnvArg, ExecArgs, LogsArgs, MetricsTo, RunArgs, TpmCommand, WaitFor, Which,
    parse::{Given, text},
};
use crate::error::CliError;

/// Entries that `seed logs` shows when nothing else is said.
const LOG_LINES: usize = 100;

/// How long an orderly poweroff may take.
const STOP_LIMIT: Duration = Duration::from_secs(90);

/// The command of this name, which the table has.
pub(super) fn command(name: &str, given: &mut Given) -> Result<Command, CliError> {
    Ok(match name {
        "run" => Command::Run(Box::new(run(given)?)),
        "ps" => {
            given.no_words(name)?;
            Command::Ps {
                all: given.has("all-namespaces"),
                quiet: given.has("quiet"),
                kept: given.has("kept"),
            }
        }
        "status" => Command::Status {
            which: which(given, name)?,
            watch: seconds(given, "watch", name)?,
        },
        "inspect" => Command::Inspect(which(given, name)?),
        "logs" => Command::Logs(Box::new(logs(given)?)),
        "units" => {
            let mut words = std::mem::take(&mut given.words).into_iter();
            let which = words
                .next()
                .map(|word| ContainerId::try_from(word.as_str()));
            Command::Units {
                which: which.transpose()?,
                patterns: words.collect(),
            }
        }
        "unit" => unit(given)?,
        "keys" => Command::Keys {
            which: which(given, name)?,
            tag: given.has("tag"),
        },
        "restart" => Command::Restart {
            which: which(given, name)?,
            limit: limit(given, name)?,
            wait: wait(given, name)?,
        },
        "exec" => Command::Exec(exec(given)?),
        "stop" => Command::Stop {
            which: which(given, name)?,
            kill: given.has("kill"),
            limit: limit(given, name)?,
        },
        "rm" => {
            let yes = given.has("yes");
            let id = which(given, name)?;
            let id = id.ok_or_else(|| CliError::usage("which instance is not said", name))?;
            Command::Rm { id, yes }
        }
        "prune" => prune(given)?,
        "grow" => grow(given)?,
        "tpm" => tpm(given)?,
        "metrics" => Command::Metrics(metrics(given)?),
        _ => {
            given.no_words(name)?;
            Command::Doctor {
                pods: given.has("pods"),
            }
        }
    })
}

fn unit(given: &mut Given) -> Result<Command, CliError> {
    const UNIT: &str = "unit";
    let words = std::mem::take(&mut given.words);
    let (id, action, unit) = match &words[..] {
        [id, unit] => (id, None, unit),
        [id, action, unit] => (id, Some(action), unit),
        _ => {
            let what = "write an instance and a unit, with what to do between them if anything";
            return Err(CliError::usage(what, UNIT));
        }
    };
    let action = action.map(|word| {
        units::action(word).ok_or_else(|| {
            let known = "use start, stop, restart, reload or reset-failed";
            CliError::usage(format!("{word:?} is unknown: {known}"), UNIT)
        })
    });
    Ok(Command::Unit {
        id: ContainerId::try_from(id.as_str())?,
        action: action.transpose()?,
        unit: unit.clone(),
    })
}

fn prune(given: &mut Given) -> Result<Command, CliError> {
    const PRUNE: &str = "prune";
    given.no_words(PRUNE)?;
    let text = given.last("older-than", PRUNE)?;
    let text = text.ok_or_else(|| CliError::usage("say since when: --older-than DAYS", PRUNE))?;
    let days = text.parse().map_err(|_| {
        let what = format!("--older-than {text:?} is no number of days");
        CliError::usage(what, PRUNE)
    })?;
    Ok(Command::Prune {
        days,
        tpm: given.has("tpm"),
        yes: given.has("yes"),
    })
}

fn grow(given: &mut Given) -> Result<Command, CliError> {
    const GROW: &str = "grow";
    let wrong = |what: String| CliError::usage(what, GROW);
    let vcpus = given.last("vcpus", GROW)?.map(|text| {
        let count: u32 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
        Vcpus::try_from(count)
    });
    let memory = given.last("memory", GROW)?.map(|text| {
        let mib = parse_size(&text)?.div_ceil(1 << 20);
        MemoryMib::try_from(u32::try_from(mib).unwrap_or(u32::MAX))
    });
    let vcpus = vcpus.transpose();
    let memory = memory.transpose();
    let command = Command::Grow {
        which: which(given, GROW)?,
        vcpus: vcpus.map_err(|problem| wrong(format!("--vcpus: {problem}")))?,
        memory: memory.map_err(|problem| wrong(format!("--memory: {problem}")))?,
    };
    match command {
        Command::Grow {
            vcpus: None,
            memory: None,
            ..
        } => Err(wrong("say how far: --vcpus or --memory".to_owned())),
        command => Ok(command),
    }
}

fn tpm(given: &mut Given) -> Result<Command, CliError> {
    const TPM: &str = "tpm";
    let words = std::mem::take(&mut given.words);
    let [what, id, file] = &words[..] else {
        let what = "write backup or restore, an instance and a file";
        return Err(CliError::usage(what, TPM));
    };
    let what = match what.as_str() {
        "backup" => TpmCommand::Backup,
        "restore" => TpmCommand::Restore,
        other => {
            let what = format!("{other:?} is unknown: use backup or restore");
            return Err(CliError::usage(what, TPM));
        }
    };
    if what == TpmCommand::Backup && given.json && file == "-" {
        let what = "--json and the file - exclude each other: it is the archive that is printed";
        return Err(CliError::usage(what, TPM));
    }
    Ok(Command::Tpm {
        what,
        id: ContainerId::try_from(id.as_str())?,
        file: file.into(),
    })
}

fn metrics(given: &mut Given) -> Result<MetricsTo, CliError> {
    const METRICS: &str = "metrics";
    given.no_words(METRICS)?;
    let listen = given.last("listen", METRICS)?;
    let file = given.last("textfile", METRICS)?;
    match (listen, file) {
        (None, None) => Ok(MetricsTo::Stdout),
        (None, Some(file)) => Ok(MetricsTo::TextFile(file.into())),
        (Some(text), None) => text.parse().map(MetricsTo::Listen).map_err(|_| {
            let what = format!("--listen {text:?} is no address and port as 127.0.0.1:9750");
            CliError::usage(what, METRICS)
        }),
        (Some(_), Some(_)) => {
            let what = "--listen and --textfile exclude each other";
            Err(CliError::usage(what, METRICS))
        }
    }
}

fn which(given: &mut Given, command: &str) -> Result<Which, CliError> {
    let name = given.first_word(command)?;
    Ok(name
        .map(|word| ContainerId::try_from(word.as_str()))
        .transpose()?)
}

fn limit(given: &Given, command: &str) -> Result<Duration, CliError> {
    Ok(seconds(given, "timeout", command)?.unwrap_or(STOP_LIMIT))
}

/// Whole seconds.
fn seconds(given: &Given, option: &str, command: &str) -> Result<Option<Duration>, CliError> {
    let text = given.last(option, command)?;
    text.map(|text| {
        text.parse().map(Duration::from_secs).map_err(|_| {
            let what = format!("--{option} {text:?} is no number of seconds");
            CliError::usage(what, command)
        })
    })
    .transpose()
}

fn wait(given: &Given, command: &str) -> Result<WaitFor, CliError> {
    match given.last("wait", command)?.as_deref() {
        None | Some("running") => Ok(WaitFor::Running),
        Some("provisioned") => Ok(WaitFor::Provisioned),
        Some("none") => Ok(WaitFor::None),
        Some(other) => {
            let what = format!("--wait {other:?} is unknown: use running, provisioned or none");
            Err(CliError::usage(what, command))
        }
    }
}

fn run(given: &mut Given) -> Result<RunArgs, CliError> {
    const RUN: &str = "run";
    let wrong = |what: String| CliError::usage(what, RUN);
    let root = given
        .first_word(RUN)?
        .ok_or_else(|| CliError::usage("which root is not said", RUN))?;
    let name = given.last("name", RUN)?;
    let accel = given
        .last("accel", RUN)?
        .map(|text| text.parse::<Accel>())
        .transpose();
    let size = given.last("size", RUN)?;
    if let Some(size) = &size {
        size.parse::<Size>()
            .map_err(|problem| wrong(format!("--size {size:?}: {problem}")))?;
    }
    let network = given.last("network", RUN)?;
    if let Some(other) = network
        .as_deref()
        .filter(|word| !["none", "user"].contains(word) && !word.starts_with('/'))
    {
        return Err(wrong(format!(
            "--network {other:?} is unknown: use none, user or the path of a network namespace"
        )));
    }
    let publish = given.all("publish", RUN)?;
    for text in &publish {
        text.parse::<Forward>()
            .map_err(|problem| wrong(format!("--publish {text:?}: {problem}")))?;
    }
    // A port leads nowhere without a network.
    let network = match (network, publish.is_empty()) {
        (None, false) => Some("user".to_owned()),
        (Some(network), false) if network != "user" => {
            return Err(wrong("--publish needs --network user".to_owned()));
        }
        (network, _) => network,
    };
    let env = given
        .values(&["env", "env-file"], RUN)
        .map(|found| {
            Ok(match found? {
                ("env-file", path) => EnvArg::File(path.into()),
                (_, assignment) => EnvArg::Assignment(assignment),
            })
        })
        .collect::<Result<_, CliError>>()?;
    let volumes = given
        .all("volume", RUN)?
        .iter()
        .map(|text| Ok(text.parse::<VolumeArg>()?))
        .collect::<Result<_, CliError>>()?;
    let toplevel = given
        .last("toplevel", RUN)?
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
        publish,
        kernel_params: given.all("kernel-param", RUN)?,
        env,
        volumes,
        wait: wait(given, RUN)?,
    })
}

fn logs(given: &mut Given) -> Result<LogsArgs, CliError> {
    const LOGS: &str = "logs";
    let wrong = |what: String| CliError::usage(what, LOGS);
    let mut filter = Filter::default();
    for unit in given.all("unit", LOGS)? {
        filter.add_unit(&unit);
    }
    if let Some(text) = given.last("priority", LOGS)? {
        let priority = parse_priority(&text);
        filter.priority = Some(priority.map_err(|error| wrong(error.to_string()))?);
    }
    if let Some(text) = given.last("grep", LOGS)? {
        let pattern = Pattern::new(&text);
        filter.text = Some(pattern.map_err(|error| wrong(error.to_string()))?);
    }
    let now = jiff::Zoned::now();
    let time = |name: &str| {
        let text = given.last(name, LOGS)?;
        text.map(|text| when::parse(&text, &now))
            .transpose()
            .map_err(|error| wrong(error.to_string()))
    };
    filter.since_us = time("since")?;
    filter.until_us = time("until")?;
    let boot = boot(given, LOGS)?;
    let lines = match given.last("lines", LOGS)?.as_deref() {
        // Who names a time or a boot wants all of it.
        None if filter.since_us.is_some() || filter.until_us.is_some() || boot.is_some() => None,
        None => Some(LOG_LINES),
        Some("all") => None,
        Some(text) => Some(
            text.parse()
                .map_err(|_| wrong(format!("--lines {text:?} is neither a number nor 'all'")))?,
        ),
    };
    let follow = given.has("follow");
    if follow && filter.until_us.is_some() {
        return Err(wrong("--until and --follow exclude each other".into()));
    }
    let form = match (given.json, given.has("export")) {
        (false, false) => Form::Human,
        (true, false) => Form::Json,
        (false, true) => Form::Export,
        (true, true) => return Err(wrong("--json and --export exclude each other".into())),
    };
    let namespace = given.last("log-namespace", LOGS)?;
    let namespace = namespace.map(|name| JournalNamespace::try_from(name.as_str()));
    let namespace = namespace
        .transpose()
        .map_err(|error| wrong(error.to_string()))?;
    Ok(LogsArgs {
        which: which(given, LOGS)?,
        lines,
        follow,
        filter,
        boot,
        namespace,
        form,
    })
}

/// `-b [ID|OFFSET]`
fn boot(given: &Given, command: &str) -> Result<Option<Boot>, CliError> {
    let Some(word) = given.last_optional("boot") else {
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

fn exec(given: &mut Given) -> Result<ExecArgs, CliError> {
    const EXEC: &str = "exec";
    let mut words = std::mem::take(&mut given.words).into_iter();
    let which = words
        .next()
        .map(|word| ContainerId::try_from(word.as_str()))
        .transpose()?;
    let command: Vec<String> = words.chain(std::mem::take(&mut given.rest)).collect();
    if command.is_empty() {
        return Err(CliError::usage("which command is not said", EXEC));
    }
    let terminal = given.has("tty");
    if terminal && given.json {
        let what = "--json and --tty exclude each other: what a terminal shows is no data";
        return Err(CliError::usage(what, EXEC));
    }
    Ok(ExecArgs {
        which,
        command,
        env: given.all("env", EXEC)?,
        cwd: given.last("cwd", EXEC)?.unwrap_or_else(|| "/".into()),
        stdin: terminal || given.has("stdin"),
        terminal,
    })
}

/// The value of `-b`, which may be left out: `-bID`, `-b=ID`, or the next word where that can be one.
pub(super) fn optional(parser: &mut Parser) -> Option<OsString> {
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
