//! What a volume shall be: the host's words, joined by name (or mount point) with what the closure
//! declares. Where the two disagree nothing is guessed: the doubt is kept and reported.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use super::{
    DeviceRef, Filesystem, MAX_ENTRIES, MountPoint, Share, SpecError, VolumeName,
    group::FsGroup,
    options::MountOptions,
    owner::{Mode, OwnerNames},
};
use rustix::mount::MountFlags;

use crate::{config::BakedVolume, sys::pci::PciPath};

/// Kata's name for a disk.
const DISK: &str = "blk";

/// What a Kata shim adds to a disk that is new, and shall have a file system. A blank one gets it here in any case.
const CREATE_FILESYSTEM: &str = "create_filesystem";

/// How much of a place goes into the name of a volume that nobody named, so that a number finds room.
const NAME_OF_PLACE_BYTES: usize = 56;

/// The longest serial that a virtio-blk disk has, `VIRTIO_BLK_ID_BYTES` of `linux/virtio_blk.h`.
const MAX_SERIAL_BYTES: usize = 20;

/// One volume, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Its name.
    pub name: VolumeName,
    /// How its device is recognised; `None` when the host gave none.
    pub device: Option<DeviceRef>,
    /// What is made on a blank device.
    pub filesystem: Filesystem,
    /// How it is mounted.
    pub options: MountOptions,
    /// Where it is mounted.
    pub mount_point: MountPoint,
    /// Who owns the mount point.
    pub owner: OwnerNames,
    /// The mount point's mode.
    pub mode: Option<Mode>,
    /// The group of all its files.
    pub group: Option<FsGroup>,
    /// Why this volume is not as somebody wanted it. It is mounted, and its owner is left as it is.
    pub doubt: Option<String>,
}

/// A storage entry of the host, as it came.
#[derive(Debug, Clone, Default)]
pub struct RawStorage {
    /// Kata's name for the kind of storage; `blk` is ours.
    pub driver: String,
    /// `serial=`, `name=`, `user=`, `group=`, `mode=`.
    pub driver_options: Vec<String>,
    /// A node in `/dev`, when there is no serial.
    pub source: String,
    /// The file system.
    pub fstype: String,
    /// Mount options.
    pub options: Vec<String>,
    /// Where to.
    pub mount_point: String,
    /// The group that its files shall have.
    pub group: Option<FsGroup>,
}

/// A checked entry of the host, before it is joined.
#[derive(Debug)]
struct Offer {
    name: Option<VolumeName>,
    device: DeviceRef,
    filesystem: Filesystem,
    options: MountOptions,
    mount_point: Option<MountPoint>,
    owner: OwnerNames,
    mode: Option<Mode>,
    group: Option<FsGroup>,
}

/// Disks on one side, everything else, checked, on the other.
pub fn split(storages: Vec<RawStorage>) -> Result<(Vec<RawStorage>, Vec<Share>), SpecError> {
    super::bounded(storages.len())?;
    let (disks, others): (Vec<_>, Vec<_>) = storages
        .into_iter()
        .partition(|storage| storage.driver == DISK);
    let shares: Result<_, _> = others.into_iter().map(Share::try_from).collect();
    Ok((disks, shares?))
}

/// Joins what the host attaches with what the closure declares. An entry that cannot be meant is an
/// error; a disagreement, or a declared volume that the host did not attach, is a doubt or a volume
/// without a device.
pub fn join(
    storages: Vec<RawStorage>,
    baked: &BTreeMap<VolumeName, BakedVolume>,
) -> Result<Vec<VolumeSpec>, SpecError> {
    let mut specs = Vec::new();
    let (mut names, mut places) = (BTreeSet::new(), BTreeSet::new());
    for storage in storages {
        let offer = Offer::try_from(storage)?;
        let named = offer.name.is_some();
        let mut spec = offer.join(baked)?;
        let declared = baked.get(&spec.name).map(|volume| &volume.mount_point);
        if !named && declared != Some(&spec.mount_point) {
            let taken = |name: &VolumeName| names.contains(name) || baked.contains_key(name);
            spec.name = another(spec.name, taken);
        }
        if !names.insert(spec.name.clone()) {
            return Err(SpecError::Twice(format!("the name {}", spec.name)));
        }
        if !places.insert(spec.mount_point.clone()) {
            return Err(SpecError::Twice(format!(
                "the mount point {}",
                spec.mount_point
            )));
        }
        specs.push(spec);
    }
    let missing = baked.iter().filter(|(name, _)| !names.contains(*name));
    specs.extend(missing.map(|(name, volume)| declared(name, volume, None)));
    // Outer mounts before inner ones.
    specs.sort_by(|a, b| a.mount_point.cmp(&b.mount_point));
    Ok(specs)
}

