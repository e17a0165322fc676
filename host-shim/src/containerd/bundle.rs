//! The bundle: `config.json` (OCI runtime-spec 1.2), an empty `rootfs/`, a file `log` in the place of
//! containerd's FIFO; and the mounts of the root, an overlay whose lower layer is the user's root and whose
//! upper layer is ours, so that a root is never written to and can serve many instances.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use containerd_shim_protos::api::Mount;
use serde_json::{Value, json};
use thiserror::Error;

use super::{record::Record, volumes::Volume};
use crate::{paths::InstancePaths, spec::ANNOTATION_PREFIX};

/// A file or folder of the bundle cannot be made.
#[derive(Debug, Error)]
#[error("bundle: {}", path.display())]
pub struct BundleError {
    /// The file or folder.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// A root that cannot be the lower layer of an overlay.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("root {} has one of the characters ':', ',' and '\\' in its path", .0.display())]
pub struct OverlayError(pub PathBuf);

/// Makes the bundle. `sources` are the volumes' files, in the record's order.
pub fn write(
    record: &Record,
    sources: &[PathBuf],
    hostname: &str,
    paths: &InstancePaths,
) -> Result<PathBuf, BundleError> {
    let bundle = paths.bundle();
    make_dir(&bundle.join("rootfs"))?;
    let fault = |path: &Path| {
        let path = path.to_owned();
        move |source| BundleError { path, source }
    };
    let log = bundle.join("log");
    File::create(&log).map_err(fault(&log))?;
    let path = bundle.join("config.json");
    // The environment may hold secrets.
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path);
    let mut file = file.map_err(fault(&path))?;
    let text = config(record, sources, hostname).to_string();
    file.write_all(text.as_bytes()).map_err(fault(&path))?;
    Ok(bundle)
}

fn make_dir(path: &Path) -> Result<(), BundleError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| BundleError {
            path: path.into(),
            source,
        })
}

/// The mounts of the root, for `CreateTaskRequest.rootfs`. Makes the layer's folders.
pub fn root_mounts(record: &Record, paths: &InstancePaths) -> Result<Vec<Mount>, BundleError> {
    let (upper, work) = (upper(paths), paths.layers_dir().join("work"));
    make_dir(paths.layers_dir())?;
    for dir in [&upper, &work] {
        match DirBuilder::new().mode(0o755).create(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // The upper layer is the guest's root itself: everyone in the guest passes through it, whatever
            // the umask of whoever starts it.
            other => other
                .and_then(|()| fs::set_permissions(dir, Permissions::from_mode(0o755)))
                .map_err(|source| BundleError {
                    path: dir.clone(),
                    source,
                })?,
        }
    }
    let option = |key: &str, path: &Path| format!("{key}={}", path.display());
    Ok(vec![Mount {
        type_: "overlay".into(),
        source: "overlay".into(),
        options: vec![
            option("lowerdir", &record.root),
            option("upperdir", &upper),
            option("workdir", &work),
        ],
        ..Default::default()
    }])
}

/// What the guest writes to its root.
pub(super) fn upper(paths: &InstancePaths) -> PathBuf {
    paths.layers_dir().join("upper")
}

/// Whether overlayfs takes this path in its options.
pub fn check_overlay_path(path: &Path) -> Result<(), OverlayError> {
    let bad = path
        .to_str()
        .is_none_or(|text| text.contains([':', ',', '\\']));
    if bad {
        Err(OverlayError(path.into()))
    } else {
        Ok(())
    }
}

/// Removes the layer: what the guest wrote outside its volumes.
pub fn remove_layer(paths: &InstancePaths) -> io::Result<()> {
    let layer = paths.layers_dir();
    match fs::remove_dir_all(layer) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Others of its namespace may have theirs beside it.
    if let Some(namespace) = layer.parent() {
        let _ = fs::remove_dir(namespace);
    }
    Ok(())
}

