//! Images without a registry: a folder becomes a one-layer OCI image (image-spec 1.0, image layout), packed by tar. Importing
//! it is the user's matter.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::wait_for;

/// Packing a guest's root on a busy machine.
const LIMIT: Duration = Duration::from_secs(600);

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct Image<'a> {
    /// Its name, with a tag.
    pub name: &'a str,
    /// The folder that becomes its root.
    pub root: &'a Path,
    /// What it starts.
    pub entrypoint: &'a [&'a str],
}

impl Image<'_> {
    /// Packs it into the folder `work`, which should be empty: the archive's path. Blocks for as long as tar takes.
    pub fn pack(&self, work: &Path) -> Result<PathBuf> {
        let blobs = work.join("layout/blobs/sha256");
        fs::create_dir_all(&blobs)?;
        let layer = work.join("layer.tar");
        run(Command::new("tar")
            .args(["--create", "--numeric-owner", "--sort=name", "--file"])
            .arg(&layer)
            .arg("--directory")
            .arg(self.root)
            .arg("."))?;
        let layer = blob(&blobs, &layer, "application/vnd.oci.image.layer.v1.tar")?;
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        });
        let config = json_blob(
            work,
            &blobs,
            &config,
            "application/vnd.oci.image.config.v1+json",
        )?;
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer],
        });
        let mut manifest = json_blob(work, &blobs, &manifest, kind)?;
        manifest["annotations"] = json!({"io.containerd.image.name": self.name});
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(work.join("layout/index.json"), index.to_string())?;
        let version = json!({"imageLayoutVersion": "1.0.0"});
        fs::write(work.join("layout/oci-layout"), version.to_string())?;
        let archive = work.join("image.tar");
        run(Command::new("tar")
            .arg("--create")
            .arg("--file")
            .arg(&archive)
            .arg("--directory")
            .arg(work.join("layout"))
            .arg("."))?;
        Ok(archive)
    }
}

fn json_blob(work: &Path, blobs: &Path, value: &Value, kind: &str) -> Result<Value> {
    let path = work.join("blob.json");
    fs::write(&path, value.to_string())?;
    blob(blobs, &path, kind)
}

/// Moves a file to its place; its descriptor.
fn blob(blobs: &Path, file: &Path, kind: &str) -> Result<Value> {
    let size = fs::metadata(file)?.len();
    // The program is some ten times faster than a debug build of ours.
    let sum = run(Command::new("sha256sum").arg(file))?;
    let digest = sum.split(' ').next().context("sha256sum said nothing")?;
    fs::rename(file, blobs.join(digest))?;
    Ok(json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": size}))
}

/// Runs a program that prints less than a pipe holds; killed when its time is over.
fn run(command: &mut Command) -> Result<String> {
    let text = format!("{command:?}");
    let pipes = command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = pipes.spawn().with_context(|| format!("start {text}"))?;
    let ended = wait_for(&text, LIMIT, || Ok(child.try_wait()?.is_some()));
    if ended.is_err() {
        child.kill()?;
    }
    let output = child.wait_with_output()?;
    ended?;
    ensure!(output.status.success(), "{text}: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_names_its_layer_and_its_image() {
        let dir = std::env::temp_dir().join(format!("seed-image-{}", std::process::id()));
        let root = dir.join("root");
        fs::create_dir_all(root.join("bin")).expect("a root");
        fs::write(root.join("bin/app"), "an app").expect("a file");
        let image = Image {
            name: "localhost/app:1",
            root: &root,
            entrypoint: &["/bin/app"],
        };
        let archive = image.pack(&dir.join("work")).expect("an archive");
        let mut tar = Command::new("tar");
        let list = run(tar.arg("--list").arg("--file").arg(archive)).expect("its list");
        let index = fs::read_to_string(dir.join("work/layout/index.json")).expect("an index");
        fs::remove_dir_all(&dir).expect("removed");
        // Layer, configuration and manifest.
        assert_eq!(list.matches("./blobs/sha256/").count(), 4, "{list}");
        assert!(list.contains("./oci-layout") && list.contains("./index.json"));
        assert!(index.contains("localhost/app:1"), "{index}");
    }

    #[test]
    fn a_root_that_is_not_there_is_named() {
        let dir = std::env::temp_dir().join(format!("seed-no-image-{}", std::process::id()));
        let image = Image {
            name: "localhost/app:1",
            root: Path::new("/nonexistent"),
            entrypoint: &[],
        };
        let error = image.pack(&dir).expect_err("no root").to_string();
        fs::remove_dir_all(&dir).expect("removed");
        assert!(error.contains("/nonexistent"), "{error}");
    }
}
