//! Brings up one volume after the other: wait for the device, make a file system when it is blank,
//! check, mount, grow, set owner and mode of the mount point.
//!
//! ```text
//! device --> probe --blank------> mkfs --> mount --> grow --> owner, mode --> done
//!    |         |--known fs----> fsck -----^            |         |
//!    |         |--other data-> problem                 |         +-> problem, owner left as it is
//!    +-never-> problem           +-damaged-> problem   +-> problem, mounted as it is
//! ```
//!
//! Every failure is a sentence in [`Volume::problem`] and leaves the data as it is. A place whose volume is not
//! mounted is sealed: nobody's data shall go to the root in its stead, where nobody looks for it.

use std::{
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::mount::MountFlags;
use thiserror::Error;
use tracing::{info, warn};

use super::{
    DeviceRef, Filesystem, VolumeSpec, group,
    making::{self, MakeError},
    owner::{self, OwnerError},
    probe::{self, Contents},
    real,
};
use crate::sys::{
    block,
    command::{self, CommandError},
    file, mount,
};

/// How often a device is looked for.
const DEVICE_POLL: Duration = Duration::from_millis(20);

/// How long a check or a growth may take: a full check of a large file system is slow, and giving it up
/// half-way would leave the volume unmounted.
const FSCK_LIMIT: Duration = Duration::from_secs(1800);

/// Exit statuses of `e2fsck(8)` below this one mean that the file system is good now: 1 is "errors
/// corrected", 2 "and reboot", which matters for a mounted one only.
const FSCK_UNCORRECTED: i32 = 4;

/// What `mount(8)` shows as the source of a seal.
const SEAL: &str = "seed-volume-missing";

/// How a seal is mounted.
const SEAL_FLAGS: MountFlags = MountFlags::RDONLY
    .union(MountFlags::NODEV)
    .union(MountFlags::NOSUID)
    .union(MountFlags::NOEXEC);

/// Where things are; tests have their own.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The kernel's list of block devices.
    pub sys_block: PathBuf,
    /// The kernel's tree of devices.
    pub sys_devices: PathBuf,
    /// Device nodes.
    pub dev: PathBuf,
    /// `passwd` and `group`.
    pub etc: PathBuf,
    /// udev's rules of this boot.
    pub udev_rules: PathBuf,
    /// How long a device may take to appear.
    pub device_limit: Duration,
}

/// What became of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Where it belongs.
    pub mount_point: PathBuf,
    /// The file system that is mounted.
    pub filesystem: String,
    /// The file system was made just now.
    pub created: bool,
    /// The room that it has; 0 when it is not mounted.
    pub size_bytes: u64,
    /// What went wrong, in one sentence.
    pub problem: Option<String>,
}

