//! `seed metrics`: asks every management socket of this machine, and writes what they say as Prometheus text:
//! once, or to whoever asks over HTTP.
//!
//! It listens where it is told to, and gives everybody there the same. How it speaks is in [`scrape`].

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use seed_protocol::seed::management::{InstanceStatus, Usage};
use seed_shim::{
    containerd::instance::Instance,
    management::{
        Client,
        metrics::{self, Told},
        scrape,
    },
    text::chain,
};
use tokio::{net::TcpListener, sync::Semaphore, time::sleep};

use super::{Context, instances, ps};
use crate::{cli::MetricsTo, error::CliError, output};

/// Scrapers at a time; more wait.
const SCRAPERS: usize = 8;

/// The pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn metrics(context: &Context<'_>, to: MetricsTo) -> Result<ExitCode, CliError> {
    match to {
        MetricsTo::Stdout => output::print(&page(context).await)?,
        MetricsTo::TextFile(path) => {
            let text = page(context).await;
            replace(&path, &text).map_err(|error| {
                CliError::new(
                    format!("{} cannot be written: {}", path.display(), chain(&error)),
                    "Name a file in a folder that this user may write to.",
                )
            })?;
        }
        MetricsTo::Listen(address) => listen(context, address).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The figures of this moment.
async fn page(context: &Context<'_>) -> String {
    let mut all = Vec::new();
    for namespace in ps::namespaces(context) {
        for id in instances(&context.paths, &namespace) {
            all.push(Instance::named(&context.paths, namespace.clone(), id));
        }
    }
    let told = join_all(all.iter().map(ask)).await;
    metrics::text(&told)
}

async fn ask(instance: &Instance) -> Told {
    Told {
        namespace: instance.namespace().to_string(),
        id: instance.id().to_string(),
        answer: answer(instance).await,
    }
}

async fn answer(instance: &Instance) -> Option<(InstanceStatus, Usage)> {
    let socket = instance.paths().management_socket();
    let client = Client::connect(&socket).await.ok()?;
    let status = client.status(0, Duration::ZERO).await.ok()?;
    let usage = client.usage().await.ok()?;
    Some((status, usage))
}

/// Readers see the old file or the new one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    std::fs::write(&draft, text)?;
    std::fs::rename(&draft, path)
}

async fn listen(context: &Context<'_>, address: SocketAddr) -> Result<(), CliError> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        CliError::new(
            format!("{address} cannot be listened on: {}", chain(&error)),
            "Choose another address or port for --listen.",
        )
    })?;
    // With port 0 the system has chosen one.
    let address = listener.local_addr().unwrap_or(address);
    output::print(&format!("http://{address}/metrics\n"))?;
    let turns = Arc::new(Semaphore::new(SCRAPERS));
    loop {
        // Never closed, so this only waits.
        let turn = Arc::clone(&turns).acquire_owned().await;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "scraper not accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (paths, global) = (context.paths.clone(), context.global.clone());
        let config = context.config.clone();
        tokio::spawn(async move {
            let context = Context {
                global: &global,
                config,
                config_path: None,
                paths,
            };
            if let Err(error) = scrape::answer(stream, page(&context)).await {
                tracing::debug!(%error, "scraper was not answered");
            }
            drop(turn);
        });
    }
}