/// What the closure declares, for a guest without a host: the disk's serial is the volume's name.
pub fn without_host(baked: &BTreeMap<VolumeName, BakedVolume>) -> Vec<VolumeSpec> {
    let serial = |name: &VolumeName| name.as_str().chars().take(MAX_SERIAL_BYTES).collect();
    let device = |name| Some(DeviceRef::Serial(serial(name)));
    let mut specs: Vec<_> = baked
        .iter()
        .map(|(name, volume)| declared(name, volume, device(name)))
        .collect();
    specs.sort_by(|a, b| a.mount_point.cmp(&b.mount_point));
    specs
}

fn declared(name: &VolumeName, volume: &BakedVolume, device: Option<DeviceRef>) -> VolumeSpec {
    let BakedVolume {
        mount_point,
        owner,
        mode,
    } = volume.clone();
    VolumeSpec {
        name: name.clone(),
        device,
        filesystem: Filesystem::Ext4,
        options: MountOptions::default(),
        mount_point,
        owner,
        mode,
        group: None,
        doubt: None,
    }
}

impl TryFrom<RawStorage> for Offer {
    type Error = SpecError;

    fn try_from(storage: RawStorage) -> Result<Self, SpecError> {
        let RawStorage {
            driver,
            driver_options,
            source,
            fstype,
            options,
            mount_point,
            group,
        } = storage;
        if driver != DISK {
            return Err(SpecError::Driver(driver));
        }
        let mut serial = None;
        let mut offer = Self {
            name: None,
            device: DeviceRef::Path(PathBuf::from(&source)),
            filesystem: Filesystem::try_from(fstype.as_str())?,
            options: MountOptions::parse(&options),
            mount_point: None,
            owner: OwnerNames::default(),
            mode: None,
            group,
        };
        if offer.filesystem == Filesystem::Erofs {
            offer.options.flags |= MountFlags::RDONLY;
        }
        for option in driver_options {
            if option == CREATE_FILESYSTEM {
                continue;
            }
            let (key, value) = option
                .split_once('=')
                .ok_or_else(|| SpecError::Option(option.clone()))?;
            match key {
                "serial" => serial = Some(value.to_owned()),
                "name" => offer.name = Some(VolumeName::try_from(value)?),
                "user" => offer.owner.user = Some(value.to_owned()),
                "group" => offer.owner.group = Some(value.to_owned()),
                "mode" => offer.mode = Some(Mode::try_from(value)?),
                _ => return Err(SpecError::Option(option)),
            }
        }
        match serial {
            Some(serial) if !serial.is_empty() => offer.device = DeviceRef::Serial(serial),
            _ if is_device_node(&source) => {}
            _ if let Some(path) = PciPath::parse(&source) => offer.device = DeviceRef::Pci(path),
            _ => return Err(SpecError::NoDevice(mount_point)),
        }
        if !mount_point.is_empty() {
            offer.mount_point = Some(MountPoint::try_from(mount_point.as_str())?);
        }
        Ok(offer)
    }
}

impl Offer {
    fn join(self, baked: &BTreeMap<VolumeName, BakedVolume>) -> Result<VolumeSpec, SpecError> {
        let by_place = || {
            let place = self.mount_point.as_ref()?;
            baked
                .iter()
                .find(|(_, volume)| volume.mount_point == *place)
        };
        let declared = match &self.name {
            Some(name) => baked.get_key_value(name),
            None => by_place(),
        };
        let Self {
            name,
            device,
            filesystem,
            options,
            mount_point,
            owner,
            mode,
            group,
        } = self;
        let Some((name, volume)) = declared else {
            let mount_point = mount_point.ok_or_else(|| SpecError::MountPoint {
                path: String::new(),
                reason: "the host names no place and the closure does not know the volume",
            })?;
            let name = name.map_or_else(|| name_of(&mount_point), Ok)?;
            let doubt = None;
            return Ok(VolumeSpec {
                name,
                device: Some(device),
                filesystem,
                options,
                mount_point,
                owner,
                mode,
                group,
                doubt,
            });
        };
        let mut spec = VolumeSpec {
            name: name.clone(),
            device: Some(device),
            filesystem,
            options,
            mount_point: volume.mount_point.clone(),
            owner: volume.owner.clone(),
            mode: volume.mode,
            group,
            doubt: None,
        };
        if let Some(place) = mount_point.filter(|place| *place != volume.mount_point) {
            let ours = &volume.mount_point;
            spec.doubt = Some(format!(
                "the host wants it at {place}, the closure at {ours}"
            ));
        } else if !agrees(&owner, &volume.owner) {
            let ours = &volume.owner;
            spec.doubt = Some(format!(
                "the host gives it to {owner}, the closure to {ours}"
            ));
        } else if mode.is_some() && volume.mode.is_some() && mode != volume.mode {
            spec.doubt = Some("host and closure name different modes".to_owned());
        } else if spec.owner.is_empty() {
            spec.owner = owner;
        }
        spec.mode = spec.mode.or(mode);
        Ok(spec)
    }
}

