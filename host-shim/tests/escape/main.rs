//! A guest that tries to leave its share: no guest's kernel but a client that says to virtiofsd, on our own command line, what no
//! kernel would, and swaps links while names are looked up. Nothing outside of the share is read, written or named.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod fuse;
mod vhost;
#[path = "../vhost_user/mod.rs"]
mod vhost_user;

use std::{
    collections::HashSet,
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use fuse::{Entry, Guest, ROOT};
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use seed_shim::vmm::helpers::{Cache, virtiofsd};

const OUTSIDE: &str = "of the host";
const INSIDE: &str = "of the guest";

/// How many names are looked up while they change.
const SWAPS: usize = 3000;

/// A share with a file server, and what lies beside it.
struct Share {
    dir: tempfile::TempDir,
    server: Child,
}

impl Drop for Share {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Share {
    /// None, and a word about it, where it cannot be.
    fn make(test: &str) -> Option<Self> {
        let found = Command::new("virtiofsd").arg("--version").output();
        let missing = match found {
            Err(_) => Some("no virtiofsd in PATH"),
            Ok(_) if !rustix::process::geteuid().is_root() => Some("the sandbox needs root"),
            Ok(_) => None,
        };
        if let Some(reason) = missing {
            let text = format!("SKIPPED {test}: {reason}\n");
            std::io::stderr().write_all(text.as_bytes()).unwrap();
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path().join("share");
        for folder in ["share/folder", "outside"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        fs::write(share.join("file"), INSIDE).unwrap();
        fs::write(share.join("folder/secret"), INSIDE).unwrap();
        fs::write(dir.path().join("outside/secret"), OUTSIDE).unwrap();
        let args = virtiofsd(&dir.path().join("socket"), &share, Cache::Always);
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new("virtiofsd");
        command.args(args).stdin(Stdio::null()).stderr(log);
        let server = command.spawn().unwrap();
        Some(Self { dir, server })
    }

    fn guest(&self) -> Guest {
        Guest::connect(&self.dir.path().join("socket"))
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("share")
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    /// What the guest may know of.
    fn inodes(&self) -> HashSet<u64> {
        let mut all = HashSet::new();
        let mut left = vec![self.path()];
        while let Some(path) = left.pop() {
            let meta = fs::symlink_metadata(&path).unwrap();
            all.insert(meta.ino());
            if meta.is_dir() {
                left.extend(
                    fs::read_dir(&path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
            }
        }
        all
    }

    fn assert_untouched(&self) {
        let names: Vec<_> = fs::read_dir(self.outside()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        let text = fs::read_to_string(self.outside().join("secret")).unwrap();
        assert_eq!(text, OUTSIDE);
        let beside = fs::read_dir(self.dir.path()).unwrap();
        let mut beside: Vec<_> = beside.map(|entry| entry.unwrap().file_name()).collect();
        beside.sort();
        assert_eq!(beside, ["log", "outside", "share", "socket", "socket.pid"]);
    }
}

#[test]
fn names_that_lead_out_of_a_share_lead_nowhere() {
    let Some(share) = Share::make("names_that_lead_out_of_a_share") else {
        return;
    };
    let mut guest = share.guest();
    // The client is one that gets at what it may.
    let file = guest.lookup(ROOT, "file").unwrap();
    assert_eq!(guest.read_file(file.node).unwrap(), INSIDE.as_bytes());
    let folder = guest.lookup(ROOT, "folder").unwrap().node;

    let secret = share.outside().join("secret").display().to_string();
    let names = [
        "..",
        "../",
        "../outside",
        "../outside/secret",
        "folder/../../outside/secret",
        "folder/secret",
        "./../outside",
        "/",
        "/etc/passwd",
        "/proc/self/root",
        "/proc/self/root/etc/passwd",
        "/proc/self/fd/3",
        "//",
        "",
        ".",
        secret.as_str(),
    ];
    for parent in [ROOT, folder] {
        for name in names {
            // A name with slashes may be taken, for a path inside.
            fs::write(share.path().join("file"), INSIDE).unwrap();
            for (what, came) in [
                ("found", guest.lookup(parent, name)),
                ("a folder", guest.make_dir(parent, name)),
                ("a node", guest.make_node(parent, name)),
                ("a link", guest.make_link(parent, name, "x")),
                ("a second name", guest.hard_link(parent, name, file.node)),
                ("a file", guest.create(parent, name)),
            ] {
                if let Ok(Entry { inode, .. }) = came {
                    let inside = share.inodes().contains(&inode);
                    assert!(inside, "{name:?}, {what}, is {inode} of the host");
                }
            }
            // Whatever comes of these, it is nowhere else.
            let _ = guest.rename(parent, name, "file");
            let _ = guest.rename(parent, "file", name);
            let _ = guest.unlink(parent, name);
            let _ = guest.remove_dir(parent, name);
            share.assert_untouched();
        }
    }
    // Above the root is the root. The kernel asks to look again where anything is renamed or mounted meanwhile: openat2(2).
    let above = loop {
        match guest.lookup(ROOT, "..") {
            Err(Errno::AGAIN) => {}
            found => break found.unwrap(),
        }
    };
    assert_eq!(above.inode, fs::metadata(share.path()).unwrap().ino());
    share.assert_untouched();
}

#[test]
fn links_are_the_guests_to_follow() {
    let Some(share) = Share::make("links_are_the_guests_to_follow") else {
        return;
    };
    let secret = share.outside().join("secret").display().to_string();
    let targets = [
        secret.as_str(),
        "../outside/secret",
        "../outside",
        "/etc/passwd",
        "/",
        "/proc/self/root",
        "/proc/self/root/etc/passwd",
        "/proc/self/fd/0",
        "/proc/1/root",
        "/dev/vda",
    ];
    let mut guest = share.guest();
    for (number, target) in targets.into_iter().enumerate() {
        // Made by the guest, or there from the start.
        let (made, found) = (format!("made-{number}"), format!("found-{number}"));
        guest.make_link(ROOT, &made, target).unwrap();
        symlink(target, share.path().join(&found)).unwrap();
        for name in [made, found] {
            let link = guest.lookup(ROOT, &name).unwrap();
            let on_host = fs::symlink_metadata(share.path().join(&name)).unwrap();
            assert_eq!(link.inode, on_host.ino(), "{name} -> {target} was followed");
            assert_eq!(link.mode & 0o170_000, 0o120_000);
            assert_eq!(guest.read_link(link.node).unwrap(), target.as_bytes());
            for below in ["secret", "etc", "passwd", ".."] {
                let found = guest.lookup(link.node, below);
                assert_eq!(found, Err(Errno::NOTDIR), "{target}/{below}");
            }
            for (what, came) in [
                ("read", guest.read_file(link.node)),
                ("listed", guest.open_dir(link.node)),
                ("cut", guest.truncate(link.node)),
                ("made in", guest.create(link.node, "planted").map(nothing)),
                ("made in", guest.make_dir(link.node, "planted").map(nothing)),
                ("made through", guest.create(ROOT, &name).map(nothing)),
            ] {
                assert!(came.is_err(), "{name} -> {target} was {what}");
            }
        }
    }
    share.assert_untouched();
}

#[test]
fn numbers_that_were_never_given_out_are_nobodys() {
    let Some(share) = Share::make("numbers_that_were_never_given_out") else {
        return;
    };
    let mut guest = share.guest();
    for node in [0, 2, 3, 77, 1 << 32, u64::MAX] {
        assert!(guest.attributes(node).is_err(), "{node}");
        assert!(guest.lookup(node, "file").is_err(), "{node}");
        assert!(guest.read_file(node).is_err(), "{node}");
        assert!(guest.open_dir(node).is_err(), "{node}");
    }
    let file = guest.lookup(ROOT, "file").unwrap().node;
    for handle in [0_u64, 1, 3, 5, 9, 1000, u64::MAX] {
        let read = guest.read(file, handle.to_le_bytes());
        assert!(read.is_err(), "file {handle}: {read:?}");
    }
    share.assert_untouched();
}

#[test]
fn what_is_swapped_while_it_is_looked_up_is_never_the_hosts() {
    let Some(share) = Share::make("what_is_swapped_while_it_is_looked_up") else {
        return;
    };
    let mut guest = share.guest();
    let (turning, other) = (share.path().join("turning"), share.path().join("other"));
    fs::create_dir(&turning).unwrap();
    fs::write(turning.join("secret"), INSIDE).unwrap();
    symlink(share.outside(), &other).unwrap();
    let inside = share.inodes();
    let done = AtomicBool::new(false);
    let (mut folders, mut links) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                renameat_with(CWD, &turning, CWD, &other, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let ended = Ended(&done);
        let mut tries = 0;
        // Until both were met often enough: how often is the scheduler's to say.
        while tries < SWAPS || folders == 0 || links == 0 {
            tries += 1;
            assert!(tries < 100 * SWAPS, "{folders} folders, {links} links");
            let found = guest.lookup(ROOT, "turning").unwrap();
            assert!(inside.contains(&found.inode), "{found:?}");
            match guest.lookup(found.node, "secret") {
                Ok(file) => {
                    folders += 1;
                    assert!(inside.contains(&file.inode), "{file:?}");
                    assert_eq!(guest.read_file(file.node).unwrap(), INSIDE.as_bytes());
                }
                Err(error) => {
                    links += 1;
                    assert_eq!(error, Errno::NOTDIR);
                }
            }
        }
        drop(ended);
    });
    share.assert_untouched();
}

/// Ends the other thread, also after a failed assertion.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_file_server_itself_sees_nothing_but_the_share() {
    let Some(share) = Share::make("the_file_server_itself_sees_nothing") else {
        return;
    };
    // It has served: its sandbox is whole by then. It ends with its client.
    let mut guest = share.guest();
    guest.lookup(ROOT, "file").unwrap();
    let server = served_by(share.server.id());
    let root = Path::new("/proc").join(server.to_string()).join("root");
    let names = |at: &Path| -> HashSet<_> {
        fs::read_dir(at)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect()
    };
    assert_eq!(names(&root), names(&share.path()));
    assert!(!root.join("etc").exists() && !root.join("proc").exists());
    let above = fs::metadata(root.join("..")).unwrap().ino();
    assert_eq!(above, fs::metadata(share.path()).unwrap().ino());
    // All that is mounted there is the share.
    let table = fs::read_to_string(format!("/proc/{server}/mountinfo")).unwrap();
    let places: Vec<_> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .collect();
    assert_eq!(places, ["/"], "{table}");
    drop(guest);
}

fn nothing(_: Entry) -> Vec<u8> {
    Vec::new()
}

/// The process that serves: the last of a row of only children.
fn served_by(first: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap();
    let mut children = children.split_whitespace();
    match (children.next(), children.next()) {
        (Some(child), None) => served_by(child.parse().unwrap()),
        (None, _) => first,
        _ => panic!("{first} has more children than one"),
    }
}
