//! Volumes on real block devices: loop devices, which want root and `/dev/loop-control`. Where these are
//! missing every test says that it was skipped. Each test has mounts of its own: whoever else on the machine makes a mount
//! namespace would take a copy of what is mounted here with it, and a device stays in use as long as that copy.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails here fails the test"
)]

mod common;

use std::{
    fs, io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use caps::{CapSet, Capability};
use common::{in_namespaces, skip};
use seed_agent::{
    storage::{
        self, DeviceRef, Filesystem, MountPoint, Settings, Volume, VolumeName, VolumeSpec,
        options::MountOptions,
        owner::{Mode, OwnerNames},
    },
    sys::mount,
};
use seed_container::Loop;

const MIB: u64 = 1024 * 1024;

/// A loop device with a mount point and an `/etc` of its own; all of it goes when this is dropped.
struct Lab {
    directory: tempfile::TempDir,
    node: PathBuf,
    _disk: Loop,
}

impl Lab {
    /// Inside of the test's own namespaces; `None` outside, and where there is no loop device.
    fn new(test: &str) -> Option<Self> {
        if !in_namespaces(test) {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let passwd = "root:x:0:0::/:/bin/sh\napp:x:990:980::/:/bin/false\n";
        fs::write(directory.path().join("passwd"), passwd).unwrap();
        fs::write(directory.path().join("group"), "app:x:980:\n").unwrap();
        match Loop::make(&directory.path().join("image"), 64 * MIB) {
            Ok(disk) => Some(Self {
                directory,
                node: disk.node().into(),
                _disk: disk,
            }),
            Err(error) => {
                let wanted = "root and /dev/loop-control are wanted";
                skip(test, &format!("no loop device ({wanted}): {error:#}"));
                None
            }
        }
    }

    fn mount_point(&self) -> PathBuf {
        self.directory.path().join("mnt/data")
    }

    fn image(&self) -> fs::File {
        fs::File::options()
            .write(true)
            .open(self.directory.path().join("image"))
            .unwrap()
    }

    fn spec(&self) -> VolumeSpec {
        VolumeSpec {
            name: VolumeName::try_from("data").unwrap(),
            device: Some(DeviceRef::Path(self.node.clone())),
            filesystem: Filesystem::Ext4,
            options: MountOptions::default(),
            mount_point: MountPoint::try_from(self.mount_point().to_str().unwrap()).unwrap(),
            owner: OwnerNames {
                user: Some("app".into()),
                group: Some("app".into()),
            },
            mode: Some(Mode::try_from("0750").unwrap()),
            group: None,
            doubt: None,
        }
    }

    fn provision(&self, spec: VolumeSpec) -> Volume {
        let settings = Settings {
            sys_block: "/sys/block".into(),
            sys_devices: "/sys/devices".into(),
            dev: "/dev".into(),
            etc: self.directory.path().to_owned(),
            udev_rules: self.directory.path().join("rules.d"),
            device_limit: Duration::from_millis(100),
        };
        storage::provision(&[spec], &settings).remove(0)
    }

    fn is_sealed(&self) -> bool {
        let mounted = mount::mounted_at(&self.mount_point()).unwrap();
        mounted.is_some_and(|mounted| mounted.source == Path::new("seed-volume-missing"))
    }

    fn unmount(&self) {
        mount::unmount(&self.mount_point()).unwrap();
    }

    /// What the page cache has of the device is written and forgotten, so that a change of the image is
    /// seen.
    fn flush(&self) {
        let flushed = Command::new("blockdev")
            .arg("--flushbufs")
            .arg(&self.node)
            .status();
        assert!(flushed.unwrap().success());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        while mount::mounted_at(&self.mount_point()).is_ok_and(|mounted| mounted.is_some()) {
            if mount::unmount(&self.mount_point()).is_err() {
                break;
            }
        }
    }
}

fn problem(volume: &Volume) -> &str {
    volume.problem.as_deref().unwrap_or_default()
}

#[test]
fn a_link_does_not_lead_a_volume_over_the_system() {
    let Some(lab) = Lab::new("a_link_does_not_lead_a_volume_over_the_system") else {
        return;
    };
    fs::create_dir_all(lab.mount_point().parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/etc", lab.mount_point()).unwrap();
    let volume = lab.provision(lab.spec());
    assert!(
        problem(&volume).ends_with("leads to another place, /etc"),
        "{}",
        problem(&volume)
    );
    assert!(mount::mounted_at(Path::new("/etc")).unwrap().is_none());
}

#[test]
fn a_blank_device_gets_a_file_system_once_and_its_files_stay() {
    let Some(lab) = Lab::new("a_blank_device_gets_a_file_system_once_and_its_files_stay") else {
        return;
    };
    let volume = lab.provision(lab.spec());
    assert_eq!(problem(&volume), "");
    assert!(volume.created && volume.size_bytes > 50 * MIB);
    let metadata = fs::metadata(lab.mount_point()).unwrap();
    assert_eq!(
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777),
        (990, 980, 0o750)
    );
    fs::write(lab.mount_point().join("file"), "kept").unwrap();
    // Once more while it is mounted: an agent that starts again mounts nothing twice.
    assert!(!lab.provision(lab.spec()).created);
    lab.unmount();
    let volume = lab.provision(lab.spec());
    assert_eq!(problem(&volume), "");
    assert!(!volume.created);
    assert_eq!(
        fs::read_to_string(lab.mount_point().join("file")).unwrap(),
        "kept"
    );
    let file = fs::metadata(lab.mount_point().join("file")).unwrap();
    assert_eq!(file.uid(), 0, "only the mount point changes its owner");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let place = lab.mount_point();
    let ours: Vec<_> = mounts
        .lines()
        .filter(|l| l.contains(place.to_str().unwrap()))
        .collect();
    assert_eq!(ours.len(), 1);
    assert!(ours[0].contains("nosuid,nodev"), "{ours:?}");
}

#[test]
fn a_damaged_file_system_is_never_reformatted() {
    let Some(lab) = Lab::new("a_damaged_file_system_is_never_reformatted") else {
        return;
    };
    lab.provision(lab.spec());
    fs::write(lab.mount_point().join("file"), "kept").unwrap();
    lab.unmount();
    lab.flush();
    // The group descriptors are gone, and so is the root directory.
    lab.image()
        .write_all_at(&vec![0xa5; 256 * 1024], 2048)
        .unwrap();
    lab.flush();
    let volume = lab.provision(lab.spec());
    assert!(problem(&volume).contains("damaged"), "{volume:?}");
    assert!(!volume.created && volume.size_bytes == 0);
    assert!(lab.is_sealed());
    // The whole beginning is gone: still no new device.
    lab.image()
        .write_all_at(&vec![0; 3 * 1024 * 1024], 0)
        .unwrap();
    lab.flush();
    let volume = lab.provision(lab.spec());
    assert!(problem(&volume).contains("never formatted"), "{volume:?}");
}

#[test]
fn an_unclean_file_system_is_checked_and_mounted() {
    let Some(lab) = Lab::new("an_unclean_file_system_is_checked_and_mounted") else {
        return;
    };
    lab.provision(lab.spec());
    fs::write(lab.mount_point().join("file"), "kept").unwrap();
    let synced = Command::new("sync")
        .arg("-f")
        .arg(lab.mount_point())
        .status()
        .unwrap();
    assert!(synced.success());
    // As after a power cut: a copy of the device while it is mounted.
    let copy = fs::read(&lab.node).unwrap();
    lab.unmount();
    lab.flush();
    lab.image().write_all_at(&copy, 0).unwrap();
    lab.flush();
    let volume = lab.provision(lab.spec());
    assert_eq!(problem(&volume), "");
    assert!(!volume.created);
    assert_eq!(
        fs::read_to_string(lab.mount_point().join("file")).unwrap(),
        "kept"
    );
}

#[test]
fn a_user_that_does_not_exist_leaves_the_volume_with_root() {
    let Some(lab) = Lab::new("a_user_that_does_not_exist_leaves_the_volume_with_root") else {
        return;
    };
    let owner = OwnerNames {
        user: Some("nobody-here".into()),
        group: None,
    };
    let volume = lab.provision(VolumeSpec {
        owner,
        ..lab.spec()
    });
    assert!(
        problem(&volume).contains("user nobody-here does not exist"),
        "{volume:?}"
    );
    assert!(volume.size_bytes > 0);
    let metadata = fs::metadata(lab.mount_point()).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (0, 0));
}

#[test]
fn a_device_that_became_larger_gives_its_file_system_the_room() {
    let test = "a_device_that_became_larger_gives_its_file_system_the_room";
    // ext4_resize_begin() of Linux asks for it.
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE).unwrap() {
        skip(test, "CAP_SYS_RESOURCE is wanted");
        return;
    }
    let Some(lab) = Lab::new(test) else { return };
    let before = lab.provision(lab.spec()).size_bytes;
    fs::write(lab.mount_point().join("file"), "kept").unwrap();
    lab.unmount();
    lab.image().set_len(256 * MIB).unwrap();
    let resized = Command::new("losetup")
        .arg("--set-capacity")
        .arg(&lab.node)
        .status()
        .unwrap();
    assert!(resized.success());
    let volume = lab.provision(lab.spec());
    assert_eq!(problem(&volume), "");
    assert!(
        volume.size_bytes > before + 150 * MIB,
        "{before} {volume:?}"
    );
    assert_eq!(
        fs::read_to_string(lab.mount_point().join("file")).unwrap(),
        "kept"
    );
}

