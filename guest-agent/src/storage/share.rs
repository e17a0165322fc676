//! Storage that is no disk: what a Kata shim shares, keeps in memory, or puts together from other places.
//!
//! | driver | what it becomes |
//! |---|---|
//! | `virtio-fs` | the host's share, by its tag |
//! | `ephemeral` | memory (`tmpfs`, `hugetlbfs`) |
//! | `local` | a directory of the guest |
//! | `bind` | a file or directory that is there already, at one more place |
//! | `overlayfs` | layers that are there already |
//! | `watchable-bind` | a copy that follows its original ([`super::watch`]) |
//!
//! Where sources may be is told in [`super::source`].

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, mount_remount};
use thiserror::Error;
use tracing::info;

use super::{
    MountPoint, SpecError,
    group::{self, FsGroup},
    options::MountOptions,
    owner::Mode,
    source::{by_descriptor, open_source, origin},
    spec::RawStorage,
    watch,
};
use crate::sys::{file, mount};

/// The longest tag, `virtio_fs_config` of `linux/virtio_fs.h`.
const MAX_TAG_BYTES: usize = 36;

/// What memory a copy that follows its original may take: more than it may hold, for both sides of a change.
const WATCHED_TMPFS: &str = "mode=0755,size=4m";

/// One entry, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// What it is.
    pub kind: Kind,
    /// Where it goes.
    pub mount_point: MountPoint,
    /// How it is mounted.
    pub options: MountOptions,
    /// The group that its files shall have.
    pub group: Option<FsGroup>,
}

/// What a share is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The host's directory.
    VirtioFs {
        /// How it is recognised.
        tag: String,
    },
    /// Memory.
    Ephemeral {
        /// `tmpfs` or `hugetlbfs`.
        filesystem: &'static str,
    },
    /// A directory of the guest.
    Local {
        /// Its mode.
        mode: Option<Mode>,
    },
    /// What is there already.
    Bind {
        /// Where.
        source: PathBuf,
    },
    /// Layers.
    Overlay {
        /// Every directory that is named, the first of them on top.
        lower: Vec<PathBuf>,
        /// Where changes go, and the directory that the file system needs for that.
        upper: Option<(PathBuf, PathBuf)>,
    },
    /// A copy of this that follows it.
    Watchable {
        /// The original.
        source: PathBuf,
    },
}

