//! Volumes as a user names them, `name=SIZE[:MOUNTPOINT][,user=U][,group=G][,mode=M]` or
//! `name=/path/image[:MOUNTPOINT]...`, joined with the closure's own table, and their image files.
//!
//! Images that we make are sparse and empty: the file system is made in the guest, on a blank device only.
//! An image that is there is never shrunk, never emptied, and by nothing here deleted except on `seed rm`.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    names::{NameError, VolumeName},
    paths::InstancePaths,
    spec::Extension,
};

/// The smallest image: ext4 with a journal does not fit in less.
pub const MIN_BYTES: u64 = 4 << 20;

/// A volume that cannot be meant.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum VolumeArgError {
    /// No `=`.
    #[error("volume {0:?} has no size")]
    Form(String),
    /// The name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The size.
    #[error("volume {name}: {problem}")]
    Size {
        /// Which.
        name: VolumeName,
        /// What is wrong.
        problem: String,
    },
    /// The mount point.
    #[error("volume {name}: mount point {mount_point:?} is not absolute")]
    MountPoint {
        /// Which.
        name: VolumeName,
        /// What was given.
        mount_point: String,
    },
    /// An option after the comma.
    #[error("volume {name}: option {option:?} is unknown")]
    Option {
        /// Which.
        name: VolumeName,
        /// What was given.
        option: String,
    },
    /// Named twice: nobody can say which one is meant.
    #[error("volume {0} is given twice")]
    Twice(VolumeName),
    /// Neither the closure nor the user says how large.
    #[error("volume {0} has no size: the closure names none")]
    NoSize(VolumeName),
}

/// An image file cannot be had.
#[derive(Debug, Error)]
#[error("volume {name}: image {}", path.display())]
pub struct ImageError {
    /// Which volume.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Where a volume's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// An image of our own of at least this size.
    Bytes(u64),
    /// A file or device of the user's.
    Path(PathBuf),
}

/// One volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub source: Source,
    /// Where the guest mounts it.
    pub mount_point: PathBuf,
    /// The mount point's owner, where the user gave one.
    pub user: Option<String>,
    /// See `user`.
    pub group: Option<String>,
    /// See `user`; octal.
    pub mode: Option<String>,
}

/// What `--volume` said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeArg {
    name: VolumeName,
    source: Source,
    mount_point: Option<PathBuf>,
    user: Option<String>,
    group: Option<String>,
    mode: Option<String>,
}

impl FromStr for VolumeArg {
    type Err = VolumeArgError;
    fn from_str(text: &str) -> Result<Self, VolumeArgError> {
        let (name, rest) = text
            .split_once('=')
            .ok_or_else(|| VolumeArgError::Form(text.into()))?;
        let name = VolumeName::try_from(name)?;
        let mut parts = rest.split(',');
        let place = parts.next().unwrap_or_default();
        let (source, mount_point) = match place.split_once(':') {
            Some((source, mount_point)) => (source, Some(mount_point)),
            None => (place, None),
        };
        let source = if source.starts_with('/') {
            Source::Path(source.into())
        } else {
            let size = crate::spec::parse_size(source);
            let size = size.and_then(|bytes| match bytes {
                ..MIN_BYTES => Err(format!("{source} is less than {} MiB", MIN_BYTES >> 20)),
                bytes => Ok(bytes),
            });
            Source::Bytes(size.map_err(|problem| VolumeArgError::Size {
                name: name.clone(),
                problem,
            })?)
        };
        if let Some(relative) = mount_point.filter(|path| !path.starts_with('/')) {
            let mount_point = relative.into();
            return Err(VolumeArgError::MountPoint { name, mount_point });
        }
        let mount_point = mount_point.map(PathBuf::from);
        let mut volume = Self {
            name,
            source,
            mount_point,
            user: None,
            group: None,
            mode: None,
        };
        for option in parts {
            match option.split_once('=') {
                Some(("user", value)) => volume.user = Some(value.into()),
                Some(("group", value)) => volume.group = Some(value.into()),
                Some(("mode", value)) => volume.mode = Some(value.into()),
                _ => {
                    let (name, option) = (volume.name, option.into());
                    return Err(VolumeArgError::Option { name, option });
                }
            }
        }
        Ok(volume)
    }
}