#[test]
fn what_belongs_to_somebody_else_is_left_alone() {
    let Some(lab) = Lab::new("what_belongs_to_somebody_else_is_left_alone") else {
        return;
    };
    let swap = Command::new("mkswap").arg(&lab.node).output().unwrap();
    assert!(swap.status.success());
    let before = fs::read(&lab.node).unwrap();
    let volume = lab.provision(lab.spec());
    assert!(problem(&volume).contains("swap space"), "{volume:?}");
    assert!(before == fs::read(&lab.node).unwrap());
}

#[test]
fn a_device_that_never_comes_and_a_blank_read_only_one_are_told() {
    let Some(lab) = Lab::new("a_device_that_never_comes_and_a_blank_read_only_one_are_told") else {
        return;
    };
    let device = Some(DeviceRef::Serial("not-there".into()));
    let volume = lab.provision(VolumeSpec {
        device,
        ..lab.spec()
    });
    assert!(
        problem(&volume).contains("\"not-there\" did not appear"),
        "{volume:?}"
    );
    let volume = lab.provision(VolumeSpec {
        device: None,
        ..lab.spec()
    });
    assert!(
        problem(&volume).contains("attached no device"),
        "{volume:?}"
    );
    let options = MountOptions::parse(&["ro"]);
    let volume = lab.provision(VolumeSpec {
        options,
        ..lab.spec()
    });
    assert!(problem(&volume).contains("read-only"), "{volume:?}");
    assert!(lab.is_sealed());
}