/// Why a volume is not mounted, or not as it should be.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum BlockError {
    #[error("the host attached no device for it")]
    NoDevice,
    #[error("{device} did not appear within {} s", limit.as_secs())]
    Missing { device: DeviceRef, limit: Duration },
    #[error("{device} cannot be looked for: {source}")]
    Search {
        device: DeviceRef,
        source: io::Error,
    },
    #[error("{} cannot be read: {source}", node.display())]
    Probe { node: PathBuf, source: io::Error },
    #[error("{} holds {found}, not a file system of ours; it is left as it is", node.display())]
    Foreign { node: PathBuf, found: &'static str },
    #[error(
        "{} holds data but no file system that is known; it may be damaged and is never formatted",
        node.display()
    )]
    Unknown { node: PathBuf },
    #[error("{} is blank but read-only, or shall hold what is made elsewhere, so no file system can be made", node.display())]
    BlankReadOnly { node: PathBuf },
    #[error(transparent)]
    Make(#[from] MakeError),
    #[error("the mark of a new file system cannot be taken off {}: {source}", node.display())]
    Unmark { node: PathBuf, source: io::Error },
    #[error("the file system could not be checked: {0}")]
    Fsck(CommandError),
    #[error(
        "the file system on {} is damaged and is never reformatted; repair it by hand with e2fsck: {words}",
        node.display()
    )]
    Damaged { node: PathBuf, words: String },
    #[error("{} is already mounted from {}", mount_point.display(), source_node.display())]
    Occupied {
        mount_point: PathBuf,
        source_node: PathBuf,
    },
    #[error("{} leads to another place, {}", mount_point.display(), leads_to.display())]
    Elsewhere {
        mount_point: PathBuf,
        leads_to: PathBuf,
    },
    #[error("{} cannot be looked at: {source}", mount_point.display())]
    Place {
        mount_point: PathBuf,
        source: io::Error,
    },
    #[error("the seal at {} cannot be taken off: {source}", mount_point.display())]
    Sealed {
        mount_point: PathBuf,
        source: io::Error,
    },
    #[error("{} cannot be mounted at {}: {source}", node.display(), mount_point.display())]
    Mount {
        node: PathBuf,
        mount_point: PathBuf,
        source: io::Error,
    },
    #[error("the file system could not grow to its device: {0}")]
    Grow(String),
    #[error(transparent)]
    Owner(#[from] OwnerError),
    #[error("files of {} cannot be given to group {gid}: {source}", mount_point.display())]
    Group {
        mount_point: PathBuf,
        gid: u32,
        source: io::Error,
    },
    #[error("owner and mode of {} cannot be set: {source}", mount_point.display())]
    Own {
        mount_point: PathBuf,
        source: io::Error,
    },
}

/// Brings up `specs` in their order. Blocks; belongs on a thread of its own.
pub fn provision(specs: &[VolumeSpec], settings: &Settings) -> Vec<Volume> {
    specs
        .iter()
        .map(|spec| provision_one(spec, settings))
        .collect()
}

/// Has an empty, read-only file system at the place, which nobody may enter, until the volume is there.
fn seal(spec: &VolumeSpec) -> io::Result<()> {
    let place = &real_place(spec)?;
    if mount::mounted_at(place)?.is_some() {
        return Ok(());
    }
    file::make_directories(place)?;
    if spec.mount_point.leads_away()?.is_some() {
        return Ok(());
    }
    let (source, flags) = (Path::new(SEAL), SEAL_FLAGS);
    mount::mount(source, place, "tmpfs", flags, "mode=0000,size=4k")
}

fn real_place(spec: &VolumeSpec) -> io::Result<PathBuf> {
    real(spec.mount_point.as_path())
}

/// Takes the seal off, for the volume.
fn unseal(place: &Path) -> io::Result<()> {
    let is_seal = |mounted: mount::Mounted| mounted.source == Path::new(SEAL);
    if mount::mounted_at(place)?.is_some_and(is_seal) {
        // Somebody may be looking at it.
        mount::detach(place)?;
    }
    Ok(())
}

fn provision_one(spec: &VolumeSpec, settings: &Settings) -> Volume {
    let mut volume = Volume {
        name: spec.name.to_string(),
        mount_point: spec.mount_point.as_path().to_owned(),
        filesystem: spec.filesystem.name().to_owned(),
        created: false,
        size_bytes: 0,
        problem: None,
    };
    let outcome = bring_up(spec, settings, &mut volume);
    volume.problem = outcome
        .err()
        .map(|error| error.to_string())
        .or_else(|| spec.doubt.clone());
    if volume.problem.is_some()
        && let Err(error) = seal(spec)
    {
        warn!(volume = volume.name, %error, "the place of a volume cannot be sealed");
    }
    let (name, created) = (volume.name.as_str(), volume.created);
    match &volume.problem {
        None => info!(volume = name, created, "volume is mounted"),
        Some(problem) => warn!(volume = name, created, %problem, "volume is not as it should be"),
    }
    volume
}

