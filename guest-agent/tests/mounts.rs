//! The mounts of an OCI specification, made in a root and in namespaces of their own.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails here fails the test"
)]

mod common;

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chroot, symlink},
    path::Path,
};

use common::{in_namespaces, run};
use seed_agent::{
    storage::{
        oci::{self, RawMount},
        online,
        options::MountOptions,
        share::{self, ShareError},
        spec::RawStorage,
    },
    sys::{mount, resolver},
};

const SHARED: &str = "/run/kata-containers";

/// Makes a root in memory and enters it for good.
fn enter_a_root() {
    run("mount -t tmpfs none /mnt");
    for name in [
        "proc",
        "etc",
        "nix/store/hosts-1",
        "run/kata-containers/shared/containers",
    ] {
        fs::create_dir_all(Path::new("/mnt").join(name)).unwrap();
    }
    run("mount --rbind /proc /mnt/proc");
    chroot("/mnt").unwrap();
    std::env::set_current_dir("/").unwrap();
    fs::create_dir(source("config")).unwrap();
    fs::write(source("config/key"), "1").unwrap();
    fs::write(source("hosts"), "192.0.2.1 pod\n").unwrap();
}

fn source(name: &str) -> String {
    format!("{SHARED}/shared/containers/{name}")
}

fn bring_up(name: &str, destination: &str, options: &[&str]) -> Result<(), ShareError> {
    put("bind", &source(name), destination, options)
}

fn put(kind: &str, source: &str, destination: &str, options: &[&str]) -> Result<(), ShareError> {
    let raw = RawMount {
        destination: destination.to_owned(),
        source: source.to_owned(),
        kind: kind.to_owned(),
        options: options.iter().map(|word| (*word).to_owned()).collect(),
    };
    let mounts = oci::parse(vec![raw]).unwrap();
    mounts
        .iter()
        .try_for_each(|mount| mount.bring_up(Path::new(SHARED)))
}

/// The lines of the mount table for this place.
fn lines(place: &str) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let at = |line: &&str| line.split(' ').nth(4) == Some(place);
    table.lines().filter(at).map(str::to_owned).collect()
}

#[test]
fn a_pods_files_and_folders_are_where_it_wants_them() {
    if !in_namespaces("a_pods_files_and_folders_are_where_it_wants_them") {
        return;
    }
    enter_a_root();
    fs::write("/etc/hosts", "of the image\n").unwrap();
    for _ in 0..2 {
        bring_up("hosts", "/etc/hosts", &["rbind", "rprivate", "ro"]).unwrap();
        bring_up(
            "config",
            "/srv/app/config",
            &["rbind", "rprivate", "ro", "noexec"],
        )
        .unwrap();
        bring_up("hosts", "/dev/termination-log", &["rbind", "rw"]).unwrap();
    }
    assert_eq!(fs::read_to_string("/etc/hosts").unwrap(), "192.0.2.1 pod\n");
    assert!(fs::write("/etc/hosts", "x").is_err());
    // What the host changes is seen at once.
    fs::write(source("config/key"), "2").unwrap();
    assert_eq!(fs::read_to_string("/srv/app/config/key").unwrap(), "2");
    assert!(fs::write("/srv/app/config/key", "3").is_err());
    fs::write("/dev/termination-log", "last words").unwrap();
    assert_eq!(fs::read_to_string(source("hosts")).unwrap(), "last words");
    // Once each, however often they are asked for.
    let config = lines("/srv/app/config");
    assert_eq!((lines("/etc/hosts").len(), config.len()), (1, 1));
    for word in ["ro,", "nosuid", "nodev", "noexec"] {
        assert!(config[0].contains(word), "{}", config[0]);
    }
}

