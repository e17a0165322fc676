//! The part of an OCI `config.json` that means something for a VM. Unknown keys are left alone: the
//! document belongs to containerd, and most of it is about Linux containers.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use thiserror::Error;

use super::{
    Resources,
    devices::{Device, Rule},
};

/// The file's name in a bundle.
pub(super) const FILE: &str = "config.json";

/// The longest file that is read. Environment and annotations count into it.
pub(super) const MAX_BYTES: u64 = 8 << 20;

/// Why a bundle cannot be used.
#[derive(Debug, Error)]
pub enum BundleError {
    /// It cannot be read.
    #[error("bundle file {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is too long.
    #[error("bundle file {} has {bytes} bytes, more than {MAX_BYTES}", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// It is no OCI document.
    #[error("bundle file {} is no OCI runtime configuration: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// It wants what is in it owned by other users than the guest would see.
    #[error(
        "bundle file {} wants a user namespace, but a machine has users of its own: take it out (a pod's hostUsers: false)",
        path.display()
    )]
    UserNamespace {
        /// The file.
        path: PathBuf,
    },
}

#[derive(Debug, Deserialize)]
struct Document {
    process: Option<Process>,
    root: Option<Root>,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    mounts: Vec<Mount>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    linux: Linux,
}

#[derive(Debug, Default, Deserialize)]
struct Linux {
    #[serde(default)]
    namespaces: Vec<LinuxNamespace>,
    #[serde(default)]
    resources: Option<LinuxResources>,
    #[serde(default, rename = "cgroupsPath")]
    cgroups_path: String,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    sysctl: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
struct LinuxResources {
    #[serde(flatten)]
    limits: Resources,
    #[serde(default)]
    devices: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
struct LinuxNamespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
struct Process {
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    #[serde(default, rename = "oomScoreAdj")]
    oom_score_adj: Option<i32>,
}

#[derive(Debug, Deserialize)]
struct Root {
    path: PathBuf,
    #[serde(default)]
    readonly: bool,
}

/// One entry of `mounts`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Mount {
    /// Where in the guest.
    pub destination: PathBuf,
    /// The file system's type.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// What to mount.
    #[serde(default)]
    pub source: PathBuf,
    /// Mount options.
    #[serde(default)]
    pub options: Vec<String>,
}

/// What a bundle says.
#[derive(Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The folder.
    pub path: PathBuf,
    /// The root file system's folder.
    pub root: PathBuf,
    /// `root.readonly`.
    pub read_only_root: bool,
    /// `process.args`.
    pub args: Vec<String>,
    /// `process.env`: may hold secrets, so a bundle has no derived `Debug`.
    pub env: Vec<String>,
    /// `process.oomScoreAdj`.
    pub oom_score_adj: Option<i32>,
    /// `hostname`, may be empty.
    pub hostname: String,
    /// `mounts`.
    pub mounts: Vec<Mount>,
    /// `annotations`.
    pub annotations: BTreeMap<String, String>,
    /// The network namespace that it shall be in, where it names one that exists.
    pub network_namespace: Option<PathBuf>,
    /// `linux.cgroupsPath`, may be empty.
    pub cgroups_path: String,
    /// `linux.sysctl`.
    pub sysctls: BTreeMap<String, String>,
    /// `linux.resources`: limits.
    pub resources: Resources,
    /// `linux.devices`.
    pub devices: Vec<Device>,
    /// `linux.resources.devices`.
    pub device_rules: Vec<Rule>,
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundle")
            .field("path", &self.path)
            .field("args", &self.args)
            .field("env", &format_args!("{} variables", self.env.len()))
            .field("mounts", &self.mounts)
            .finish_non_exhaustive()
    }
}

impl Bundle {
    /// Reads the bundle in this folder.
    pub fn read(path: &Path) -> Result<Self, BundleError> {
        let file = path.join(FILE);
        let wrap = |source| BundleError::Read {
            path: file.clone(),
            source,
        };
        let bytes = fs::metadata(&file).map_err(wrap)?.len();
        if bytes > MAX_BYTES {
            return Err(BundleError::TooLong { path: file, bytes });
        }
        let text = fs::read_to_string(&file).map_err(wrap)?;
        let document: Document =
            serde_json::from_str(&text).map_err(|source| BundleError::Parse {
                path: file.clone(),
                source,
            })?;
        let Document {
            process,
            root,
            hostname,
            mounts,
            annotations,
            linux,
        } = document;
        if linux.namespaces.iter().any(|one| one.kind == "user") {
            return Err(BundleError::UserNamespace { path: file });
        }
        let Process {
            args,
            env,
            oom_score_adj,
        } = process.unwrap_or_default();
        let network_namespace = linux
            .namespaces
            .into_iter()
            .find(|one| one.kind == "network" && !one.path.as_os_str().is_empty())
            .map(|one| one.path);
        let resources = linux.resources.unwrap_or_default();
        let root = root.unwrap_or_else(|| Root {
            path: "rootfs".into(),
            readonly: false,
        });
        Ok(Self {
            path: path.to_owned(),
            root: path.join(root.path),
            read_only_root: root.readonly,
            args,
            env,
            oom_score_adj,
            hostname,
            mounts,
            annotations,
            network_namespace,
            cgroups_path: linux.cgroups_path,
            sysctls: linux.sysctl,
            resources: resources.limits,
            devices: linux.devices,
            device_rules: resources.devices,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(text: &str) -> (tempfile::TempDir, Result<Bundle, BundleError>) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), text).unwrap();
        let read = Bundle::read(dir.path());
        (dir, read)
    }

    #[test]
    fn the_parts_that_matter_are_read_and_the_rest_left_alone() {
        let (dir, read) = bundle(
            r#"{"ociVersion": "1.2.0", "process": {"args": ["/nix/store/x/init"], "env": ["A=b"],
                "user": {"uid": 0}, "oomScoreAdj": 1000}, "root": {"path": "rootfs", "readonly": true},
                "linux": {"namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/a"}],
                "cgroupsPath": "/pods/a", "sysctl": {"kernel.x": "1"}}, "annotations": {"k": "v"},
                "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}]}"#,
        );
        let read = read.unwrap();
        assert_eq!(read.args, ["/nix/store/x/init"]);
        assert_eq!(read.oom_score_adj, Some(1000));
        assert_eq!(read.root, dir.path().join("rootfs"));
        assert!(read.read_only_root);
        assert_eq!(read.sysctls["kernel.x"], "1");
        assert_eq!(read.cgroups_path, "/pods/a");
        assert_eq!(read.mounts[0].kind, "proc");
        assert_eq!(
            read.network_namespace.as_deref(),
            Some(Path::new("/run/netns/a"))
        );
        assert!(!format!("{read:?}").contains("A=b"));
    }

    #[test]
    fn a_user_namespace_is_refused() {
        let (_dir, read) =
            bundle(r#"{"linux": {"namespaces": [{"type": "pid"}, {"type": "user"}]}}"#);
        let error = read.unwrap_err().to_string();
        assert!(
            error.contains("config.json") && error.contains("hostUsers"),
            "{error}"
        );
    }

    #[test]
    fn a_broken_or_missing_document_is_named() {
        let (_dir, read) = bundle("{");
        assert!(read.unwrap_err().to_string().contains("config.json"));
        let missing = Bundle::read(Path::new("/nonexistent/bundle")).unwrap_err();
        assert!(
            missing
                .to_string()
                .contains("/nonexistent/bundle/config.json")
        );
    }
}
