//! What the closure says about the instance: `/etc/seed/instance.json`, as the module renders it.
//! `--check-config` runs the same parser at build time.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

use super::ConfigError;
use crate::{
    storage::{
        MountPoint, SpecError, VolumeName,
        owner::{Mode, OwnerNames},
    },
    sys::file,
};

/// The largest instance file that is read.
const MAX_INSTANCE_BYTES: u64 = 1024 * 1024;

/// What the closure says about the instance. Unknown keys are refused: a mistyped one must not pass in
/// silence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instance {
    /// The instance's name, empty when the closure gives none.
    pub name: String,
    /// Volumes by name.
    pub volumes: BTreeMap<VolumeName, BakedVolume>,
    /// The group whose members may read the environment; root alone without.
    pub env_group: Option<String>,
    /// The group whose members may decrypt with the instance's identity; root alone without.
    pub key_group: Option<String>,
}

/// A volume as the closure declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BakedVolume {
    /// Where it belongs.
    pub mount_point: MountPoint,
    /// Who owns the mount point.
    pub owner: OwnerNames,
    /// The mount point's mode.
    pub mode: Option<Mode>,
}

impl Instance {
    /// Reads and checks an instance file: what `--check-config` does.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Read {
            path: path.to_owned(),
            source,
        };
        let text = file::read_small(path, MAX_INSTANCE_BYTES).map_err(unreadable)?;
        Self::parse(&text, path)
    }

    /// Checks the text of an instance file. `path` is for the error.
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, ConfigError> {
        let file: InstanceFile =
            serde_json::from_slice(text).map_err(|source| ConfigError::Json {
                path: path.to_owned(),
                source,
            })?;
        let InstanceFile {
            name,
            storage,
            identity,
            environment,
        } = file;
        let mut volumes = BTreeMap::new();
        for (name, entry) in storage {
            let (key, volume) = entry
                .into_volume(&name)
                .map_err(|source| ConfigError::Volume {
                    path: path.to_owned(),
                    name,
                    source,
                })?;
            volumes.insert(key, volume);
        }
        Ok(Self {
            name,
            volumes,
            env_group: environment.group,
            key_group: identity.group,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InstanceFile {
    #[serde(default)]
    name: String,
    #[serde(default)]
    storage: BTreeMap<String, StorageEntry>,
    #[serde(default)]
    identity: GroupEntry,
    #[serde(default)]
    environment: GroupEntry,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupEntry {
    group: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct StorageEntry {
    mount_point: String,
    user: Option<String>,
    group: Option<String>,
    mode: Option<String>,
}

impl StorageEntry {
    fn into_volume(self, name: &str) -> Result<(VolumeName, BakedVolume), SpecError> {
        let Self {
            mount_point,
            user,
            group,
            mode,
        } = self;
        let volume = BakedVolume {
            mount_point: MountPoint::try_from(mount_point.as_str())?,
            owner: OwnerNames { user, group },
            mode: mode.as_deref().map(Mode::try_from).transpose()?,
        };
        Ok((VolumeName::try_from(name)?, volume))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Instance, ConfigError> {
        Instance::parse(text.as_bytes(), Path::new("instance.json"))
    }

    #[test]
    fn the_modules_instance_file_is_understood() {
        let instance = parse(
            r#"{"name":"demo","storage":{"data":{"mountPoint":"/seed/storage/data","user":"app","group":"app","mode":"0750"}}}"#,
        )
        .unwrap();
        assert_eq!(instance.name, "demo");
        let volume = &instance.volumes[&VolumeName::try_from("data").unwrap()];
        assert_eq!(
            volume.mount_point.as_path(),
            Path::new("/seed/storage/data")
        );
        assert_eq!(volume.owner.user.as_deref(), Some("app"));
        assert_eq!(volume.mode.unwrap().bits(), 0o750);
    }

    #[test]
    fn key_and_environment_are_roots_unless_a_group_is_named() {
        assert_eq!(parse("{}").unwrap().key_group, None);
        let named = parse(r#"{"identity":{"group":"secrets"}}"#).unwrap();
        assert_eq!(named.key_group.as_deref(), Some("secrets"));
        assert_eq!(named.env_group, None);
        assert!(parse(r#"{"identity":{"gruop":"secrets"}}"#).is_err());
        let named = parse(r#"{"environment":{"group":"app"}}"#).unwrap();
        assert_eq!(named.env_group.as_deref(), Some("app"));
    }

    #[test]
    fn a_mistyped_key_and_a_mount_over_the_system_are_refused() {
        let error = parse(r#"{"nmae":"demo"}"#).unwrap_err();
        assert!(matches!(error, ConfigError::Json { .. }));
        let error = parse(r#"{"storage":{"data":{"mountPoint":"/proc"}}}"#).unwrap_err();
        assert_eq!(error.to_string(), "instance.json: volume \"data\"");
    }
}
