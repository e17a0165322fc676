//! The `mounts` of an OCI specification: files and directories that the host shares, at the places where a
//! container engine wants them, and memory. The guest is a whole system, so what it makes for itself (`/proc`, `/dev`
//! and the like) is passed over, and what would take its own parts away is refused. Where it has memory already, that
//! gets the size that is asked for.
//!
//! A mount is there before systemd goes on. systemd takes it off at the end, as it does with every mount;
//! asking twice changes nothing. Sources are told in [`super::source`].
//!
//! Follows: OCI runtime specification 1.2, "Mounts"; the mounts of containerd's CRI plugin and of both Kata
//! shims (`/run/kata-containers/shared/containers/...`, `/run/kata-containers/sandbox/...`).

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, MountPropagationFlags, mount_change};
use tracing::info;

use super::{
    MountPoint, SpecError, VolumeSpec,
    options::MountOptions,
    real,
    share::{self, Kind, Share, ShareError},
    source::{by_descriptor, open_source},
    spec::RawStorage,
};
use crate::sys::{file, mount};

/// File systems that a guest has of its own.
const GUESTS_OWN: [&str; 14] = [
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "mqueue",
    "devpts",
    "devtmpfs",
    "securityfs",
    "debugfs",
    "tracefs",
    "bpf",
    "pstore",
    "configfs",
    "fusectl",
];

/// Where a guest has memory of its own, of which an engine's word means nothing to it.
const GUESTS_MEMORY: [&str; 4] = ["/dev", "/run", "/run/lock", "/sys"];

/// Where programs share memory: the guest's own, which may be given another size.
const SHARED_MEMORY: &str = "/dev/shm";

/// What engines say of that place when nobody asked for anything (containerd's `defaultMounts` of `pkg/oci/mounts.go`).
const ENGINES_SIZE: &str = "size=65536k";

/// The memory of a pod's containers in a Kata guest, which both Kata shims bind to that place.
const PODS_MEMORY: &str = "/run/kata-containers/sandbox/shm";

/// What Kubernetes wants in a tree that is otherwise the guest's own, beside shared memory: a container's last words.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// Trees in which nothing of the host's is mounted.
const TREES: [&str; 13] = [
    "/proc",
    "/sys",
    "/dev",
    "/boot",
    "/nix/store",
    "/nix/var",
    "/seed/tpm",
    "/etc/seed",
    "/run/seed",
    "/run/systemd",
    "/run/dbus",
    "/run/udev",
    "/run/wrappers",
];

/// Directories that hold the system: nothing is mounted on them, but below them it may be.
const DIRECTORIES: [&str; 20] = [
    "/",
    "/bin",
    "/etc",
    "/lib",
    "/lib64",
    "/nix",
    "/run",
    "/run/booted-system",
    "/run/current-system",
    "/run/kata-containers",
    "/sbin",
    "/seed",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/sbin",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/log/journal",
];

/// Where names are looked up. On NixOS its files are links into the store.
const ETC: &str = "/etc";

/// The store of NixOS.
const STORE: &str = "/nix/store";

/// An entry as it came.
#[derive(Debug, Clone, Default)]
pub struct RawMount {
    /// Where to.
    pub destination: String,
    /// Where from.
    pub source: String,
    /// `bind`, or a file system.
    pub kind: String,
    /// Mount options.
    pub options: Vec<String>,
}

/// An entry, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// What the host shares.
    Bind(Bind),
    /// Memory.
    Memory(Memory),
}

/// Memory at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    destination: PathBuf,
    options: MountOptions,
}

/// A file or directory at one more place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    source: MountPoint,
    destination: PathBuf,
    flags: MountFlags,
    /// The words that `flags` come from.
    words: Vec<String>,
    recursive: bool,
    propagation: Option<MountPropagationFlags>,
}

/// Checks all entries, in their order, and leaves out what the guest makes for itself.
pub fn parse(mounts: Vec<RawMount>) -> Result<Vec<Mount>, SpecError> {
    super::bounded(mounts.len())?;
    let parsed = mounts.into_iter().map(Mount::parse);
    parsed.filter_map(Result::transpose).collect()
}