fn bring_up(spec: &VolumeSpec, settings: &Settings, volume: &mut Volume) -> Result<(), BlockError> {
    // Without links on the way: the kernel's table of mounts has none, either.
    let place = real_place(spec).map_err(|source| BlockError::Place {
        mount_point: spec.mount_point.as_path().to_owned(),
        source,
    })?;
    let mount_point = place.as_path();
    unseal(mount_point).map_err(|source| BlockError::Sealed {
        mount_point: mount_point.to_owned(),
        source,
    })?;
    let node = wait_for(spec.device.as_ref().ok_or(BlockError::NoDevice)?, settings)?;
    if !is_mounted_from(mount_point, &node)? {
        let filesystem = prepare(spec, &node, volume)?;
        let mounting = |source| BlockError::Mount {
            node: node.clone(),
            mount_point: mount_point.to_owned(),
            source,
        };
        file::make_directories(mount_point).map_err(mounting)?;
        if let Some(leads_to) = spec.mount_point.leads_away().map_err(mounting)? {
            return Err(BlockError::Elsewhere {
                mount_point: mount_point.to_owned(),
                leads_to,
            });
        }
        let (flags, data) = (spec.options.flags, spec.options.data.as_str());
        let mount = || mount::mount(&node, mount_point, filesystem.name(), flags, data);
        match mount() {
            // In good order by its own word, and damaged: the program mends it, or says what is wrong.
            Err(_) if filesystem == Filesystem::Ext4 && !spec.options.read_only() => {
                run_e2fsck(&node)?;
                mount().map_err(mounting)?;
            }
            mounted => mounted.map_err(mounting)?,
        }
    }
    volume.size_bytes = mount::size(mount_point).unwrap_or_default();
    let owned = own(spec, settings).and_then(|()| give_to_group(spec));
    if !spec.options.read_only() && !volume.created {
        grow(spec, &node, volume, settings)?;
    }
    owned
}

/// The node of the device, as soon as there is one.
pub(super) fn wait_for(device: &DeviceRef, settings: &Settings) -> Result<PathBuf, BlockError> {
    let deadline = Instant::now() + settings.device_limit;
    loop {
        let node = match device {
            DeviceRef::Serial(serial) => block::find_by_serial(&settings.sys_block, serial)
                .map_err(|source| BlockError::Search {
                    device: device.clone(),
                    source,
                })?
                .map(|name| settings.dev.join(name)),
            DeviceRef::Path(path) => Some(path.clone()),
            DeviceRef::Pci(path) => path
                .find_class(&settings.sys_devices, "block")
                .map_err(|source| BlockError::Search {
                    device: device.clone(),
                    source,
                })?
                .map(|name| settings.dev.join(name)),
        };
        if let Some(node) = node.filter(|node| node.exists()) {
            return Ok(node);
        }
        if Instant::now() >= deadline {
            let limit = settings.device_limit;
            return Err(BlockError::Missing {
                device: device.clone(),
                limit,
            });
        }
        thread::sleep(DEVICE_POLL);
    }
}

/// True when the volume is mounted already: the agent has started again, or was asked twice.
fn is_mounted_from(mount_point: &Path, node: &Path) -> Result<bool, BlockError> {
    let mounted = mount::mounted_at(mount_point).map_err(|source| BlockError::Mount {
        node: node.to_owned(),
        mount_point: mount_point.to_owned(),
        source,
    })?;
    match mounted {
        None => Ok(false),
        Some(mounted) if mounted.source == node => Ok(true),
        Some(mounted) => Err(BlockError::Occupied {
            mount_point: mount_point.to_owned(),
            source_node: mounted.source,
        }),
    }
}