/// Why a share is not in its place.
#[derive(Debug, Error)]
pub enum ShareError {
    /// It could not be mounted or made.
    #[error("{} cannot be mounted: {source}", mount_point.display())]
    Mount {
        /// Where.
        mount_point: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its source is no place to take anything from.
    #[error("{} cannot be taken from: {source}", path.display())]
    Source {
        /// The source.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A link leads somewhere else.
    #[error("{} leads to another place, {}", mount_point.display(), leads_to.display())]
    Elsewhere {
        /// The place that was named.
        mount_point: PathBuf,
        /// The place that it is.
        leads_to: PathBuf,
    },
}

impl TryFrom<RawStorage> for Share {
    type Error = SpecError;

    fn try_from(storage: RawStorage) -> Result<Self, SpecError> {
        let RawStorage {
            driver,
            driver_options: _,
            source,
            fstype,
            options: words,
            mount_point,
            group,
        } = storage;
        let mount_point = MountPoint::try_from(mount_point.as_str())?;
        let mut group = group;
        let mut own = Vec::new();
        let (mut mode, mut layers) = (None, Layers::default());
        for word in words.iter().flat_map(|word| word.split(',')) {
            match word.split_once('=') {
                Some(("fsgid", gid)) => group = Some(fsgid(gid)?),
                Some(("mode", text)) if driver == "local" => mode = Some(Mode::try_from(text)?),
                Some((key, text)) if driver == "overlayfs" && layers.take(key, text)? => {}
                _ => own.push(word.to_owned()),
            }
        }
        let kind = match driver.as_str() {
            "virtio-fs" => Kind::VirtioFs { tag: tag(source)? },
            "ephemeral" => Kind::Ephemeral {
                filesystem: match fstype.as_str() {
                    "" | "tmpfs" => "tmpfs",
                    "hugetlbfs" => "hugetlbfs",
                    other => return Err(SpecError::Filesystem(other.to_owned())),
                },
            },
            "local" => Kind::Local { mode },
            "bind" => Kind::Bind {
                source: origin(&source)?,
            },
            "watchable-bind" => Kind::Watchable {
                source: origin(&source)?,
            },
            "overlayfs" => layers.kind()?,
            _ => return Err(SpecError::Driver(driver)),
        };
        Ok(Self {
            kind,
            mount_point,
            options: MountOptions::parse(&own),
            group,
        })
    }
}

#[derive(Default)]
struct Layers {
    lower: Vec<PathBuf>,
    upper: Option<PathBuf>,
    work: Option<PathBuf>,
}

impl Layers {
    /// True for an option that names a directory.
    fn take(&mut self, key: &str, text: &str) -> Result<bool, SpecError> {
        match key {
            "lowerdir" => {
                let all: Result<Vec<_>, _> = text.split(':').map(origin).collect();
                self.lower = all?;
            }
            "upperdir" => self.upper = Some(origin(text)?),
            "workdir" => self.work = Some(origin(text)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn kind(self) -> Result<Kind, SpecError> {
        let odd = || SpecError::Option("lowerdir, and both or none of upperdir and workdir".into());
        let upper = match (self.upper, self.work) {
            (Some(upper), Some(work)) => Some((upper, work)),
            (None, None) => None,
            _ => return Err(odd()),
        };
        if self.lower.is_empty() {
            return Err(odd());
        }
        let lower = self.lower;
        Ok(Kind::Overlay { lower, upper })
    }
}

fn tag(source: String) -> Result<String, SpecError> {
    let plain = source.chars().all(|c| c.is_ascii_graphic());
    if source.is_empty() || source.len() > MAX_TAG_BYTES || !plain {
        return Err(SpecError::NoDevice(source.chars().take(64).collect()));
    }
    Ok(source)
}

fn fsgid(text: &str) -> Result<FsGroup, SpecError> {
    let gid = text
        .parse()
        .map_err(|_| SpecError::Option(format!("fsgid={text}")))?;
    Ok(FsGroup {
        gid,
        policy: group::Policy::Always,
    })
}

/// Puts `share` in its place. What is there already stays. Blocks.
pub fn bring_up(share: &Share, shared: &Path) -> Result<(), ShareError> {
    let place = share.mount_point.as_path();
    let failed = |source| ShareError::Mount {
        mount_point: place.to_owned(),
        source,
    };
    let mounts = !matches!(share.kind, Kind::Local { .. });
    if mounts && mount::mounted_at(place).map_err(failed)?.is_some() {
        return Ok(());
    }
    let (flags, data) = (share.options.flags, share.options.data.as_str());
    match &share.kind {
        Kind::VirtioFs { tag } => {
            directory(place)?;
            mount::mount(Path::new(tag), place, "virtiofs", flags, data).map_err(failed)?;
        }
        Kind::Ephemeral { filesystem } => {
            directory(place)?;
            let source = Path::new(filesystem);
            mount::mount(source, place, filesystem, flags, data).map_err(failed)?;
        }
        Kind::Local { mode } => {
            directory(place)?;
            if let Some(mode) = mode {
                let mode = fs::Permissions::from_mode(mode.bits());
                fs::set_permissions(place, mode).map_err(failed)?;
            }
        }
        Kind::Bind { source } => bind(source, share, shared)?,
        Kind::Overlay { lower, upper } => overlay(share, lower, upper.as_ref(), shared)?,
        Kind::Watchable { source } => watchable(source, share, shared)?,
    }
    if let Some(group) = share.group.filter(|_| !share.options.read_only()) {
        group::apply(place, group).map_err(failed)?;
    }
    info!(mount_point = %share.mount_point, "storage is in place");
    Ok(())
}

/// Gives memory that is mounted already a new size and new flags.
pub fn update_ephemeral(share: &Share) -> Result<(), ShareError> {
    let place = share.mount_point.as_path();
    let failed = |source| ShareError::Mount {
        mount_point: place.to_owned(),
        source,
    };
    let mounted = mount::mounted_at(place).map_err(failed)?;
    if mounted.is_none_or(|mounted| mounted.filesystem != "tmpfs") {
        let text = "there is no memory mounted";
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, text)));
    }
    let data = std::ffi::CString::new(share.options.data.as_str());
    let data = data.map_err(|error| failed(error.into()))?;
    mount_remount(place, share.options.flags, data.as_c_str()).map_err(|error| failed(error.into()))
}

/// Makes the directory, and makes sure that no link on the way leads to another place.
fn directory(place: &Path) -> Result<(), ShareError> {
    let failed = |source| ShareError::Mount {
        mount_point: place.to_owned(),
        source,
    };
    file::make_directories(place).map_err(failed)?;
    here(place)
}

fn here(place: &Path) -> Result<(), ShareError> {
    let failed = |source| ShareError::Mount {
        mount_point: place.to_owned(),
        source,
    };
    let text = place.to_str().unwrap_or_default();
    let Ok(point) = MountPoint::try_from(text) else {
        // The folder above a file may be one that holds other parts, such as `/var`.
        return Ok(());
    };
    match point.leads_away().map_err(failed)? {
        None => Ok(()),
        Some(leads_to) => Err(ShareError::Elsewhere {
            mount_point: place.to_owned(),
            leads_to,
        }),
    }
}

fn bind(source: &Path, share: &Share, shared: &Path) -> Result<(), ShareError> {
    let place = share.mount_point.as_path();
    let failed = |source| ShareError::Mount {
        mount_point: place.to_owned(),
        source,
    };
    let open = open_source(source, shared)?;
    let from = by_descriptor(&open);
    if fs::metadata(&from).map_err(failed)?.is_dir() {
        directory(place)?;
    } else {
        if let Some(parent) = place.parent() {
            directory(parent)?;
        }
        file::make_empty(place).map_err(failed)?;
        here(place)?;
    }
    mount::bind(&from, place, share.options.flags, true).map_err(failed)
}

fn overlay(
    share: &Share,
    lower: &[PathBuf],
    upper: Option<&(PathBuf, PathBuf)>,
    shared: &Path,
) -> Result<(), ShareError> {
    let place = share.mount_point.as_path();
    directory(place)?;
    // Held open until the mount is made, so that the names lead where they were looked at.
    let mut open = Vec::new();
    let mut layers = Vec::new();
    for path in lower {
        let layer = open_source(path, shared)?;
        layers.push(by_descriptor(&layer).display().to_string());
        open.push(layer);
    }
    let mut data = format!("lowerdir={}", layers.join(":"));
    if let Some((upper, work)) = upper {
        for (key, path) in [("upperdir", upper), ("workdir", work)] {
            directory(path)?;
            let layer = open_source(path, shared)?;
            data.push_str(&format!(",{key}={}", by_descriptor(&layer).display()));
            open.push(layer);
        }
    }
    if !share.options.data.is_empty() {
        data.push(',');
        data.push_str(&share.options.data);
    }
    let mounted = mount::mount(
        Path::new("overlay"),
        place,
        "overlay",
        share.options.flags,
        &data,
    );
    drop(open);
    mounted.map_err(|source| ShareError::Mount {
        mount_point: place.to_owned(),
        source,
    })
}

/// A directory that is small enough is copied and followed; anything else is bound.
fn watchable(source: &Path, share: &Share, shared: &Path) -> Result<(), ShareError> {
    let place = share.mount_point.as_path();
    let failed = |source| ShareError::Mount {
        mount_point: place.to_owned(),
        source,
    };
    let open = open_source(source, shared)?;
    let is_directory = fs::metadata(by_descriptor(&open)).map_err(failed)?.is_dir();
    let small = is_directory && watch::fits(&by_descriptor(&open)).map_err(failed)?;
    if !small {
        return bind(source, share, shared);
    }
    directory(place)?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    let name = watch::mount_source(source);
    mount::mount(&name, place, "tmpfs", flags, WATCHED_TMPFS).map_err(failed)?;
    watch::follow(open, place).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(driver: &str, source: &str, options: &[&str]) -> RawStorage {
        RawStorage {
            driver: driver.into(),
            source: source.into(),
            options: options.iter().map(|word| (*word).to_owned()).collect(),
            mount_point: "/run/kata-containers/sandbox/x".into(),
            ..RawStorage::default()
        }
    }

    #[test]
    fn a_shims_entries_are_understood() {
        let shm = Share::try_from(raw(
            "ephemeral",
            "shm",
            &["noexec", "mode=1777", "size=67108864"],
        ));
        let shm = shm.unwrap();
        assert_eq!(shm.options.data, "mode=1777,size=67108864");
        assert!(shm.options.flags.contains(MountFlags::NOEXEC));
        let local = Share::try_from(raw("local", "", &["mode=0777", "fsgid=1000"])).unwrap();
        assert_eq!(local.group.map(|group| group.gid), Some(1000));
        let mode = Some(Mode::try_from("0777").unwrap());
        assert_eq!(local.kind, Kind::Local { mode });
        let share = Share::try_from(raw("virtio-fs", "kataShared", &["nodev"])).unwrap();
        let tag = "kataShared".to_owned();
        assert_eq!(share.kind, Kind::VirtioFs { tag });
        let layers = [
            "lowerdir=/srv/a:/srv/b,upperdir=/srv/u",
            "workdir=/srv/w",
            "index=off",
        ];
        let overlay = Share::try_from(raw("overlayfs", "", &layers)).unwrap();
        assert_eq!(overlay.options.data, "index=off");
        let Kind::Overlay { lower, upper } = overlay.kind else {
            panic!("an overlay is wanted")
        };
        assert_eq!((lower.len(), upper.is_some()), (2, true));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (driver, source, options) in [
            ("virtio-fs", "", &[][..]),
            ("bind", "relative", &[]),
            ("bind", "/etc", &[]),
            ("bind", "/srv/../etc", &[]),
            ("watchable-bind", "/proc/1", &[]),
            ("local", "", &["mode=999"]),
            ("local", "", &["fsgid=root"]),
            ("overlayfs", "", &[]),
            ("overlayfs", "", &["lowerdir=/etc"]),
            ("overlayfs", "", &["lowerdir=/srv/a", "upperdir=/srv/u"]),
            ("9p", "x", &[]),
        ] {
            let refused = Share::try_from(raw(driver, source, options));
            assert!(refused.is_err(), "{driver} {source} {options:?}");
        }
        let mut over = raw("ephemeral", "shm", &[]);
        over.mount_point = "/run/systemd".into();
        assert!(Share::try_from(over).is_err());
    }
}