/// A disk that is mounted at one place and bound to another is mounted at the other at once, with the options of
/// both: so it is joined to what the closure says of that place. Kata shims do so with volumes. The bind's
/// propagation is not taken over: the guest's own mounts are shared, as systemd wants them.
///
/// What comes back has it at the first place as well, where the host looks for it later (`GetVolumeStats`,
/// `ResizeVolume`).
pub fn straighten(disks: &mut [RawStorage], mounts: &mut Vec<Mount>) -> Vec<Share> {
    let mut known = Vec::new();
    for disk in disks {
        let Ok(place) = MountPoint::try_from(disk.mount_point.as_str()) else {
            continue;
        };
        let of_disk = |mount: &Mount| match mount {
            Mount::Bind(bind) => bind.source.as_path().starts_with(place.as_path()),
            Mount::Memory(_) => false,
        };
        let mut at = (0..mounts.len()).filter(|index| of_disk(&mounts[*index]));
        let (Some(index), None) = (at.next(), at.next()) else {
            continue;
        };
        let Mount::Bind(bind) = &mounts[index] else {
            continue;
        };
        let whole = bind.source == place && !bind.flags.contains(MountFlags::RDONLY);
        let destination = bind.destination.to_string_lossy().into_owned();
        if whole && MountPoint::try_from(destination.as_str()).is_ok() {
            // What the engine says of the place comes after what it says of the disk.
            disk.options.extend(bind.words.iter().cloned());
            known.push(Share {
                kind: Kind::Bind {
                    source: bind.destination.clone(),
                },
                mount_point: place,
                options: MountOptions::parse(&disk.options),
                group: None,
            });
            disk.mount_point = destination;
            mounts.remove(index);
        }
    }
    known
}

/// No two things at one place, whatever links lead there.
pub fn check_places(mounts: &[Mount], volumes: &[VolumeSpec]) -> Result<(), SpecError> {
    let mut taken = BTreeSet::new();
    let attached = volumes.iter().filter(|volume| volume.device.is_some());
    let volumes = attached.map(|volume| volume.mount_point.as_path());
    for place in volumes.chain(mounts.iter().map(Mount::destination)) {
        // A place that cannot be looked at is told of when it is mounted on.
        let there = real(place).unwrap_or_else(|_| place.to_owned());
        if !taken.insert(there) {
            let text = format!("the mount point {}", place.display());
            return Err(SpecError::Twice(text));
        }
    }
    Ok(())
}

impl Mount {
    fn parse(raw: RawMount) -> Result<Option<Self>, SpecError> {
        // The word counts and not the kind: to a Kata shim a folder for a pod is of the kind `local`.
        let mut words = raw.options.iter().flat_map(|word| word.split(','));
        let bound = words.any(|word| matches!(word, "bind" | "rbind"));
        let is_memory = raw.kind == "tmpfs";
        let is_bind = raw.kind == "bind" || (bound && !is_memory);
        if GUESTS_OWN.contains(&raw.kind.as_str()) {
            return Ok(None);
        }
        let destination = plain(&raw.destination)?;
        if !is_bind && !is_memory {
            return Err(SpecError::MountKind {
                kind: raw.kind,
                path: raw.destination,
            });
        }
        let at = |place: &&str| destination == Path::new(place);
        let nothing_asked = at(&SHARED_MEMORY) && is_engines(&raw, is_bind);
        if nothing_asked || (is_memory && GUESTS_MEMORY.iter().any(at)) {
            return Ok(None);
        }
        if is_bind {
            return Bind::parse(raw, destination).map(Self::Bind).map(Some);
        }
        allowed(&raw.destination, &destination)?;
        let options = MountOptions::parse(&raw.options);
        Ok(Some(Self::Memory(Memory {
            destination,
            options,
        })))
    }

    /// Where it goes.
    pub fn destination(&self) -> &Path {
        match self {
            Self::Bind(bind) => &bind.destination,
            Self::Memory(memory) => &memory.destination,
        }
    }

    /// Puts it in its place. What is there already stays. Blocks.
    pub fn bring_up(&self, shared: &Path) -> Result<(), ShareError> {
        match self {
            Self::Bind(bind) => bind.bring_up(shared),
            Self::Memory(memory) => memory.bring_up(shared),
        }
    }
}