/// The host's word on the owner agrees when it is absent, when the closure says nothing, or when what
/// both name is the same.
fn agrees(host: &OwnerNames, closure: &OwnerNames) -> bool {
    let same = |a: &Option<String>, b: &Option<String>| a.is_none() || a == b;
    closure.is_empty() || (same(&host.user, &closure.user) && same(&host.group, &closure.group))
}

/// For a volume that nobody named. The last part of a place may be anything: a Kata shim's is base64.
fn name_of(mount_point: &MountPoint) -> Result<VolumeName, SpecError> {
    let last = mount_point.as_path().file_name().unwrap_or_default();
    let last = last.to_string_lossy();
    VolumeName::try_from(last.as_ref()).or_else(|_| {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let plain: String = last.chars().map(plain).take(NAME_OF_PLACE_BYTES).collect();
        VolumeName::try_from(format!("at-{}", plain.trim_matches('-')).as_str())
    })
}

/// The name, or where it is taken one with a number.
fn another(name: VolumeName, taken: impl Fn(&VolumeName) -> bool) -> VolumeName {
    if !taken(&name) {
        return name;
    }
    let short: String = name.0.chars().take(NAME_OF_PLACE_BYTES).collect();
    let mut numbered = (2..=MAX_ENTRIES).map(|number| VolumeName(format!("{short}-{number}")));
    numbered.find(|name| !taken(name)).unwrap_or(name)
}