#[test]
fn memory_is_as_large_as_somebody_asked_and_the_guests_own_is_resized() {
    if !in_namespaces("memory_is_as_large_as_somebody_asked_and_the_guests_own_is_resized") {
        return;
    }
    enter_a_root();
    let memory = |place: &str, options: &[&str]| {
        put("tmpfs", "tmpfs", place, options).map(|()| lines(place))
    };
    let total = |place: &str| online::usage(Path::new(place)).unwrap();
    // Twice, as an agent does that ended before it had remembered.
    for _ in 0..2 {
        let there = memory(
            "/scratch",
            &["size=1m,nr_inodes=100", "mode=0700", "noexec"],
        )
        .unwrap();
        assert_eq!(there.len(), 1, "{there:?}");
        for word in ["nosuid", "nodev", "noexec"] {
            assert!(there[0].contains(word), "{there:?}");
        }
    }
    let room = total("/scratch");
    assert_eq!((room.bytes.total, room.inodes.total), (1 << 20, 100));
    let mode = fs::metadata("/scratch").unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    memory("/locked", &["ro"]).unwrap();
    assert!(fs::write("/locked/file", "x").is_err());
    // In the order that was given: a file of the host's in it.
    bring_up("hosts", "/scratch/hosts", &["rbind"]).unwrap();
    assert!(Path::new("/scratch/hosts").exists());

    fs::create_dir_all("/dev/shm").unwrap();
    let flags = MountOptions::default().flags;
    mount::mount(
        Path::new("tmpfs"),
        Path::new("/dev/shm"),
        "tmpfs",
        flags,
        "mode=1777",
    )
    .unwrap();
    fs::write("/dev/shm/segment", "kept").unwrap();
    let there = memory("/dev/shm", &["size=2097152"]).unwrap();
    assert_eq!((there.len(), total("/dev/shm").bytes.total), (1, 2 << 20));
    assert_eq!(fs::read_to_string("/dev/shm/segment").unwrap(), "kept");
    let mode = fs::metadata("/dev/shm").unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o1777);

    symlink("/run/systemd", "/lead").unwrap();
    fs::create_dir_all("/run/systemd").unwrap();
    let refused = memory("/lead", &[]);
    assert!(
        matches!(refused, Err(ShareError::Elsewhere { .. })),
        "{refused:?}"
    );
    let refused = memory("/odd", &["colour=red"]).unwrap_err().to_string();
    assert!(refused.starts_with("/odd cannot be mounted"), "{refused}");
}

#[test]
fn links_of_nixos_lead_to_the_file_and_never_to_another_programs() {
    if !in_namespaces("links_of_nixos_lead_to_the_file_and_never_to_another_programs") {
        return;
    }
    enter_a_root();
    // A file of the closure: covered where it is, and the links stay.
    fs::write("/nix/store/hosts-1/hosts", "of the closure\n").unwrap();
    symlink("/nix/store/hosts-1", "/etc/static").unwrap();
    symlink("/etc/static/hosts", "/etc/hosts").unwrap();
    bring_up("hosts", "/etc/hosts", &["rbind"]).unwrap();
    assert!(fs::symlink_metadata("/etc/hosts").unwrap().is_symlink());
    assert_eq!(fs::read_to_string("/etc/hosts").unwrap(), "192.0.2.1 pod\n");
    // A file that a service makes anew whenever it likes: the link is covered, and there again afterwards.
    let stub = Path::new("/run/systemd/resolve/stub-resolv.conf");
    symlink(stub, "/etc/resolv.conf").unwrap();
    for exists in [false, true] {
        if exists {
            fs::create_dir_all(stub.parent().unwrap()).unwrap();
            fs::write(stub, "nameserver 127.0.0.53\n").unwrap();
        }
        for _ in 0..2 {
            bring_up("hosts", "/etc/resolv.conf", &["rbind", "ro"]).unwrap();
        }
        let text = fs::read_to_string("/etc/resolv.conf").unwrap();
        assert_eq!(text, "192.0.2.1 pod\n");
        assert!(fs::write("/etc/resolv.conf", "x").is_err());
        assert_eq!(lines("/etc/resolv.conf").len(), 1);
        mount::unmount(Path::new("/etc/resolv.conf")).unwrap();
        assert_eq!(fs::read_link("/etc/resolv.conf").unwrap(), stub);
        assert_eq!(stub.exists(), exists);
    }
    fs::remove_dir_all("/run/systemd").unwrap();
    // `/var/run` is a link on every system, and leads to a place of its own.
    fs::create_dir("/var").unwrap();
    symlink("../run", "/var/run").unwrap();
    let account = "/var/run/secrets/kubernetes.io/serviceaccount";
    bring_up("config", account, &["rbind", "ro"]).unwrap();
    let key = "/run/secrets/kubernetes.io/serviceaccount/key";
    assert_eq!(fs::read_to_string(key).unwrap(), "1");
}