impl Bind {
    fn parse(raw: RawMount, destination: PathBuf) -> Result<Self, SpecError> {
        allowed(&raw.destination, &destination)?;
        let mut options = Vec::new();
        let (mut recursive, mut propagation) = (false, None);
        for word in raw.options.iter().flat_map(|word| word.split(',')) {
            match word {
                "bind" => {}
                "rbind" => recursive = true,
                "rro" => return Err(SpecError::Option(word.to_owned())),
                _ => match propagation_of(word) {
                    Some(flags) => propagation = Some(flags),
                    // The file system's own words mean nothing to a bind.
                    None if MountOptions::parse(&[word]).data.is_empty() => {
                        options.push(word.to_owned());
                    }
                    None => {}
                },
            }
        }
        Ok(Self {
            source: MountPoint::try_from(raw.source.as_str())?,
            destination,
            flags: MountOptions::parse(&options).flags,
            words: options,
            recursive,
            propagation,
        })
    }

    fn bring_up(&self, shared: &Path) -> Result<(), ShareError> {
        let failed = |source| ShareError::Mount {
            mount_point: self.destination.clone(),
            source,
        };
        let open = open_source(self.source.as_path(), shared)?;
        let from = by_descriptor(&open);
        let original = fs::metadata(&from).map_err(failed)?;
        let place = place(&self.destination, original.is_dir())?;
        let same = fs::metadata(&place)
            .is_ok_and(|there| (there.dev(), there.ino()) == (original.dev(), original.ino()));
        if same && mount::mounted_at(&place).map_err(failed)?.is_some() {
            return Ok(());
        }
        mount::bind(&from, &place, self.flags, self.recursive).map_err(failed)?;
        if let Some(propagation) = self.propagation {
            mount_change(&place, propagation).map_err(|error| failed(error.into()))?;
        }
        info!(mount_point = %place.display(), "the host's mount is in place");
        Ok(())
    }
}

impl Memory {
    /// Mounts it. The guest's own memory gets the size and the flags.
    fn bring_up(&self, shared: &Path) -> Result<(), ShareError> {
        let place = place(&self.destination, true)?;
        let failed = |source| ShareError::Mount {
            mount_point: self.destination.clone(),
            source,
        };
        let there = mount::mounted_at(&place).map_err(failed)?;
        let memory = Share {
            kind: Kind::Ephemeral {
                filesystem: "tmpfs",
            },
            mount_point: MountPoint(place),
            options: self.options.clone(),
            group: None,
        };
        match there {
            Some(there) if there.filesystem == "tmpfs" => share::update_ephemeral(&memory),
            _ => share::bring_up(&memory, shared),
        }
    }
}

/// Whether this is what an engine says of the memory that programs share when nobody asked for any.
fn is_engines(raw: &RawMount, is_bind: bool) -> bool {
    if is_bind {
        return raw.source == PODS_MEMORY;
    }
    let mut words = raw.options.iter().flat_map(|word| word.split(','));
    let asks = |word: &str| word.starts_with("nr_") || word.starts_with("size=");
    !words.any(|word| asks(word) && word != ENGINES_SIZE)
}

/// The place itself, without links on the way, with something there to mount on.
fn place(destination: &Path, is_directory: bool) -> Result<PathBuf, ShareError> {
    let failed = |source| ShareError::Mount {
        mount_point: destination.to_owned(),
        source,
    };
    let elsewhere = |leads_to| ShareError::Elsewhere {
        mount_point: destination.to_owned(),
        leads_to,
    };
    let (Some(parent), Some(name)) = (destination.parent(), destination.file_name()) else {
        return Err(failed(io::ErrorKind::InvalidFilename.into()));
    };
    let parent = real(parent).map_err(failed)?;
    let place = parent.join(name);
    if forbidden(&place).is_some() {
        return Err(elsewhere(place));
    }
    let is_link = fs::symlink_metadata(&place).is_ok_and(|there| there.is_symlink());
    if is_link {
        let in_etc = place.starts_with(ETC) && !is_directory;
        match fs::canonicalize(&place) {
            Ok(target) if forbidden(&target).is_none() => return Ok(target),
            // Nobody but the link leads to that file.
            Ok(target) if in_etc && target.starts_with(STORE) => return Ok(target),
            // Another program's file, that is made anew or not made yet: the link is covered, not followed.
            _ if in_etc => return Ok(place),
            Ok(target) => return Err(elsewhere(target)),
            Err(error) => return Err(failed(error)),
        }
    }
    if is_directory {
        file::make_directories(&place).map_err(failed)?;
    } else {
        file::make_directories(&parent).map_err(failed)?;
        file::make_empty(&place).map_err(failed)?;
    }
    Ok(place)
}

/// The path in its plain form.
fn plain(text: &str) -> Result<PathBuf, SpecError> {
    match MountPoint::plain(text) {
        Ok(path) => Ok(path),
        Err(reason) => Err(SpecError::Destination {
            path: text.to_owned(),
            reason,
        }),
    }
}

