//! Real mounts, in a mount namespace of the test's own. They need the right to mount: without it the cases are
//! skipped, and say so.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    thread,
};

use seed_shim::{
    rootfs::{RootMount, Rootfs},
    share::Share,
    spec::SharedMount,
    sys,
    writes::{InMemory, WritesMib},
};

/// Runs `case` in a thread that has mounts of its own.
fn apart(case: impl FnOnce(&Path) + Send + 'static) {
    // libtest calls a test's thread by the test's name.
    let test = thread::current().name().unwrap_or_default().to_owned();
    let ran = thread::spawn(move || {
        if let Err(error) = sys::unshare_mounts() {
            let text = format!("SKIPPED {test}: a private mount namespace needs root: {error}\n");
            io::stderr().write_all(text.as_bytes()).unwrap();
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        case(&dir.path().canonicalize().unwrap());
    });
    ran.join().unwrap();
}

fn mount(kind: &str, source: &Path, target: &str, options: &[&str]) -> RootMount {
    RootMount {
        kind: kind.into(),
        source: source.to_string_lossy().into_owned(),
        target: target.into(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    }
}

fn layers(dir: &Path) -> RootMount {
    for layer in ["lower", "upper", "work"] {
        fs::create_dir(dir.join(layer)).unwrap();
    }
    let option = |name: &str, layer: &str| format!("{name}={}", dir.join(layer).display());
    let options = [
        option("lowerdir", "lower"),
        option("upperdir", "upper"),
        option("workdir", "work"),
    ];
    mount(
        "overlay",
        Path::new("overlay"),
        "",
        &options.each_ref().map(String::as_str),
    )
}

fn mounts_under(dir: &Path) -> usize {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let under = dir.to_string_lossy().into_owned();
    table
        .lines()
        .filter(|line| {
            line.split(' ')
                .nth(4)
                .is_some_and(|at| at.starts_with(&under))
        })
        .count()
}

#[test]
fn an_overlay_with_seventy_binds_is_one_root_and_is_gone_after() {
    apart(|dir| {
        let mut all = vec![layers(dir)];
        fs::write(dir.join("lower/file"), "lower").unwrap();
        for number in 0..70 {
            let source = dir.join(format!("store/{number}"));
            fs::create_dir_all(&source).unwrap();
            fs::write(source.join("name"), number.to_string()).unwrap();
            all.push(mount(
                "bind",
                &source,
                &format!("/nix/store/{number}"),
                &["rbind", "ro"],
            ));
        }
        let root = dir.join("rootfs");
        let rootfs = Rootfs::mount(&root, &all, None).unwrap();
        assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "lower");
        assert_eq!(
            fs::read_to_string(root.join("nix/store/69/name")).unwrap(),
            "69"
        );
        assert!(
            fs::write(root.join("nix/store/3/name"), "x").is_err(),
            "it is read-only"
        );
        fs::write(root.join("new"), "upper").unwrap();
        assert!(dir.join("upper/new").exists() && !dir.join("lower/new").exists());
        assert_eq!(mounts_under(&root), 71);
        drop(rootfs);
        assert_eq!(mounts_under(&root), 0);
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    });
}

#[test]
fn a_link_in_the_image_does_not_lead_a_mount_out_of_the_root() {
    apart(|dir| {
        let overlay = layers(dir);
        fs::create_dir(dir.join("outside")).unwrap();
        fs::create_dir(dir.join("store")).unwrap();
        fs::write(dir.join("store/name"), "store").unwrap();
        fs::create_dir(dir.join("lower/real")).unwrap();
        symlink("../../../../real", dir.join("lower/nix")).unwrap();
        let bind = mount("bind", &dir.join("store"), "/nix", &["rbind"]);
        let root = dir.join("rootfs");
        let _rootfs = Rootfs::mount(&root, &[overlay, bind], None).unwrap();
        assert_eq!(fs::read_to_string(root.join("real/name")).unwrap(), "store");
        assert_eq!(fs::read_dir(dir.join("outside")).unwrap().count(), 0);
    });
}

/// Whether the mount at `at` has this option.
fn has(at: &Path, option: &str) -> bool {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let line = table
        .lines()
        .rev()
        .find(|line| line.split(' ').nth(4) == at.to_str())
        .unwrap();
    line.split(' ')
        .nth(5)
        .unwrap()
        .split(',')
        .any(|one| one == option)
}

fn tmpfs(at: &Path) {
    fs::create_dir_all(at).unwrap();
    rustix::mount::mount("test", at, "tmpfs", rustix::mount::MountFlags::NOEXEC, None).unwrap();
}

#[test]
fn restrictions_of_a_recursive_bind_reach_every_mount_below() {
    apart(|dir| {
        tmpfs(&dir.join("source"));
        tmpfs(&dir.join("source/deep"));
        tmpfs(&dir.join("source/deep/deeper"));
        let flags = ["rbind", "rro", "nosuid", "nodev"];
        let bind = mount("bind", &dir.join("source"), "/data", &flags);
        let root = dir.join("rootfs");
        let _rootfs = Rootfs::mount(&root, &[layers(dir), bind], None).unwrap();
        for at in ["data", "data/deep", "data/deep/deeper"] {
            let at = root.join(at);
            for option in ["ro", "nosuid", "nodev", "noexec"] {
                assert!(has(&at, option), "{} is not {option}", at.display());
            }
            assert!(fs::write(at.join("new"), "x").is_err(), "{}", at.display());
        }
        // The host's own are as they were, and what is mounted there later stays there.
        fs::write(dir.join("source/deep/deeper/new"), "x").unwrap();
        tmpfs(&dir.join("source/later"));
        assert!(root.join("data/later").exists());
        assert!(fs::write(root.join("data/later/new"), "x").is_err());
    });
}

#[test]
fn a_share_is_read_only_itself_and_what_may_be_written_is_not() {
    apart(|dir| {
        tmpfs(&dir.join("pod"));
        fs::create_dir(dir.join("pod/writable")).unwrap();
        fs::write(dir.join("pod/hosts"), "hosts").unwrap();
        let shared = |name: &str, options: &[&str]| SharedMount {
            name: name.into(),
            source: dir.join("pod").join(name),
            destination: Path::new("/").join(name),
            options: options.iter().map(|&option| option.to_owned()).collect(),
        };
        let all = [shared("hosts", &["ro"]), shared("writable", &["rbind"])];
        let at = dir.join("share");
        let share = Share::make(&at, &all).unwrap();
        assert!(fs::write(at.join("new"), "x").is_err());
        assert!(fs::create_dir(at.join("folder")).is_err());
        assert!(fs::write(at.join("hosts"), "x").is_err());
        fs::write(at.join("writable/new"), "x").unwrap();
        assert_eq!(fs::read_to_string(at.join("hosts")).unwrap(), "hosts");
        for name in ["hosts", "writable"] {
            assert!(has(&at.join(name), "nosuid") && has(&at.join(name), "nodev"));
        }
        drop(share);
        assert_eq!(mounts_under(&at), 0);
        assert!(dir.join("pod/writable/new").exists());
    });
}

#[test]
fn a_mount_that_fails_leaves_none_behind_and_is_named() {
    apart(|dir| {
        let missing = mount("bind", Path::new("/nonexistent/store"), "/nix", &["rbind"]);
        let root = dir.join("rootfs");
        let error = Rootfs::mount(&root, &[layers(dir), missing], None)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/nonexistent/store") && error.contains("/nix"),
            "{error}"
        );
        assert_eq!(mounts_under(&root), 0);
    });
}

