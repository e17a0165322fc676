//! `seed-shell`: the server, and what the host's administrator does with its registry beside it.

#![forbid(unsafe_code)]

mod cli;

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result};
use seed_shell::{
    config::Config, follow::Bells, instances::Instances, registry::Registry, ssh::Shared,
    ssh::inbox::Spool, ssh::server::Server,
};
use seed_shim::{config::Config as ShimConfig, text::chain};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use cli::{Action, Invocation};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = format!("seed-shell: {}\n", chain(error.as_ref()));
            // Nowhere is left to say that this failed.
            let _ = io::stderr().write_all(text.as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let Invocation { config, action } = cli::parse(std::env::args_os())?;
    if let Action::Text(text) = action {
        return Ok(io::stdout().write_all(text.as_bytes())?);
    }
    let config = Config::load(config.as_deref())?;
    match action {
        Action::CheckConfig | Action::Text(_) => Ok(()),
        Action::Serve => serve(config),
        Action::Manage(task) => {
            let text = cli::manage(&Registry::open(&config.registry())?, task)?;
            Ok(io::stdout().write_all(text.as_bytes())?)
        }
    }
}

fn serve(config: Config) -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(format!(
            "seed_shell={level},seed_shim={level},warn",
            level = config.log_level
        )))
        .with_writer(io::stderr)
        .without_time()
        .init();
    let shim = ShimConfig::load(config.shim_config.as_deref())?;
    let shared = Shared {
        registry: Arc::new(Registry::open(&config.registry())?),
        instances: Instances::new(&shim),
        bells: Bells::default(),
        spool: Spool::default(),
        config: Arc::new(config),
    };
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("this program cannot run")?
        .block_on(async {
            let server = Server::bind(shared).await?;
            for address in server.addresses()? {
                tracing::info!(%address, "listening");
            }
            let (stop, stopped) = watch::channel(false);
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            tokio::spawn(async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                stop.send_replace(true);
            });
            server.run(stopped).await;
            Ok(())
        })
}
