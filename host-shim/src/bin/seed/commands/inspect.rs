//! `seed inspect`: everything that the host knows of an instance, as one JSON document: how it was started, where its
//! files are, its status while it runs. Values of its environment are secrets and are not in it.

use std::{process::ExitCode, time::Duration};

use seed_shim::{
    containerd::{instance::Instance, record::Record, volumes::Source},
    management::{Client, words},
};
use serde_json::{Value, json};

use super::{Context, ps};
use crate::{cli::Which, error::CliError, output};

pub(super) async fn inspect(context: &Context<'_>, which: Which) -> Result<ExitCode, CliError> {
    let instance = context.pick(which)?;
    let record = match instance.record() {
        Ok(record) => Some(record),
        // One that containerd runs has no record of ours.
        Err(_) if instance.paths().management_socket().exists() => None,
        Err(error) => return Err(error.into()),
    };
    let paths = instance.paths();
    let document = json!({
        "namespace": instance.namespace().as_str(),
        "name": instance.id().as_str(),
        "started_with": record.as_ref().map(started_with),
        "status": status(&instance).await,
        "paths": {
            "run": paths.run_dir(),
            "bundle": record.as_ref().map(|_| paths.bundle()),
            "management_socket": paths.management_socket(),
            "console_log": paths.console_log(),
            "tpm": paths.tpm_dir(),
            "volumes": paths.volumes_dir(),
            "logs": paths.logs_dir(),
            "layer": paths.layers_dir(),
        },
    });
    if context.global.json {
        output::print_json(&document)?;
    } else {
        output::print(&format!("{document:#}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn started_with(record: &Record) -> Value {
    let Record {
        version: _,
        root,
        toplevel,
        size,
        accel,
        network,
        publish,
        kernel_params,
        env,
        volumes,
        config,
        shim,
        address,
    } = record;
    let names = env.iter().filter_map(|one| Some(one.split_once('=')?.0));
    let volumes = volumes.iter().map(|volume| {
        let (bytes, source) = match &volume.source {
            Source::Bytes(bytes) => (Some(bytes), None),
            Source::Path(path) => (None, Some(path)),
        };
        json!({
            "name": volume.name,
            "size_bytes": bytes,
            "source": source,
            "mount_point": volume.mount_point,
            "user": volume.user,
            "group": volume.group,
            "mode": volume.mode,
        })
    });
    json!({
        "root": root,
        "toplevel": toplevel,
        "size": size,
        "accel": accel,
        "network": network,
        "publish": publish,
        "kernel_params": kernel_params,
        "env_names": names.collect::<Vec<_>>(),
        "volumes": volumes.collect::<Vec<_>>(),
        "config": config,
        "shim": shim,
        "task_socket": address.as_ref().map(|address| &address.socket),
    })
}

async fn status(instance: &Instance) -> Value {
    let asked = async {
        let client = Client::connect(&instance.paths().management_socket()).await?;
        client.status(0, Duration::ZERO).await
    };
    asked
        .await
        .map_or_else(|_| ps::dead(instance), |status| words::json(&status))
}
