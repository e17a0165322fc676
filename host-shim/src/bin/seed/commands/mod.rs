//! One file a command. A command asks the library, prints, and turns errors into [`CliError`]s.

use std::{env, path::PathBuf, process::ExitCode};

use seed_shim::{
    config::{CONFIG_ENV, Config},
    containerd::instance::{Instance, instances},
    management::Client,
    names::ContainerId,
    paths::Paths,
};

use crate::{
    cli::{Command, Global, Which},
    error::CliError,
    rootless,
};

mod doctor;
mod exec;
mod grow;
mod inspect;
mod kept;
mod keys;
mod logs;
mod metrics;
mod ps;
mod restart;
mod rm;
mod run;
mod status;
mod stop;
mod tpm;
mod units;
mod wait;

/// What every command works with.
#[derive(Debug)]
struct Context<'a> {
    global: &'a Global,
    config: Config,
    /// The file that the user named, for the shim.
    config_path: Option<PathBuf>,
    paths: Paths,
}

/// Does what was asked.
pub(crate) async fn run(global: &Global, command: Command) -> Result<ExitCode, CliError> {
    let named = env::var_os(CONFIG_ENV)
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    let config_path = named.map(|path| std::path::absolute(&path).unwrap_or(path));
    let config = Config::load(config_path.as_deref())?;
    let paths = Paths::new(&config);
    let context = Context {
        global,
        config,
        config_path,
        paths,
    };
    if matches!(
        command,
        Command::Restart { .. } | Command::Stop { .. } | Command::Rm { .. } | Command::Prune { .. }
    ) {
        rootless::enter()?;
    }
    match command {
        Command::Run(args) => run::run(&context, *args).await,
        Command::Ps {
            all,
            quiet,
            kept: true,
        } => kept::list(&context, all, quiet),
        Command::Ps { all, quiet, .. } => ps::ps(&context, all, quiet).await,
        Command::Status { which, watch } => status::status(&context, which, watch).await,
        Command::Inspect(which) => inspect::inspect(&context, which).await,
        Command::Logs(args) => logs::logs(&context, *args).await,
        Command::Units { which, patterns } => units::units(&context, which, patterns).await,
        Command::Unit { id, action, unit } => units::unit(&context, id, action, unit).await,
        Command::Keys { which, tag } => keys::keys(&context, which, tag).await,
        Command::Restart { which, limit, wait } => {
            restart::restart(&context, which, limit, wait).await
        }
        Command::Exec(args) => exec::exec(&context, args).await,
        Command::Stop { which, kill, limit } => stop::stop(&context, which, kill, limit).await,
        Command::Rm { id, yes } => rm::rm(&context, id, yes),
        Command::Prune { days, tpm, yes } => kept::prune(&context, days, tpm, yes),
        Command::Grow {
            which,
            vcpus,
            memory,
        } => grow::grow(&context, which, vcpus, memory).await,
        Command::Tpm { what, id, file } => tpm::tpm(&context, what, id, &file),
        Command::Metrics(to) => metrics::metrics(&context, to).await,
        Command::Doctor { pods } => doctor::doctor(&context, pods).await,
    }
}

impl Context<'_> {
    /// The instance of this name; a pod's container is known by its id and by the name that it keeps what stays under.
    fn named(&self, name: ContainerId) -> Instance {
        Instance::called(&self.paths, &self.global.namespace, name)
    }

    /// The instance that is meant: the one of this name, or the only one.
    fn pick(&self, which: Which) -> Result<Instance, CliError> {
        if let Some(id) = which {
            return Ok(self.named(id));
        }
        let mut ids = instances(&self.paths, &self.global.namespace);
        match (ids.pop(), ids.as_slice()) {
            (Some(only), []) => Ok(self.named(only)),
            (None, _) => Err(CliError::new(
                format!(
                    "there is no instance in namespace {}",
                    self.global.namespace
                ),
                "Start one with 'seed run', or name another --namespace.",
            )),
            (Some(last), others) => {
                let names: Vec<&str> = others.iter().chain([&last]).map(|id| id.as_str()).collect();
                Err(CliError::usage(
                    format!("which instance? There are {}", names.join(", ")),
                    "",
                ))
            }
        }
    }

    /// A connection to the management socket of an instance that exists.
    async fn client(&self, instance: &Instance) -> Result<Client, CliError> {
        if !instance.paths().run_dir().exists() {
            // Its record is missing, so this is the error that says so.
            instance.record()?;
        }
        let client = Client::connect(&instance.paths().management_socket()).await;
        client.map_err(|error| match error {
            seed_shim::management::ClientError::Absent { .. } => CliError::new(
                format!("instance {} has no shim: it was killed", instance.id()),
                format!(
                    "Start it again with 'seed restart {0}', or clean up with 'seed stop {0}'.",
                    instance.id()
                ),
            ),
            other => other.into(),
        })
    }
}
