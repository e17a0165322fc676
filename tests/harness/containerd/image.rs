//! Images without a registry: a folder becomes a one-layer OCI image (image-spec 1.0, image layout), packed by
//! tar and imported by `ctr`.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Containerd;

/// The image of pause containers: busybox asleep. Under the runtime `seed` nothing of it runs.
pub const PAUSE: &str = "localhost/pause:1";

/// A busybox with a shell.
pub const BUSYBOX: &str = "localhost/busybox:1";

/// Packing and importing.
const LIMIT: Duration = Duration::from_secs(120);

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

impl Containerd {
    /// Imports an image into the namespaces of `ctr` and of CRI.
    pub fn import(&self, image: &Image<'_>) -> Result<()> {
        let work = tempfile::tempdir_in(self.dir())?;
        let archive = archive(work.path(), image)?;
        let archive = archive.to_string_lossy();
        for namespace in ["default", "k8s.io"] {
            self.ctr_ok(&["-n", namespace, "images", "import", &archive])?;
        }
        Ok(())
    }

    /// Imports [`PAUSE`] and [`BUSYBOX`].
    pub fn import_busybox(&self) -> Result<()> {
        let root = tempfile::tempdir_in(self.dir())?;
        let bin = root.path().join("bin");
        fs::create_dir(&bin)?;
        let from = self.programs.busybox();
        fs::copy(&from, bin.join("busybox")).with_context(|| format!("copy {}", from.display()))?;
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755))?;
        for applet in ["sh", "sleep", "echo", "cat"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet))?;
        }
        for (name, entrypoint) in [
            (PAUSE, ["/bin/sleep", "1000000"]),
            (BUSYBOX, ["/bin/sh", "-c"]),
        ] {
            self.import(&Image {
                name,
                root: root.path(),
                entrypoint: &entrypoint,
            })?;
        }
        Ok(())
    }
}

fn archive(work: &Path, image: &Image<'_>) -> Result<PathBuf> {
    let blobs = work.join("layout/blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let layer = work.join("layer.tar");
    run(Command::new("tar")
        .args(["--create", "--numeric-owner", "--sort=name", "--file"])
        .arg(&layer)
        .arg("--directory")
        .arg(image.root)
        .arg("."))?;
    let layer = blob(&blobs, &layer, "application/vnd.oci.image.layer.v1.tar")?;
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": image.entrypoint, "Env": ["PATH=/bin"]},
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
    manifest["annotations"] = json!({"io.containerd.image.name": image.name});
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

fn run(command: &mut Command) -> Result<String> {
    let taken = std::mem::replace(command, Command::new("true"));
    let text = format!("{taken:?}");
    let output = crate::lab::output(taken, LIMIT)?;
    ensure!(
        output.status.success(),
        "{text}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
