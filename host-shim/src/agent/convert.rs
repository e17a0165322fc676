//! From a spec to the Kata dialect's `CreateContainer`.

use seed_protocol::{
    kata::{
        agent::{CreateContainerRequest, Device, Storage},
        oci,
    },
    paths,
};

use crate::spec::{BlockDevice, DeviceOwner, EnvVar, MemoryMount, SharedMount, VmSpec, VolumeSpec};

/// The order that a guest gets: environment and volumes.
pub(super) fn container(spec: &VmSpec) -> CreateContainerRequest {
    let process = oci::Process {
        Args: spec.args.clone(),
        Env: spec.env.iter().map(EnvVar::assignment).collect(),
        Cwd: "/".into(),
        ..Default::default()
    };
    let oci = oci::Spec {
        Version: "1.2.0".into(),
        Process: Some(process).into(),
        Hostname: spec.hostname.clone(),
        Mounts: mounts(spec),
        Linux: Some(oci::Linux {
            Devices: spec.devices.iter().filter_map(owned).collect(),
            ..Default::default()
        })
        .into(),
        Annotations: spec.annotations.clone().into_iter().collect(),
        ..Default::default()
    };
    CreateContainerRequest {
        container_id: spec.id.to_string(),
        exec_id: spec.id.to_string(),
        storages: share(spec)
            .into_iter()
            .chain(spec.volumes.iter().map(storage))
            .collect(),
        devices: spec.devices.iter().map(device).collect(),
        OCI: Some(oci).into(),
        ..Default::default()
    }
}

/// The folder that the host shares beside the root, where it shares anything.
fn share(spec: &VmSpec) -> Option<Storage> {
    (!spec.shared.is_empty()).then(|| Storage {
        driver: "virtio-fs".into(),
        source: paths::SHARE_TAG.into(),
        fstype: "virtiofs".into(),
        options: vec!["nodev".into(), "nosuid".into()],
        mount_point: paths::SHARE_DIR.into(),
        ..Default::default()
    })
}

/// All mounts, outer ones before what is in them.
fn mounts(spec: &VmSpec) -> Vec<oci::Mount> {
    let shared = spec
        .shared
        .iter()
        .map(|one| (&one.destination, shared(one)));
    let memory = spec.memory_mounts.iter();
    let memory = memory.map(|one| (&one.destination, self::memory(one)));
    let mut all: Vec<_> = shared.chain(memory).collect();
    all.sort_by_key(|(destination, _)| *destination);
    all.into_iter().map(|(_, mount)| mount).collect()
}

fn memory(memory: &MemoryMount) -> oci::Mount {
    oci::Mount {
        destination: memory.destination.to_string_lossy().into_owned(),
        source: "tmpfs".into(),
        type_: "tmpfs".into(),
        options: memory.options.clone(),
        ..Default::default()
    }
}

fn shared(shared: &SharedMount) -> oci::Mount {
    oci::Mount {
        destination: shared.destination.to_string_lossy().into_owned(),
        source: format!("{}/{}", paths::SHARE_DIR, shared.name),
        type_: "bind".into(),
        options: shared.options.clone(),
        ..Default::default()
    }
}

fn device(device: &BlockDevice) -> Device {
    Device {
        type_: "blk".into(),
        container_path: device.path.to_string_lossy().into_owned(),
        options: vec![format!("serial={}", device.serial())],
        ..Default::default()
    }
}

/// Whose it is, as Kata's shims say it.
fn owned(device: &BlockDevice) -> Option<oci::LinuxDevice> {
    let DeviceOwner { uid, gid, mode } = device.owner?;
    Some(oci::LinuxDevice {
        Path: device.path.to_string_lossy().into_owned(),
        Type: "b".into(),
        FileMode: mode.unwrap_or(0),
        UID: uid,
        GID: gid,
        ..Default::default()
    })
}

fn storage(volume: &VolumeSpec) -> Storage {
    let VolumeSpec {
        name,
        filesystem,
        mount_point,
        read_only,
        user,
        group,
        mode,
        ..
    } = volume;
    let mut driver_options = vec![
        format!("serial={}", volume.serial()),
        format!("name={name}"),
    ];
    for (key, value) in [("user", user), ("group", group), ("mode", mode)] {
        driver_options.extend(value.iter().map(|value| format!("{key}={value}")));
    }
    let mut options = vec!["nodev".to_owned(), "nosuid".to_owned()];
    if *read_only {
        options.push("ro".into());
    }
    Storage {
        driver: "blk".into(),
        driver_options,
        fstype: filesystem.clone(),
        options,
        mount_point: mount_point.to_string_lossy().into_owned(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::sample;

    #[test]
    fn a_block_device_travels_with_its_owner() {
        let mut spec = sample();
        let owner = DeviceOwner {
            uid: 1000,
            gid: 2000,
            mode: Some(0o640),
        };
        let device = |path: &str, owner| BlockDevice {
            source: "/dev/loop0".into(),
            path: path.into(),
            read_only: false,
            owner,
        };
        spec.devices = vec![device("/dev/raw", Some(owner)), device("/dev/other", None)];
        let request = container(&spec);
        assert_eq!(request.devices.len(), 2);
        let [told] = request.OCI.Linux.Devices.as_slice() else {
            panic!("one device has an owner")
        };
        assert_eq!(
            (told.Path.as_str(), told.UID, told.GID),
            ("/dev/raw", 1000, 2000)
        );
        assert_eq!(told.FileMode, 0o640);
    }

    #[test]
    fn memory_and_what_is_in_it_travel_in_their_order() {
        let mut spec = sample();
        spec.shared = vec![SharedMount {
            destination: "/scratch/hosts".into(),
            ..SharedMount::sample()
        }];
        spec.memory_mounts = vec![MemoryMount {
            destination: "/scratch".into(),
            options: vec!["size=1m".into(), "ro".into()],
        }];
        let request = container(&spec);
        let [memory, shared] = request.OCI.Mounts.as_slice() else {
            panic!("two mounts are wanted")
        };
        assert_eq!(
            (memory.type_.as_str(), memory.destination.as_str()),
            ("tmpfs", "/scratch")
        );
        assert_eq!(memory.options, ["size=1m", "ro"]);
        assert_eq!(shared.destination, "/scratch/hosts");
    }

    #[test]
    fn a_volume_travels_as_a_block_storage_with_what_the_host_says_of_it() {
        let request = container(&sample());
        let storage = &request.storages[0];
        assert_eq!(storage.driver, "blk");
        assert_eq!(
            storage.driver_options,
            ["serial=data", "name=data", "user=app", "mode=0750"]
        );
        assert_eq!(storage.mount_point, "/seed/storage/data");
        assert_eq!(storage.options, ["nodev", "nosuid"]);
        assert_eq!(request.OCI.Process.Env, ["TOKEN=s3cret"]);
    }
}