/// Refuses a place where nothing of the host's may be.
fn allowed(text: &str, destination: &Path) -> Result<(), SpecError> {
    match forbidden(destination) {
        Some(reason) => Err(SpecError::Destination {
            path: text.to_owned(),
            reason,
        }),
        None => Ok(()),
    }
}

/// Why nothing of the host's may be there, if it may not.
fn forbidden(place: &Path) -> Option<&'static str> {
    let wanted = [TERMINATION_LOG, SHARED_MEMORY];
    if wanted.iter().any(|each| place == Path::new(each)) {
        return None;
    }
    if TREES.iter().any(|tree| place.starts_with(tree)) {
        return Some("the place belongs to the system");
    }
    let directory = |directory: &str| place == Path::new(directory);
    let covered = DIRECTORIES.iter().any(|each| directory(each));
    covered.then_some("it would cover the system")
}

fn propagation_of(word: &str) -> Option<MountPropagationFlags> {
    let (word, recursive) = match word {
        "rprivate" | "rslave" | "rshared" | "runbindable" => (&word[1..], true),
        _ => (word, false),
    };
    let flags = match word {
        "private" => MountPropagationFlags::PRIVATE,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "shared" => MountPropagationFlags::SHARED,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    Some(match recursive {
        true => flags | MountPropagationFlags::REC,
        false => flags,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "/run/kata-containers/shared/containers/0-hosts";

    fn raw(kind: &str, destination: &str, options: &[&str]) -> RawMount {
        RawMount {
            destination: destination.to_owned(),
            source: SOURCE.to_owned(),
            kind: kind.to_owned(),
            options: options.iter().map(|word| (*word).to_owned()).collect(),
        }
    }

    fn bind(destination: &str) -> Result<Vec<Mount>, SpecError> {
        parse(vec![raw("bind", destination, &["rbind", "rprivate", "ro"])])
    }

    #[test]
    fn what_the_guest_makes_itself_is_passed_over() {
        let own = [
            raw("proc", "/proc", &[]),
            raw("tmpfs", "/dev", &["mode=755"]),
            raw("devpts", "/dev/pts", &[]),
            raw("mqueue", "/dev/mqueue", &[]),
            raw("sysfs", "/sys", &["ro"]),
            raw("cgroup", "/sys/fs/cgroup", &["ro"]),
            raw("tmpfs", "/dev/shm", &[]),
            raw("tmpfs", "/dev/shm", &["noexec", "mode=1777", "size=65536k"]),
            raw("tmpfs", "/run", &["size=65536k"]),
            RawMount {
                source: PODS_MEMORY.to_owned(),
                ..raw("bind", "/dev/shm", &["rbind"])
            },
        ];
        assert_eq!(parse(own.to_vec()).unwrap(), []);
    }

    #[test]
    fn memory_that_somebody_asked_for_is_taken() {
        let all = [
            raw("tmpfs", "/scratch", &["size=1m", "mode=0700,ro"]),
            raw("tmpfs", "/tmp", &[]),
            raw("tmpfs", "/run/app", &[]),
            raw("tmpfs", "/dev/shm", &["noexec", "mode=1777", "size=1g"]),
            raw("bind", "/dev/shm", &["rbind"]),
        ];
        let taken = parse(all.to_vec()).unwrap();
        let places: Vec<_> = taken.iter().map(Mount::destination).collect();
        let wanted = ["/scratch", "/tmp", "/run/app", "/dev/shm", "/dev/shm"];
        assert_eq!(places, wanted.map(Path::new));
        let Mount::Memory(memory) = &taken[0] else {
            panic!("memory is wanted")
        };
        assert_eq!(memory.options.data, "size=1m,mode=0700");
        assert!(memory.options.read_only());
        // A pod's own, and not the one that every container of a pod has.
        assert!(matches!(taken[4], Mount::Bind(_)));
        for place in ["/etc", "/run/systemd", "/dev/sda", "relative"] {
            let refused = parse(vec![raw("tmpfs", place, &[])]).unwrap_err();
            assert!(matches!(refused, SpecError::Destination { .. }), "{place}");
        }
    }

    #[test]
    fn what_kubernetes_wants_is_taken() {
        for place in [
            "/etc/hosts",
            "/etc/resolv.conf",
            "/etc/hostname",
            "/dev/termination-log",
            "/var/run/secrets/kubernetes.io/serviceaccount",
            "/usr/share/nginx/html",
            "/config",
        ] {
            assert_eq!(bind(place).unwrap().len(), 1, "{place}");
        }
        let mounts = bind("/etc/hosts").unwrap();
        let Mount::Bind(bind) = &mounts[0] else {
            panic!("a bind is wanted")
        };
        let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
        assert_eq!((bind.flags, bind.recursive), (flags, true));
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        assert_eq!(bind.propagation, Some(private));
    }

    #[test]
    fn what_would_take_the_system_away_is_refused_by_name() {
        for place in [
            "/",
            "//",
            "/proc",
            "/proc/1",
            "/sys/fs",
            "/dev/sda",
            "/run",
            "/run/seed/env",
            "/run/systemd/x",
            "/nix/store/abc",
            "/etc",
            "/etc/seed/instance.json",
            "/usr",
            "/bin",
            "/a/../proc",
            "relative",
            "",
            "/a\n",
        ] {
            let error = bind(place).unwrap_err();
            assert!(matches!(error, SpecError::Destination { .. }), "{error}");
            assert!(error.to_string().contains(&format!("{place:?}")), "{error}");
        }
        let odd = parse(vec![raw("nfs", "/dev/shm", &[])]).unwrap_err();
        assert!(matches!(odd, SpecError::MountKind { .. }));
        let odd = parse(vec![raw("nfs", "/mnt", &[])]).unwrap_err();
        assert_eq!(
            odd.to_string(),
            "a mount of type \"nfs\" at \"/mnt\" is not supported: bind and tmpfs are"
        );
        for (kind, options) in [
            ("local", &["rbind", "rprivate", "rw"]),
            ("", &["ro", "bind", "exec"]),
        ] {
            let mounts = parse(vec![raw(kind, "/mnt", options)]).unwrap();
            assert!(matches!(mounts[..], [Mount::Bind(_)]), "{kind}");
        }
        assert!(parse(vec![raw("bind", "/mnt", &["rro"])]).is_err());
        let mut from = raw("bind", "/mnt", &[]);
        from.source = "/etc".to_owned();
        assert!(parse(vec![from]).is_err());
    }

    #[test]
    fn a_disk_that_is_bound_elsewhere_goes_there_at_once() {
        let place = "/run/kata-containers/sandbox/storage/ZGF0YQ";
        let disk = || RawStorage {
            driver: "blk".to_owned(),
            mount_point: place.to_owned(),
            ..RawStorage::default()
        };
        let bound = |source: String, options: &[&str]| {
            let mut mount = raw("bind", "/seed/storage/data", options);
            mount.source = source;
            parse(vec![mount]).unwrap()
        };
        let (mut disks, mut mounts) = ([disk()], bound(place.to_owned(), &["rbind"]));
        let known = straighten(&mut disks, &mut mounts);
        assert_eq!(
            (disks[0].mount_point.as_str(), mounts.len()),
            ("/seed/storage/data", 0)
        );
        assert_eq!(known[0].mount_point.to_string(), place);
        let source = "/seed/storage/data".into();
        assert_eq!(known[0].kind, Kind::Bind { source });
        // With what the engine says of the place, and nothing that is no flag.
        let mut disks = [disk()];
        disks[0].options = vec!["noatime".to_owned(), "exec".to_owned()];
        let options = ["rbind,rprivate", "noexec", "size=1m"];
        let known = straighten(&mut disks, &mut bound(place.to_owned(), &options));
        assert!(known[0].options.flags.contains(MountFlags::NOEXEC));
        assert_eq!(disks[0].options, ["noatime", "exec", "noexec"]);
        // Only read, or only a part of it: both places are needed.
        for mounts in [
            bound(place.to_owned(), &["ro"]),
            bound(format!("{place}/sub"), &[]),
        ] {
            let (mut disks, mut left) = ([disk()], mounts);
            assert!(straighten(&mut disks, &mut left).is_empty());
            assert_eq!((disks[0].mount_point.as_str(), left.len()), (place, 1));
        }
    }

    #[test]
    fn two_mounts_at_one_place_are_refused() {
        let mounts = parse(vec![raw("bind", "/a", &[]), raw("bind", "/a/", &[])]).unwrap();
        assert!(check_places(&mounts[..1], &[]).is_ok());
        assert!(matches!(
            check_places(&mounts, &[]),
            Err(SpecError::Twice(_))
        ));
    }
}