fn config(record: &Record, sources: &[PathBuf], hostname: &str) -> Value {
    let mounts: Vec<Value> = record
        .volumes
        .iter()
        .zip(sources)
        .map(|(volume, source)| mount(volume, source))
        .collect();
    let mut annotations = serde_json::Map::new();
    let mut annotate = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            annotations.insert(format!("{ANNOTATION_PREFIX}{key}"), value.into());
        }
    };
    annotate("size", record.size.clone());
    annotate("accel", record.accel.map(|accel| accel.as_str().to_owned()));
    // A path is a network namespace, which is OCI's to name and not an annotation's.
    let (namespaces, network) = match &record.network {
        Some(path) if path.starts_with('/') => (json!([{ "type": "network", "path": path }]), None),
        network => (json!([]), network.clone()),
    };
    annotate("network", network);
    let publish = &record.publish;
    annotate("publish", (!publish.is_empty()).then(|| publish.join(",")));
    let params = &record.kernel_params;
    annotate(
        "kernel_params",
        (!params.is_empty()).then(|| params.join(" ")),
    );
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": [record.toplevel.join("init")],
            "env": record.env,
            "cwd": "/",
        },
        "root": { "path": "rootfs", "readonly": false },
        "hostname": hostname,
        "mounts": mounts,
        "annotations": annotations,
        "linux": { "namespaces": namespaces },
    })
}

fn mount(volume: &Volume, source: &Path) -> Value {
    let Volume {
        name,
        source: _,
        mount_point,
        user,
        group,
        mode,
    } = volume;
    let mut options = vec!["rw".to_owned(), format!("x-seed.name={name}")];
    for (key, value) in [("user", user), ("group", group), ("mode", mode)] {
        options.extend(value.as_ref().map(|value| format!("x-seed.{key}={value}")));
    }
    json!({ "type": "ext4", "source": source, "destination": mount_point, "options": options })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Config,
        containerd::{record, volumes::Source},
        paths::Paths,
        spec::Bundle,
    };

    #[test]
    fn the_shim_reads_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            run_dir: dir.path().join("run"),
            state_dir: dir.path().join("state"),
            ..Config::default()
        };
        let paths =
            Paths::new(&config).instance(&"default".parse().unwrap(), &"demo".parse().unwrap());
        let mut record = record::tests::sample();
        record.volumes.push(Volume {
            name: "data".into(),
            source: Source::Bytes(1),
            mount_point: "/seed/storage/data".into(),
            user: Some("app".into()),
            group: None,
            mode: Some("0750".into()),
        });
        let path = write(&record, &["/x/data.img".into()], "demo", &paths).unwrap();
        let bundle = Bundle::read(&path).unwrap();
        assert_eq!(bundle.args, ["/seed-system/init"]);
        assert_eq!(bundle.env, ["SECRET=hush"]);
        assert_eq!(bundle.hostname, "demo");
        assert_eq!(bundle.annotations["seed.loom.farm/size"], "xs");
        assert_eq!(bundle.annotations["seed.loom.farm/accel"], "tcg");
        assert_eq!(
            bundle.annotations["seed.loom.farm/kernel_params"],
            "quiet loglevel=3"
        );
        assert_eq!(bundle.mounts[0].source, Path::new("/x/data.img"));
        assert_eq!(
            bundle.mounts[0].options,
            [
                "rw",
                "x-seed.name=data",
                "x-seed.user=app",
                "x-seed.mode=0750"
            ]
        );
        assert_eq!(bundle.network_namespace, None);
        record.network = Some("/run/netns/demo".into());
        let path = write(&record, &[], "demo", &paths).unwrap();
        let inside = Bundle::read(&path).unwrap();
        assert_eq!(
            inside.network_namespace.as_deref(),
            Some(Path::new("/run/netns/demo"))
        );
        assert!(!inside.annotations.contains_key("seed.loom.farm/network"));
        let mounts = root_mounts(&record, &paths).unwrap();
        assert_eq!(mounts[0].options[0], "lowerdir=/guest");
        assert!(paths.layers_dir().join("upper").is_dir());
        root_mounts(&record, &paths).unwrap();
        remove_layer(&paths).unwrap();
        remove_layer(&paths).unwrap();
        assert!(!dir.path().join("state/layers/default").exists());
    }

    #[test]
    fn paths_that_overlayfs_would_take_apart_are_refused() {
        check_overlay_path(Path::new("/a b/c")).unwrap();
        for path in ["/a:b", "/a,b", "/a\\b"] {
            check_overlay_path(Path::new(path)).unwrap_err();
        }
    }
}
