//! `boot.json` of a closure: NixOS bootspec v1 (RFC 125) and our extension in it.

use std::{collections::BTreeMap, path::PathBuf, str::FromStr};

use serde::Deserialize;
use thiserror::Error;

use super::{MemoryMib, Vcpus};
use crate::names::VolumeName;

/// The longest file that is read.
pub(super) const MAX_BYTES: u64 = 1 << 20;

/// The file's name inside a toplevel.
pub(super) const FILE: &str = "boot.json";

/// Why a `boot.json` was not understood.
#[derive(Debug, Error)]
pub enum BootSpecError {
    /// No JSON, or not of this form.
    #[error("it is no bootspec v1 document: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A kernel parameter that would not arrive as one.
    #[error("kernel parameter {0:?} has a control character")]
    Parameter(String),
    /// A path that is not absolute.
    #[error("{key} is {}, which is no absolute path", path.display())]
    Relative {
        /// Which key.
        key: &'static str,
        /// Its value.
        path: PathBuf,
    },
    /// A storage entry that cannot be meant.
    #[error("storage {name:?}: {problem}")]
    Storage {
        /// Which volume.
        name: String,
        /// What is wrong.
        problem: String,
    },
}

#[derive(Debug, Deserialize)]
struct Document {
    #[serde(rename = "org.nixos.bootspec.v1")]
    v1: V1,
    #[serde(rename = "farm.loom.seed.v1")]
    seed: Option<RawExtension>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct V1 {
    init: PathBuf,
    kernel: PathBuf,
    #[serde(default)]
    kernel_params: Vec<String>,
    initrd: Option<PathBuf>,
    label: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RawExtension {
    name: Option<String>,
    size: Option<String>,
    #[serde(default)]
    storage: BTreeMap<String, RawStorage>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawStorage {
    size: Option<String>,
    mount_point: Option<PathBuf>,
    user: Option<String>,
    group: Option<String>,
    mode: Option<String>,
}

/// What a closure says about its own boot. Paths are absolute inside its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootSpec {
    /// A name for people.
    pub label: Option<String>,
    /// The first program.
    pub init: PathBuf,
    /// The kernel image.
    pub kernel: PathBuf,
    /// The initial file system.
    pub initrd: Option<PathBuf>,
    /// The closure's own kernel parameters.
    pub kernel_params: Vec<String>,
    /// What only Seed knows.
    pub seed: Extension,
}

/// `farm.loom.seed.v1`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extension {
    /// `seed.name`.
    pub name: Option<String>,
    /// `seed.size`.
    pub size: Option<Size>,
    /// `seed.storage`.
    pub storage: BTreeMap<VolumeName, StorageEntry>,
}

/// One of `seed.storage`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageEntry {
    /// How large the closure would like it, in bytes.
    pub size_bytes: Option<u64>,
    /// Where it is mounted in the guest.
    pub mount_point: PathBuf,
    /// Owner, group and mode of the mount point, as the closure has them.
    pub user: Option<String>,
    /// See `user`.
    pub group: Option<String>,
    /// See `user`.
    pub mode: Option<String>,
}

impl BootSpec {
    /// Parses the text of a `boot.json`.
    pub fn parse(text: &str) -> Result<Self, BootSpecError> {
        let Document { v1, seed } = serde_json::from_str(text)?;
        let V1 {
            init,
            kernel,
            kernel_params,
            initrd,
            label,
        } = v1;
        for (key, path) in [
            ("init", Some(&init)),
            ("kernel", Some(&kernel)),
            ("initrd", initrd.as_ref()),
        ] {
            if let Some(path) = path.filter(|p| !p.is_absolute()) {
                return Err(BootSpecError::Relative {
                    key,
                    path: path.clone(),
                });
            }
        }
        if let Some(bad) = kernel_params
            .iter()
            .find(|p| p.chars().any(char::is_control))
        {
            return Err(BootSpecError::Parameter(bad.clone()));
        }
        let seed = seed.map(extension).transpose()?.unwrap_or_default();
        Ok(Self {
            label,
            init,
            kernel,
            initrd,
            kernel_params,
            seed,
        })
    }
}

fn extension(raw: RawExtension) -> Result<Extension, BootSpecError> {
    let RawExtension {
        name,
        size,
        storage,
    } = raw;
    let size = size
        .map(|size| size.parse::<Size>())
        .transpose()
        .map_err(|problem| BootSpecError::Storage {
            name: "size".into(),
            problem,
        })?;
    let mut entries = BTreeMap::new();
    for (name, raw) in storage {
        let wrong = |problem: String| BootSpecError::Storage {
            name: name.clone(),
            problem,
        };
        let RawStorage {
            size,
            mount_point,
            user,
            group,
            mode,
        } = raw;
        let volume = VolumeName::try_from(name.as_str()).map_err(|e| wrong(e.to_string()))?;
        let mount_point = mount_point.unwrap_or_else(|| {
            PathBuf::from(seed_protocol::paths::STORAGE_DIR).join(volume.as_str())
        });
        if !mount_point.is_absolute() {
            return Err(wrong(format!(
                "mount point {} is not absolute",
                mount_point.display()
            )));
        }
        let size_bytes = size.as_deref().map(parse_size).transpose().map_err(wrong)?;
        entries.insert(
            volume,
            StorageEntry {
                size_bytes,
                mount_point,
                user,
                group,
                mode,
            },
        );
    }
    Ok(Extension {
        name,
        size,
        storage: entries,
    })
}