/// The closure's volumes and the user's: the user's word on a volume of the same name wins where there is
/// one.
pub fn join(closure: &Extension, args: &[VolumeArg]) -> Result<Vec<Volume>, VolumeArgError> {
    let mut names = BTreeSet::new();
    if let Some(twice) = args.iter().find(|arg| !names.insert(&arg.name)) {
        return Err(VolumeArgError::Twice(twice.name.clone()));
    }
    let mut volumes = Vec::new();
    for (name, entry) in &closure.storage {
        let arg = args.iter().find(|arg| arg.name == *name);
        let source = match (arg, entry.size_bytes) {
            (Some(arg), _) => arg.source.clone(),
            (None, Some(bytes)) => Source::Bytes(bytes.max(MIN_BYTES)),
            (None, None) => return Err(VolumeArgError::NoSize(name.clone())),
        };
        let own = |value: fn(&VolumeArg) -> Option<String>| arg.and_then(value);
        volumes.push(Volume {
            name: name.to_string(),
            source,
            mount_point: arg
                .and_then(|arg| arg.mount_point.clone())
                .unwrap_or_else(|| entry.mount_point.clone()),
            user: own(|arg| arg.user.clone()).or_else(|| entry.user.clone()),
            group: own(|arg| arg.group.clone()).or_else(|| entry.group.clone()),
            mode: own(|arg| arg.mode.clone()).or_else(|| entry.mode.clone()),
        });
    }
    for arg in args {
        if closure.storage.contains_key(&arg.name) {
            continue;
        }
        let VolumeArg {
            name,
            source,
            mount_point,
            user,
            group,
            mode,
        } = arg.clone();
        let mount_point =
            mount_point.unwrap_or_else(|| Path::new(seed_protocol::paths::STORAGE_DIR).join(&name));
        volumes.push(Volume {
            name: name.to_string(),
            source,
            mount_point,
            user,
            group,
            mode,
        });
    }
    Ok(volumes)
}