/// Makes sure that there is a good file system, and says which.
fn prepare(spec: &VolumeSpec, node: &Path, volume: &mut Volume) -> Result<Filesystem, BlockError> {
    let node_buf = || node.to_owned();
    let contents = probe::probe(node).map_err(|source| BlockError::Probe {
        node: node_buf(),
        source,
    })?;
    match contents {
        Contents::Foreign(found) => Err(BlockError::Foreign {
            node: node_buf(),
            found,
        }),
        Contents::Unknown => Err(BlockError::Unknown { node: node_buf() }),
        Contents::Blank | Contents::Unfinished
            if spec.options.read_only() || !spec.filesystem.grows() =>
        {
            Err(BlockError::BlankReadOnly { node: node_buf() })
        }
        blank @ (Contents::Blank | Contents::Unfinished) => {
            if blank == Contents::Unfinished {
                info!(
                    volume = volume.name,
                    "a file system that was not finished is made again"
                );
            }
            making::make(spec.filesystem, node)?;
            volume.created = true;
            Ok(spec.filesystem)
        }
        Contents::Filesystem(filesystem) => {
            filesystem.name().clone_into(&mut volume.filesystem);
            if !spec.options.read_only() {
                making::unmark(filesystem, node).map_err(|source| BlockError::Unmark {
                    node: node_buf(),
                    source,
                })?;
                check(filesystem, node)?;
            }
            Ok(filesystem)
        }
    }
}

/// Only ext4 is checked by a program: XFS and btrfs replay their logs when they are mounted.
fn check(filesystem: Filesystem, node: &Path) -> Result<(), BlockError> {
    if filesystem != Filesystem::Ext4 {
        return Ok(());
    }
    // A process costs more than everything else here; what cannot be read is the program's to explain.
    if probe::ext4_is_clean(node).unwrap_or(false) {
        return Ok(());
    }
    run_e2fsck(node)
}

/// Replays the journal, and mends what is safe to mend.
fn run_e2fsck(node: &Path) -> Result<(), BlockError> {
    let arguments = ["-p".as_ref(), node.as_os_str()];
    let ended = command::run("e2fsck", &arguments, FSCK_LIMIT).map_err(BlockError::Fsck)?;
    match ended.status.code() {
        Some(code) if code < FSCK_UNCORRECTED => Ok(()),
        _ => Err(BlockError::Damaged {
            node: node.to_owned(),
            words: ended.words,
        }),
    }
}

/// A device that became larger gives its file system the new room. `resize2fs` finds out by itself that
/// there is nothing to do, but costs a process, so the sizes are compared first.
fn grow(
    spec: &VolumeSpec,
    node: &Path,
    volume: &mut Volume,
    settings: &Settings,
) -> Result<(), BlockError> {
    let failed = |error: &dyn ToString| BlockError::Grow(error.to_string());
    if volume.filesystem != Filesystem::Ext4.name() {
        return Ok(());
    }
    let name = node.file_name().unwrap_or_default().to_string_lossy();
    let device = block::size(&settings.sys_block, &name).map_err(|e| failed(&e))?;
    let blocks = probe::ext4_size(node).map_err(|e| failed(&e))?;
    if blocks.bytes + blocks.slack() > device {
        return Ok(());
    }
    let ended = command::run("resize2fs", &[node], FSCK_LIMIT).map_err(|e| failed(&e))?;
    if !ended.status.success() {
        return Err(failed(&ended.words));
    }
    volume.size_bytes = mount::size(spec.mount_point.as_path()).unwrap_or_default();
    info!(
        volume = volume.name,
        size_bytes = volume.size_bytes,
        "volume has grown"
    );
    Ok(())
}

/// After the owner of the mount point, whose change would take the group's bits away again.
fn give_to_group(spec: &VolumeSpec) -> Result<(), BlockError> {
    let Some(group) = spec.group.filter(|_| !spec.options.read_only()) else {
        return Ok(());
    };
    let mount_point = spec.mount_point.as_path();
    group::apply(mount_point, group).map_err(|source| BlockError::Group {
        mount_point: mount_point.to_owned(),
        gid: group.gid,
        source,
    })
}

/// A volume whose owner is in doubt or unknown is left as it is: a new one is root's.
fn own(spec: &VolumeSpec, settings: &Settings) -> Result<(), BlockError> {
    if spec.options.read_only() || spec.doubt.is_some() {
        return Ok(());
    }
    let mount_point = spec.mount_point.as_path();
    let owner = owner::resolve(&spec.owner, &settings.etc)?;
    owner::apply(mount_point, owner, spec.mode).map_err(|source| BlockError::Own {
        mount_point: mount_point.to_owned(),
        source,
    })
}
