//! `seed run`: checks what can be checked before anything is made, then starts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use seed_shim::{
    containerd::{
        Phase, Record, StopOptions, instance::Instance, record, shim::ShimBinary, volumes,
    },
    names::ContainerId,
    spec::{BootSpec, read_boot_spec},
    text::chain,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Context, doctor, wait};
use crate::{
    cli::{EnvArg, RunArgs, WaitFor},
    error::{CliError, INTERRUPTED, TERMINATED},
    rootless,
};

pub(super) async fn run(context: &Context<'_>, args: RunArgs) -> Result<ExitCode, CliError> {
    let begun = Instant::now();
    let (record, id) = prepare(context, &args)?;
    let instance = context.named(id);
    start(context, &instance, record, false, args.wait).await?;
    wait::report(context, &instance, begun.elapsed()).await
}

/// Starts the instance, shows the stages as they come, and waits as asked.
pub(super) async fn start(
    context: &Context<'_>,
    instance: &Instance,
    record: Record,
    keep: bool,
    until: WaitFor,
) -> Result<(), CliError> {
    let watcher = wait::Watcher::new(instance);
    let mut interruption = Interruption::new()?;
    let started = {
        let start = instance.start(record, keep, |phase| {
            if phase == Phase::Created {
                watcher.begin();
            }
        });
        tokio::select! {
            started = start => Ok(started),
            // It only shows, and never ends by itself.
            () = watcher.show() => Err(INTERRUPTED),
            code = interruption.recv() => Err(code),
        }
    };
    match started {
        Ok(started) => started?,
        Err(code) => return Err(interrupted(instance, keep).await.with_code(code)),
    }
    wait::until(context, instance, &watcher, until).await
}

/// Takes back what was begun.
async fn interrupted(instance: &Instance, keep: bool) -> CliError {
    let options = StopOptions {
        kill: true,
        limit: Duration::ZERO,
        keep,
    };
    let id = instance.id();
    match instance.stop(options).await {
        Ok(()) if keep => CliError::new(
            format!("interrupted: {id} is stopped"),
            format!("Start it again with 'seed restart {id}'."),
        ),
        Ok(()) => CliError::new(
            format!("interrupted: {id} was not started"),
            "Its volumes and TPM state stay for the next start.",
        ),
        Err(error) => error.into(),
    }
}

/// Ctrl-C or a plain `kill`: the instance is not wanted. SIGHUP is left alone, for the sake of nohup(1).
struct Interruption {
    interrupt: Signal,
    terminate: Signal,
}

impl Interruption {
    fn new() -> Result<Self, CliError> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The exit status that shells give to the signal that came.
    async fn recv(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPTED,
            _ = self.terminate.recv() => TERMINATED,
        }
    }
}

fn prepare(context: &Context<'_>, args: &RunArgs) -> Result<(Record, ContainerId), CliError> {
    let root = root(&args.root)?;
    let boot = boot_spec(&root, &args.toplevel)?;
    let id = match (&args.name, boot.seed.name.as_deref()) {
        (Some(name), _) => name.clone(),
        (None, Some(name)) => ContainerId::try_from(name)?,
        (None, None) => {
            return Err(CliError::usage(
                "the instance has no name: the closure names none",
                "run",
            ));
        }
    };
    let env = environment(&args.env)?;
    let volumes = volumes::join(&boot.seed, &args.volumes)?;
    doctor::programs_or_error(&context.config)?;
    rootless::check_root(&root)?;
    rootless::enter()?;
    let record = Record {
        version: record::VERSION,
        root,
        toplevel: args.toplevel.clone(),
        size: args.size.clone(),
        accel: args.accel,
        network: args.network.clone(),
        publish: args.publish.clone(),
        kernel_params: args.kernel_params.clone(),
        env,
        volumes,
        config: context.config_path.clone(),
        shim: ShimBinary::find()?.path().to_owned(),
        address: None,
    };
    Ok((record, id))
}

fn root(path: &Path) -> Result<PathBuf, CliError> {
    let remedy = "Give the folder that holds the instance's root file system.";
    let root = fs::canonicalize(path).map_err(|error| {
        CliError::new(
            format!("root {}: {}", path.display(), chain(&error)),
            remedy,
        )
    })?;
    if root.is_dir() {
        return Ok(root);
    }
    Err(CliError::new(
        format!("root {} is not a folder", path.display()),
        remedy,
    ))
}

fn boot_spec(root: &Path, toplevel: &Path) -> Result<BootSpec, CliError> {
    read_boot_spec(root, &toplevel.join("init")).map_err(|error| {
        CliError::new(
            format!("root {}: {}", root.display(), chain(&error)),
            "Give a root with a bootspec, or name its place inside with --toplevel.",
        )
    })
}

/// The assignments in order; a later one of the same name wins.
fn environment(args: &[EnvArg]) -> Result<Vec<String>, CliError> {
    let mut assignments = Vec::new();
    for arg in args {
        match arg {
            EnvArg::Assignment(text) => assignments.push(text.clone()),
            EnvArg::File(path) => {
                let text = fs::read_to_string(path).map_err(|error| {
                    let what = format!("environment file {}: {}", path.display(), chain(&error));
                    CliError::new(what, "Name a file that exists and is UTF-8 text.")
                })?;
                let lines = text
                    .lines()
                    .filter(|l| !l.trim().is_empty() && !l.starts_with('#'));
                assignments.extend(lines.map(str::to_owned));
            }
        }
    }
    let mut env: Vec<String> = Vec::new();
    for assignment in assignments {
        let name = variable(&assignment)?;
        env.retain(|other| variable(other).is_ok_and(|other| other != name));
        env.push(assignment);
    }
    Ok(env)
}

/// The variable's name. The value may be a secret and is never shown.
fn variable(assignment: &str) -> Result<&str, CliError> {
    let remedy =
        "Write NAME=VALUE; NAME has letters, digits and '_', and does not begin with a digit.";
    let (name, _) = assignment
        .split_once('=')
        .ok_or_else(|| CliError::new("an environment variable has no '='", remedy).with_code(2))?;
    let mut chars = name.chars();
    let head = chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if head && chars.all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Ok(name);
    }
    let what = format!("environment name {name:?} is no identifier");
    Err(CliError::new(what, remedy).with_code(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment(text: &str) -> EnvArg {
        EnvArg::Assignment(text.into())
    }

    #[test]
    fn a_later_variable_wins_and_values_are_taken_as_they_are() {
        let env = environment(&[
            assignment("A=1"),
            assignment("B= x=\"y\"\nz "),
            assignment("A=2"),
            assignment("AB="),
        ])
        .unwrap();
        assert_eq!(env, ["B= x=\"y\"\nz ", "A=2", "AB="]);
    }

    #[test]
    fn a_file_has_lines_and_comments() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "# note\nA=1\n\nB=# no comment\n").unwrap();
        let env = environment(&[EnvArg::File(file.path().into()), assignment("A=2")]).unwrap();
        assert_eq!(env, ["B=# no comment", "A=2"]);
    }

    #[test]
    fn a_refusal_never_shows_the_value() {
        for wrong in ["1A=hush", "a-b=hush", "=hush", "hush"] {
            let error = environment(&[assignment(wrong)]).unwrap_err().to_string();
            assert!(!error.contains("hush"), "{error}");
        }
    }
}