/// A number of bytes as Kubernetes writes quantities: `64Mi`, `2Gi`, `1G`, `1048576`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1000,
        "M" => 1000 * 1000,
        "G" => 1000 * 1000 * 1000,
        "T" => 1000 * 1000 * 1000 * 1000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => {
            return Err(format!(
                "size {text:?} has an unknown unit: use Ki, Mi, Gi or Ti"
            ));
        }
    };
    let bytes = number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor));
    bytes
        .filter(|b| *b > 0)
        .ok_or_else(|| format!("size {text:?} is no size"))
}

/// The named sizes of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// 1 vCPU, 512 MiB.
    Xs,
    /// 1 vCPU, 1 GiB.
    S,
    /// 2 vCPUs, 2 GiB.
    M,
    /// 4 vCPUs, 4 GiB.
    L,
    /// 8 vCPUs, 8 GiB.
    Xl,
}

impl Size {
    /// Virtual processors.
    pub fn vcpus(self) -> Vcpus {
        Vcpus(match self {
            Self::Xs | Self::S => 1,
            Self::M => 2,
            Self::L => 4,
            Self::Xl => 8,
        })
    }

    /// Memory.
    pub fn memory(self) -> MemoryMib {
        MemoryMib(match self {
            Self::Xs => 512,
            Self::S => 1024,
            Self::M => 2048,
            Self::L => 4096,
            Self::Xl => 8192,
        })
    }
}

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "xs" => Ok(Self::Xs),
            "s" => Ok(Self::S),
            "m" => Ok(Self::M),
            "l" => Ok(Self::L),
            "xl" => Ok(Self::Xl),
            _ => Err(format!("size {text:?} is unknown: use xs, s, m, l or xl")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMO: &str = r#"{
        "org.nixos.bootspec.v1": {
            "system": "x86_64-linux", "label": "demo", "toplevel": "/seed-system",
            "init": "/seed-system/init", "kernel": "/seed-system/kernel",
            "kernelParams": ["quiet", "loglevel=4"], "initrd": "/seed-system/initrd"
        },
        "org.nixos.specialisation.v1": {},
        "farm.loom.seed.v1": {"name": "demo", "size": "xs", "storage": {
            "data": {"size": "64Mi", "mountPoint": "/seed/storage/data",
                     "user": "app", "group": "app", "mode": "0750"},
            "cache": {}
        }}
    }"#;

    #[test]
    fn a_closures_own_document_is_read() {
        let spec = BootSpec::parse(DEMO).unwrap();
        assert_eq!(spec.kernel_params, ["quiet", "loglevel=4"]);
        assert_eq!(spec.seed.size, Some(Size::Xs));
        let data = &spec.seed.storage[&VolumeName::try_from("data").unwrap()];
        assert_eq!(data.size_bytes, Some(64 << 20));
        assert_eq!(data.user.as_deref(), Some("app"));
        let cache = &spec.seed.storage[&VolumeName::try_from("cache").unwrap()];
        assert_eq!(cache.mount_point, PathBuf::from("/seed/storage/cache"));
    }

    #[test]
    fn a_document_without_our_extension_is_enough() {
        let text = r#"{"org.nixos.bootspec.v1": {"init": "/i", "kernel": "/k"}}"#;
        let spec = BootSpec::parse(text).unwrap();
        assert_eq!(spec.initrd, None);
        assert_eq!(spec.seed, Extension::default());
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, said) in [
            ("", "bootspec"),
            ("{}", "org.nixos.bootspec.v1"),
            (r#"{"org.nixos.bootspec.v1": {"init": "/i"}}"#, "kernel"),
            (
                r#"{"org.nixos.bootspec.v1": {"init": "i", "kernel": "/k"}}"#,
                "init",
            ),
            (
                r#"{"org.nixos.bootspec.v1": {"init": "/i", "kernel": "/k", "kernelParams": ["a\nb"]}}"#,
                "control",
            ),
            (
                r#"{"org.nixos.bootspec.v1": {"init": "/i", "kernel": "/k"},
                    "farm.loom.seed.v1": {"storage": {"../x": {}}}}"#,
                "../x",
            ),
            (
                r#"{"org.nixos.bootspec.v1": {"init": "/i", "kernel": "/k"},
                    "farm.loom.seed.v1": {"storage": {"x": {"size": "many"}}}}"#,
                "many",
            ),
        ] {
            let error = BootSpec::parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn sizes_are_read_as_kubernetes_writes_them() {
        assert_eq!(parse_size("64Mi"), Ok(64 << 20));
        assert_eq!(parse_size("1G"), Ok(1_000_000_000));
        assert_eq!(parse_size("4096"), Ok(4096));
        for bad in ["", "0", "Mi", "1.5Gi", "1mi", "-1", "99999999999Ti"] {
            assert!(parse_size(bad).is_err(), "{bad:?} was taken");
        }
    }
}