#[test]
fn writes_kept_in_memory_end_at_their_size_and_reach_no_layer() {
    apart(|dir| {
        let overlay = layers(dir);
        fs::write(dir.join("lower/file"), "lower").unwrap();
        fs::set_permissions(dir.join("upper"), fs::Permissions::from_mode(0o711)).unwrap();
        fs::create_dir(dir.join("store")).unwrap();
        fs::write(dir.join("store/name"), "store").unwrap();
        let bind = mount("bind", &dir.join("store"), "/nix/store", &["rbind", "ro"]);
        // Names that overlayfs's own options could not have.
        let (root, at) = (dir.join("root, :fs"), dir.join("writes, :here"));
        let mib = WritesMib::parse(2).unwrap().unwrap();
        let writes = InMemory { at: &at, mib };
        let rootfs = Rootfs::mount(&root, &[overlay, bind], Some(writes)).unwrap();
        assert!(!at.exists());
        let mode = fs::metadata(&root).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o711, "the root is as it was below");
        assert_eq!(
            fs::read_to_string(root.join("nix/store/name")).unwrap(),
            "store"
        );

        fs::write(root.join("new"), "kept").unwrap();
        fs::write(root.join("file"), "changed").unwrap();
        assert_eq!(fs::read_to_string(root.join("new")).unwrap(), "kept");
        let upper: Vec<_> = fs::read_dir(dir.join("upper")).unwrap().collect();
        assert_eq!(upper.len(), 0, "{upper:?}");
        assert_eq!(fs::read_to_string(dir.join("lower/file")).unwrap(), "lower");

        let full = fs::write(root.join("much"), vec![1; 3 << 20]).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        fs::remove_file(root.join("much")).unwrap();
        let many = (0..2000).find_map(|n| fs::write(root.join(n.to_string()), "").err());
        assert_eq!(many.unwrap().kind(), io::ErrorKind::StorageFull);

        drop(rootfs);
        assert_eq!(mounts_under(dir), 0);
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    });
}

#[test]
fn writes_are_kept_in_memory_also_of_a_root_that_nobody_mounted() {
    apart(|dir| {
        let root = dir.join("root");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("file"), "before").unwrap();
        let mib = WritesMib::parse(1).unwrap().unwrap();
        for _ in 0..2 {
            let at = dir.join("run/writes");
            let writes = InMemory { at: &at, mib };
            let rootfs = Rootfs::mount(&root, &[], Some(writes)).unwrap();
            assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "before");
            fs::write(root.join("file"), "after").unwrap();
            drop(rootfs);
        }
        assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "before");
        assert_eq!(mounts_under(dir), 0);
    });
}
