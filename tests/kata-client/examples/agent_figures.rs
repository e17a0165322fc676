//! Figures of an agent that listens on a Unix socket, as JSON: what `cargo xtask bench agent` asks for.
//!
//! `agent_figures checks SOCKET COUNT`: the time of so many Check calls on one connection, one after another and 16 at a
//! time. `agent_figures provision SOCKET DEVICE...`: the time from the first call to the answer that lets the boot go on,
//! with a volume on each device, and how many volumes were made; everything must be in place then, the identity too.

#![allow(clippy::print_stdout, reason = "figures go to the standard output")]

use std::{path::Path, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::try_join_all;
use seed_kata_client::{Kata, limit, order::storage, unix};
use seed_protocol::seed::{
    v1::{GetIdentityRequest, GetStatusRequest},
    v1_ttrpc::GuestClient,
};
use serde_json::{Value, json};

/// How many calls are under way at a time, in the second half.
const AT_ONCE: usize = 16;

const CONTAINER: &str = "bench";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let found = runtime.block_on(async {
        match arguments.as_slice() {
            ["checks", socket, count] => checks(Path::new(socket), count.parse()?).await,
            ["provision", socket, devices @ ..] => provision(Path::new(socket), devices).await,
            _ => bail!("checks SOCKET COUNT, or provision SOCKET DEVICE..."),
        }
    })?;
    println!("{found}");
    Ok(())
}

async fn checks(socket: &Path, count: usize) -> Result<Value> {
    let kata = Kata::new(unix(socket).await?);
    let begin = Instant::now();
    for _ in 0..count {
        ensure!(kata.check().await?, "the agent does not serve");
    }
    let one_by_one = begin.elapsed();
    let begin = Instant::now();
    try_join_all((0..AT_ONCE).map(|_| async {
        for _ in 0..count / AT_ONCE {
            ensure!(kata.check().await?, "the agent does not serve");
        }
        anyhow::Ok(())
    }))
    .await?;
    let together = begin.elapsed();
    Ok(json!({
        "one_by_one_us": one_by_one.as_secs_f64() * 1e6,
        "together_us": together.as_secs_f64() * 1e6,
        "count": count,
    }))
}

async fn provision(socket: &Path, devices: &[&str]) -> Result<Value> {
    let begin = Instant::now();
    let kata = Kata::new(unix(socket).await?);
    let volume = |(number, device): (usize, &&str)| {
        let place = format!("/seed/storage/v{number}");
        let mut storage = storage("blk", device, "ext4", &place, &["nodev", "nosuid"]);
        storage.driver_options = vec![format!("name=v{number}"), "mode=0750".to_owned()];
        storage
    };
    let volumes = devices.iter().enumerate().map(volume).collect();
    kata.sandbox("bench", &[], Vec::new())
        .await
        .context("CreateSandbox")?;
    let created = kata.create(CONTAINER, &["A=1", "B=2"], volumes).await;
    created.context("CreateContainer")?;
    kata.start(CONTAINER).await.context("StartContainer")?;
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    let guest = GuestClient::new(kata.client.clone());
    let status = guest.get_status(limit(), &GetStatusRequest::new()).await?;
    ensure!(status.problems.is_empty(), "{:?}", status.problems);
    ensure!(status.volumes.len() == devices.len(), "{status:?}");
    let identity = guest
        .get_identity(limit(), &GetIdentityRequest::new())
        .await?;
    ensure!(!identity.recipient.is_empty(), "no identity");
    let made = status
        .volumes
        .iter()
        .filter(|volume| volume.created)
        .count();
    Ok(json!({ "ms": ms, "made": made }))
}