fn is_device_node(source: &str) -> bool {
    let below = source.strip_prefix("/dev/");
    below.is_some_and(|path| !path.is_empty() && path.split('/').all(|part| part != ".."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MAX_NAME_BYTES;

    fn baked() -> BTreeMap<VolumeName, BakedVolume> {
        let volume = BakedVolume {
            mount_point: MountPoint::try_from("/seed/storage/data").unwrap(),
            owner: OwnerNames {
                user: Some("app".into()),
                group: Some("app".into()),
            },
            mode: Some(Mode::try_from("0750").unwrap()),
        };
        BTreeMap::from([(VolumeName::try_from("data").unwrap(), volume)])
    }

    fn storage(driver_options: &[&str], mount_point: &str) -> RawStorage {
        RawStorage {
            driver: "blk".into(),
            driver_options: driver_options.iter().map(|o| (*o).to_owned()).collect(),
            fstype: "ext4".into(),
            mount_point: mount_point.into(),
            ..RawStorage::default()
        }
    }

    fn one(options: &[&str], mount_point: &str) -> VolumeSpec {
        let specs = join(vec![storage(options, mount_point)], &baked()).unwrap();
        assert_eq!(specs.len(), 1);
        specs.into_iter().next().unwrap()
    }

    #[test]
    fn the_closure_says_who_owns_what_the_host_attaches() {
        for (options, place) in [
            (&["serial=data", "name=data"][..], ""),
            (&["serial=data", "name=data"], "/seed/storage/data"),
            (&["serial=x"], "/seed/storage/data"),
            (
                &["serial=data", "name=data", "user=app", "mode=0750"],
                "/seed/storage/data",
            ),
        ] {
            let spec = one(options, place);
            assert_eq!(spec.doubt, None);
            assert_eq!(spec.name.as_str(), "data");
            assert_eq!(spec.owner.user.as_deref(), Some("app"));
            assert_eq!(spec.mode.unwrap().bits(), 0o750);
        }
    }

    #[test]
    fn a_disagreement_is_kept_as_a_doubt() {
        for (options, place) in [
            (&["serial=data", "name=data"][..], "/seed/storage/other"),
            (
                &["serial=data", "name=data", "user=web"],
                "/seed/storage/data",
            ),
            (
                &["serial=data", "name=data", "mode=0777"],
                "/seed/storage/data",
            ),
        ] {
            let spec = one(options, place);
            assert!(spec.doubt.is_some());
            assert_eq!(
                spec.mount_point.as_path().to_str(),
                Some("/seed/storage/data")
            );
            assert_eq!(spec.owner.user.as_deref(), Some("app"));
        }
    }

    #[test]
    fn a_doubt_names_both_sides() {
        let spec = one(
            &["serial=data", "name=data", "user=ghost"],
            "/seed/storage/data",
        );
        let doubt = spec.doubt.unwrap();
        assert_eq!(doubt, "the host gives it to ghost, the closure to app:app");
    }

    #[test]
    fn a_volume_that_the_closure_does_not_know_is_as_the_host_says() {
        let all = join(
            vec![storage(&["serial=s", "user=web"], "/srv/web")],
            &baked(),
        )
        .unwrap();
        let web = all.iter().find(|spec| spec.name.as_str() == "web").unwrap();
        assert_eq!(web.owner.user.as_deref(), Some("web"));
        let data = all
            .iter()
            .find(|spec| spec.name.as_str() == "data")
            .unwrap();
        assert_eq!(data.device, None);
    }

    #[test]
    fn a_volume_that_nobody_named_has_a_name_of_its_own() {
        // A Kata shim's place for the disk at PCI path 02/03 is in base64, and one for a long path is long.
        let long = format!("/srv/{}", "L3Zhci9s".repeat(20));
        let places = [
            "/run/kata-containers/sandbox/storage/MDIvMDM=",
            "/run/kata-containers/sandbox/storage/MDIvMDM-",
            "/srv/a/disk",
            "/srv/b/disk",
            "/srv/\u{e4}",
            &long,
        ];
        let disks = places.map(|place| storage(&["serial=x", CREATE_FILESYSTEM], place));
        let specs = join(disks.into(), &BTreeMap::new()).unwrap();
        let name = |place: &str| {
            let spec = specs
                .iter()
                .find(|spec| spec.mount_point.to_string() == place);
            spec.unwrap().name.to_string()
        };
        let names = places.map(name);
        assert_eq!(
            names[..5],
            ["at-MDIvMDM", "MDIvMDM-", "disk", "disk-2", "at-"]
        );
        assert!(names[5].starts_with("at-L3Zhci9s") && names[5].len() < MAX_NAME_BYTES);
        // The closure's volume of that name is another one, and it is missing.
        let specs = join(vec![storage(&["serial=x"], "/srv/data")], &baked()).unwrap();
        let found = specs
            .iter()
            .map(|spec| (spec.name.as_str(), spec.device.is_some()));
        assert!(found.eq([("data", false), ("data-2", true)]));
        // A name that was given is nobody else's.
        let named = ["/srv/a", "/srv/b"].map(|place| storage(&["serial=x", "name=disk"], place));
        let twice = join(named.into(), &BTreeMap::new());
        assert!(matches!(twice, Err(SpecError::Twice(_))));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let refused = |storage| join(vec![storage], &BTreeMap::new()).unwrap_err();
        let error = refused(storage(&["serial=x"], "/proc"));
        assert!(matches!(error, SpecError::MountPoint { .. }));
        assert!(matches!(
            refused(storage(&[], "/srv/a")),
            SpecError::NoDevice(_)
        ));
        for option in ["colour=red", "colour", "encryption_key=ephemeral"] {
            let error = refused(storage(&["serial=x", option], "/srv/a"));
            assert!(matches!(error, SpecError::Option(_)), "{option}");
        }
        let node = RawStorage {
            source: "/dev/../etc".into(),
            ..storage(&[], "/srv/a")
        };
        assert!(matches!(refused(node), SpecError::NoDevice(_)));
        let driver = RawStorage {
            driver: "9p".into(),
            ..storage(&["serial=x"], "/srv/a")
        };
        assert!(matches!(refused(driver), SpecError::Driver(_)));
        let twice = vec![
            storage(&["serial=x"], "/srv/a"),
            storage(&["serial=y"], "/srv/a"),
        ];
        assert!(matches!(
            join(twice, &BTreeMap::new()),
            Err(SpecError::Twice(_))
        ));
    }

    #[test]
    fn without_a_host_the_name_is_the_serial() {
        let specs = without_host(&baked());
        assert_eq!(specs[0].device, Some(DeviceRef::Serial("data".into())));
    }
}
