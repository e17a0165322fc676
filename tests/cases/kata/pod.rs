//! What a Kata shim orders for the pod: its network, its volumes at the shim's own places and where the engine's mounts take them, its
//! memory and its folder.

use seed_kata_client::order::{Pod, bound, storage};
use seed_protocol::kata::{
    agent::{FSGroup, Storage},
    oci::Mount,
};
use seed_tests::Machine;

pub(super) const HARDWARE: &str = "02:5e:ed:00:00:01";
const POD: &str = "1d0c5bf4a0ee";
pub(super) const WORK: &str = "7f3ac2de9b11";
/// A group that is not root's, which a Kata shim then tells of a pod's folder.
pub(super) const GROUP: u32 = 4711;
/// File systems that are made here, then one that is made in the guest and only read.
pub(super) const WRITTEN: [&str; 3] = ["ext4", "xfs", "btrfs"];
pub(super) const READ: &str = "erofs";
/// Belongs to the pod's group (`fs_group`).
pub(super) const GROUPS: &str = WRITTEN[2];

/// The guest's closure wants a volume `data`, which is the first; others are named as their file system.
fn name(filesystem: &str) -> &str {
    if filesystem == WRITTEN[0] {
        "data"
    } else {
        filesystem
    }
}

pub(super) fn place(filesystem: &str) -> String {
    format!("/seed/storage/{}", name(filesystem))
}

/// Where a Kata shim mounts it, and asks for it later.
pub(super) fn katas_place(filesystem: &str) -> String {
    format!("/run/kata-containers/sandbox/storage/{}", name(filesystem))
}

/// A storage of the shim's, and what the engine's mount makes of it.
pub(super) type Kept = (Storage, Mount);

pub(super) fn volume(index: usize, filesystem: &str) -> Kept {
    let (source, katas) = (Machine::pci_path(index), katas_place(filesystem));
    let access = if filesystem == READ { "ro" } else { "rw" };
    let mut disk = storage("blk", &source, filesystem, &katas, &["noatime"]);
    if filesystem == GROUPS {
        disk.fs_group = Some(FSGroup {
            group_id: GROUP,
            ..Default::default()
        })
        .into();
    }
    (
        disk,
        bound(
            "bind",
            &katas,
            &place(filesystem),
            &["rbind", "rprivate", access],
        ),
    )
}

/// An `emptyDir` in memory.
pub(super) fn memory() -> Kept {
    let katas = "/run/kata-containers/sandbox/ephemeral/cache";
    let group = format!("fsgid={GROUP}");
    (
        storage("ephemeral", "tmpfs", "tmpfs", katas, &[&group]),
        bound("bind", katas, "/srv/cache", &["rbind", "rprivate", "rw"]),
    )
}

/// Any other `emptyDir`.
pub(super) fn folder() -> Kept {
    let katas = format!("/run/kata-containers/shared/containers/{POD}/rootfs/local/scratch");
    let group = format!("fsgid={GROUP}");
    (
        storage("local", "local", "local", &katas, &["mode=0777", &group]),
        bound(
            "local",
            &katas,
            "/srv/scratch",
            &["rbind", "rprivate", "rw"],
        ),
    )
}

pub(super) fn pod(volumes: Vec<Kept>) -> Pod {
    let shm = ["noexec", "mode=1777", "size=1048576"];
    let place = "/run/kata-containers/sandbox/shm";
    let (storages, mounts) = volumes.into_iter().chain([memory(), folder()]).unzip();
    Pod {
        id: POD.into(),
        container: WORK.into(),
        hardware: HARDWARE.into(),
        address: "10.0.2.15/24".into(),
        gateway: "10.0.2.2".into(),
        dns: "nameserver 10.0.2.3".into(),
        pod_storages: vec![storage("ephemeral", "shm", "tmpfs", place, &shm)],
        storages,
        mounts,
        env: vec!["GREETING=hello \"kata\"".into(), "PATH=/nowhere".into()],
        copies: "/run/kata-containers/shared/containers".into(),
        cpus: 2,
    }
}