/// The volume's file or device. An image of our own is made, or grown, where needed; one that was made is
/// added to `made`, also where it could not be given its size.
pub fn provide(
    volume: &Volume,
    paths: &InstancePaths,
    made: &mut Vec<PathBuf>,
) -> Result<PathBuf, ImageError> {
    let bytes = match &volume.source {
        Source::Path(path) => return Ok(path.clone()),
        Source::Bytes(bytes) => *bytes,
    };
    let path = image_path(volume, paths);
    let fault = |source| ImageError {
        name: volume.name.clone(),
        path: path.clone(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(paths.volumes_dir())
        .map_err(fault)?;
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    let file = match options.clone().create_new(true).open(&path) {
        Ok(file) => {
            made.push(path.clone());
            file
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            options.open(&path).map_err(fault)?
        }
        Err(error) => return Err(fault(error)),
    };
    if file.metadata().map_err(fault)?.len() < bytes {
        file.set_len(bytes).map_err(fault)?;
    }
    Ok(path)
}

/// Removes images that no guest has seen, and their folder where nothing else is in it.
pub(super) fn take_back(made: &[PathBuf], paths: &InstancePaths) -> io::Result<()> {
    if made.is_empty() {
        return Ok(());
    }
    made.iter().try_for_each(fs::remove_file)?;
    let dir = paths.volumes_dir();
    if fs::remove_dir(dir).is_ok()
        && let Some(namespace) = dir.parent()
    {
        let _ = fs::remove_dir(namespace);
    }
    Ok(())
}

fn image_path(volume: &Volume, paths: &InstancePaths) -> PathBuf {
    match VolumeName::try_from(volume.name.as_str()) {
        Ok(name) => paths.volume_image(&name),
        // A record that was tampered with must not lead out of the folder.
        Err(_) => paths.volumes_dir().join("invalid.img"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, paths::Paths, spec::StorageEntry};

    fn arg(text: &str) -> Result<VolumeArg, VolumeArgError> {
        text.parse()
    }

    #[test]
    fn every_form_of_the_flag_is_read() {
        let full = arg("db=64Mi:/var/lib/db,user=app,group=www,mode=0750").unwrap();
        assert_eq!(full.source, Source::Bytes(64 << 20));
        assert_eq!(full.mount_point.as_deref(), Some(Path::new("/var/lib/db")));
        assert_eq!(
            (full.user.as_deref(), full.mode.as_deref()),
            (Some("app"), Some("0750"))
        );
        assert_eq!(
            arg("a=/x/y.img").unwrap().source,
            Source::Path("/x/y.img".into())
        );
        for (wrong, said) in [
            ("db", "no size"),
            ("=1Gi", "empty"),
            ("db=", "size"),
            ("db=1Mi", "less than 4 MiB"),
            ("db=64Mb", "unit"),
            ("../x=64Mi", "volume name"),
            ("db=64Mi:data", "not absolute"),
            ("db=64Mi,uid=3", "uid=3"),
        ] {
            let error = arg(wrong).unwrap_err().to_string();
            assert!(error.contains(said), "{wrong}: {error}");
        }
    }

    fn closure() -> Extension {
        let entry = StorageEntry {
            size_bytes: Some(64 << 20),
            mount_point: "/seed/storage/data".into(),
            user: Some("app".into()),
            group: None,
            mode: Some("0750".into()),
        };
        let mut extension = Extension::default();
        extension
            .storage
            .insert(VolumeName::try_from("data").unwrap(), entry);
        extension
    }

    #[test]
    fn the_user_overrides_the_closure_field_by_field() {
        let args = [
            arg("data=1Gi,mode=0700").unwrap(),
            arg("more=16Mi").unwrap(),
        ];
        let volumes = join(&closure(), &args).unwrap();
        assert_eq!(volumes.len(), 2);
        assert_eq!(volumes[0].source, Source::Bytes(1 << 30));
        assert_eq!(volumes[0].mount_point, Path::new("/seed/storage/data"));
        assert_eq!(volumes[0].user.as_deref(), Some("app"));
        assert_eq!(volumes[0].mode.as_deref(), Some("0700"));
        assert_eq!(volumes[1].mount_point, Path::new("/seed/storage/more"));
        assert_eq!(
            join(&closure(), &[]).unwrap()[0].source,
            Source::Bytes(64 << 20)
        );
    }

    #[test]
    fn images_are_made_and_grown_but_never_shrunk() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            state_dir: dir.path().into(),
            ..Config::default()
        };
        let paths =
            Paths::new(&config).instance(&"default".parse().unwrap(), &"demo".parse().unwrap());
        let volumes = join(&closure(), &[]).unwrap();
        let mut made = Vec::new();
        let path = provide(&volumes[0], &paths, &mut made).unwrap();
        assert_eq!(made, [path.as_path()]);
        assert_eq!(path, dir.path().join("volumes/default/demo/data.img"));
        fs::write(&path, b"bytes of the guest").unwrap();
        for (size, expected) in [("8Mi", 8u64 << 20), ("16Mi", 16 << 20), ("4Mi", 16 << 20)] {
            let volumes = join(&closure(), &[arg(&format!("data={size}")).unwrap()]).unwrap();
            provide(&volumes[0], &paths, &mut made).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), expected);
        }
        assert!(fs::read(&path).unwrap().starts_with(b"bytes of the guest"));
        assert_eq!(
            made,
            [path.as_path()],
            "one that was there is not ours to remove"
        );
    }

    #[tokio::test]
    async fn a_start_in_vain_leaves_no_image_that_was_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            run_dir: dir.path().join("r"),
            state_dir: dir.path().join("s"),
            ..Config::default()
        };
        let instance = crate::containerd::instance::Instance::named(
            &Paths::new(&config),
            "default".parse().unwrap(),
            "demo".parse().unwrap(),
        );
        let paths = instance.paths();
        let mut record = crate::containerd::record::tests::sample();
        record.shim = dir.path().join("no-shim");
        record.volumes = join(&closure(), &[arg("more=16Mi").unwrap()]).unwrap();
        let old = provide(&record.volumes[0], paths, &mut Vec::new()).unwrap();
        let fresh = image_path(&record.volumes[1], paths);
        instance
            .start(record.clone(), false, |_| {})
            .await
            .unwrap_err();
        assert!(old.exists() && !fresh.exists());
        take_back(&[old], paths).unwrap();
        assert!(!paths.volumes_dir().exists());
    }
}