#[test]
fn name_servers_cover_a_link_and_leave_the_closures_own_word() {
    if !in_namespaces("name_servers_cover_a_link_and_leave_the_closures_own_word") {
        return;
    }
    enter_a_root();
    let (path, copy) = (Path::new("/etc/resolv.conf"), Path::new("/run/seed/copy"));
    let text = || fs::read_to_string(path).unwrap();
    resolver::write(path, copy, "nameserver 192.0.2.1\n").unwrap();
    assert_eq!(text(), "nameserver 192.0.2.1\n");
    assert!(lines("/etc/resolv.conf").is_empty());
    // Of systemd-resolved, before it has begun.
    fs::remove_file(path).unwrap();
    symlink("../run/systemd/resolve/stub-resolv.conf", path).unwrap();
    for number in 1..3 {
        let line = format!("nameserver 192.0.2.{number}\n");
        resolver::write(path, copy, &line).unwrap();
        assert_eq!(text(), line);
        assert_eq!(lines("/etc/resolv.conf").len(), 1);
    }
    mount::unmount(path).unwrap();
    assert!(path.is_symlink() && !Path::new("/run/systemd").exists());
    // The closure's.
    fs::remove_file(path).unwrap();
    fs::write("/nix/store/hosts-1/resolv.conf", "nameserver ::1\n").unwrap();
    symlink("/nix/store/hosts-1/resolv.conf", path).unwrap();
    resolver::write(path, copy, "nameserver 192.0.2.1\n").unwrap();
    assert_eq!(text(), "nameserver ::1\n");
}

#[test]
fn a_disk_is_at_the_place_that_the_host_knows_too() {
    if !in_namespaces("a_disk_is_at_the_place_that_the_host_knows_too") {
        return;
    }
    enter_a_root();
    let place = format!("{SHARED}/sandbox/storage/MDIvMDM=");
    let mut disks = [RawStorage {
        driver: "blk".to_owned(),
        mount_point: place.clone(),
        ..RawStorage::default()
    }];
    let bind = RawMount {
        destination: "/srv/data".to_owned(),
        source: place.clone(),
        kind: "bind".to_owned(),
        options: vec!["rbind".to_owned()],
    };
    let mut mounts = oci::parse(vec![bind]).unwrap();
    let known = oci::straighten(&mut disks, &mut mounts);
    // In place of the disk.
    fs::create_dir_all("/srv/data").unwrap();
    let flags = MountOptions::default().flags;
    mount::mount(
        Path::new("disk"),
        Path::new(&disks[0].mount_point),
        "tmpfs",
        flags,
        "size=1m",
    )
    .unwrap();
    for _ in 0..2 {
        let mut shares = known.iter();
        shares
            .try_for_each(|share| share::bring_up(share, Path::new(SHARED)))
            .unwrap();
    }
    fs::write("/srv/data/file", "x").unwrap();
    assert_eq!(fs::read_to_string(format!("{place}/file")).unwrap(), "x");
    assert_eq!(lines(&place).len(), 1);
    let usage = online::usage(Path::new(&place)).unwrap();
    assert_eq!(usage.bytes.total, 1 << 20);
}

#[test]
fn no_two_things_are_at_one_place_whatever_links_lead_there() {
    if !in_namespaces("no_two_things_are_at_one_place_whatever_links_lead_there") {
        return;
    }
    enter_a_root();
    fs::create_dir_all("/var/data").unwrap();
    symlink("/var/data", "/srv").unwrap();
    let raw = |destination: &str| RawMount {
        destination: destination.to_owned(),
        source: source("config"),
        kind: "bind".to_owned(),
        options: Vec::new(),
    };
    let check = |places: &[&str]| {
        let mounts = oci::parse(places.iter().map(|place| raw(place)).collect()).unwrap();
        oci::check_places(&mounts, &[])
    };
    assert!(check(&["/srv/a", "/var/data/b"]).is_ok());
    assert!(check(&["/srv/a/new", "/var/data/a/new"]).is_err());
}

#[test]
fn no_link_leads_over_the_system_or_out_of_what_is_shared() {
    if !in_namespaces("no_link_leads_over_the_system_or_out_of_what_is_shared") {
        return;
    }
    enter_a_root();
    fs::create_dir_all("/run/systemd").unwrap();
    symlink("/run/systemd", "/data").unwrap();
    symlink("/", "/root-again").unwrap();
    for place in [
        "/data",
        "/data/private",
        "/root-again/etc",
        "/root-again/proc",
    ] {
        let refused = bring_up("config", place, &["rbind"]);
        assert!(
            matches!(refused, Err(ShareError::Elsewhere { .. })),
            "{place}: {refused:?}"
        );
    }
    assert!(Path::new("/data").is_symlink());
    fs::write("/etc/shadow", "secret").unwrap();
    symlink("/etc/shadow", source("out")).unwrap();
    let refused = bring_up("out", "/out", &["rbind"]);
    assert!(
        matches!(refused, Err(ShareError::Source { .. })),
        "{refused:?}"
    );
    let missing = bring_up("nothing", "/x", &["rbind"]).unwrap_err();
    let text = missing.to_string();
    assert!(text.starts_with(&source("nothing")), "{text}");
}