#[test]
fn the_place_of_a_volume_that_failed_is_sealed_until_it_is_there() {
    let Some(lab) = Lab::new("the_place_of_a_volume_that_failed_is_sealed_until_it_is_there")
    else {
        return;
    };
    let missing = || VolumeSpec {
        device: None,
        ..lab.spec()
    };
    for _ in 0..2 {
        lab.provision(missing());
        assert!(lab.is_sealed());
    }
    // Root as well, and what somebody looks at goes all the same.
    let lost = fs::write(lab.mount_point().join("file"), "lost").unwrap_err();
    assert_eq!(lost.kind(), io::ErrorKind::ReadOnlyFilesystem);
    let looking = fs::File::open(lab.mount_point()).unwrap();
    let volume = lab.provision(lab.spec());
    assert_eq!(problem(&volume), "");
    drop(looking);
    assert!(!lab.is_sealed());
    fs::write(lab.mount_point().join("file"), "kept").unwrap();
    // What is there stays there, also when it is not found any more.
    lab.provision(missing());
    assert!(lab.mount_point().join("file").exists());
    lab.unmount();
    assert_eq!(fs::read_dir(lab.mount_point()).unwrap().count(), 0);
}

#[test]
fn a_volume_behind_a_link_is_mounted_once() {
    let Some(lab) = Lab::new("a_volume_behind_a_link_is_mounted_once") else {
        return;
    };
    let real = lab.directory.path().join("real");
    fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, lab.mount_point().parent().unwrap()).unwrap();
    for _ in 0..2 {
        assert_eq!(problem(&lab.provision(lab.spec())), "");
    }
    mount::unmount(&real.join("data")).unwrap();
    assert_eq!(mount::mounted_at(&real.join("data")).unwrap(), None);
}

#[test]
fn a_file_system_that_was_not_finished_is_made_again() {
    let Some(lab) = Lab::new("a_file_system_that_was_not_finished_is_made_again") else {
        return;
    };
    assert!(lab.provision(lab.spec()).created);
    lab.unmount();
    lab.flush();
    // As it was before the superblock was written: `mke2fs` writes that last.
    let mark = b"seed: a file system is being made here: 6ac37b9e-24dd-4f2b-b5d0-4f6a5e8f4e11";
    let place = 64 * MIB - 160 * 1024;
    let zeros = vec![0; 4096];
    for copy in [0, 8193, 3 * 8192 + 1, 5 * 8192 + 1, 7 * 8192 + 1] {
        lab.image()
            .write_all_at(&zeros[..1024], 1024 * copy)
            .unwrap();
    }
    lab.image().write_all_at(&zeros[..1024], 1024).unwrap();
    lab.image().write_all_at(mark, place).unwrap();
    lab.flush();
    let volume = lab.provision(lab.spec());
    assert_eq!((problem(&volume), volume.created), ("", true));
    fs::write(lab.mount_point().join("file"), "kept").unwrap();
    lab.unmount();
    lab.flush();
    // Never again: the mark is gone, and what was damaged later is damaged data.
    lab.image()
        .write_all_at(&vec![0; 3 * 1024 * 1024], 0)
        .unwrap();
    lab.flush();
    let volume = lab.provision(lab.spec());
    assert!(problem(&volume).contains("never formatted"), "{volume:?}");
}
