//! Storage that is no disk, on real mounts in namespaces of their own.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails here fails the test"
)]

mod common;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use common::{in_namespaces, run};
use seed_agent::storage::{
    Share,
    share::{self, ShareError},
    spec::RawStorage,
    watch,
};

/// A folder on memory of its own: what lies below it goes with the namespace.
struct Lab {
    directory: PathBuf,
    _kept: Option<tempfile::TempDir>,
}

impl Lab {
    fn new() -> Self {
        let kept = tempfile::tempdir().unwrap();
        let directory = kept.path().to_owned();
        run(&format!("mount -t tmpfs none {}", directory.display()));
        fs::create_dir(directory.join("shared")).unwrap();
        Self {
            directory,
            _kept: Some(kept),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Waits for it; the limit is the one of the whole test.
    fn until_copy_has(&self, name: &str, text: &str) {
        let file = self.at("place").join(name);
        while fs::read_to_string(&file).unwrap() != text {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn share(&self, driver: &str, source: &Path, options: &[&str]) -> Share {
        let raw = RawStorage {
            driver: driver.into(),
            source: source.to_str().unwrap().into(),
            options: options.iter().map(|word| (*word).to_owned()).collect(),
            mount_point: self.at("place").to_str().unwrap().into(),
            ..RawStorage::default()
        };
        Share::try_from(raw).unwrap()
    }

    fn bring_up(&self, share: &Share) -> Result<(), ShareError> {
        share::bring_up(share, &self.at("shared"))
    }

    fn shown(&self) -> String {
        run(&format!(
            "findmnt -n -o FSTYPE,OPTIONS {}",
            self.at("place").display()
        ))
    }
}

#[test]
fn memory_is_mounted_once_and_takes_a_new_size() {
    if !in_namespaces("memory_is_mounted_once_and_takes_a_new_size") {
        return;
    }
    let lab = Lab::new();
    let small = lab.share("ephemeral", Path::new("tmpfs"), &["size=1m", "fsgid=4711"]);
    for _ in 0..2 {
        lab.bring_up(&small).unwrap();
    }
    assert_eq!(lab.shown().lines().count(), 1);
    assert!(lab.shown().contains("size=1024k"), "{}", lab.shown());
    let group = run(&format!("stat -c %g {}", lab.at("place").display()));
    assert_eq!(group.trim(), "4711");
    // As the Go shim has it.
    let large = lab.share("ephemeral", Path::new("tmpfs"), &["remount", "size=2m"]);
    share::update_ephemeral(&large).unwrap();
    assert!(lab.shown().contains("size=2048k"), "{}", lab.shown());
}

#[test]
fn a_bind_takes_its_flags_and_no_link_leads_it_out() {
    if !in_namespaces("a_bind_takes_its_flags_and_no_link_leads_it_out") {
        return;
    }
    let lab = Lab::new();
    let source = lab.at("shared/secret");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("key"), "1").unwrap();
    let bound = lab.share("bind", &source, &["rbind", "ro"]);
    lab.bring_up(&bound).unwrap();
    assert_eq!(fs::read_to_string(lab.at("place/key")).unwrap(), "1");
    assert!(fs::write(lab.at("place/key"), "2").is_err());
    for wanted in ["ro", "nosuid", "nodev"] {
        assert!(lab.shown().contains(wanted), "{}", lab.shown());
    }
    run(&format!("umount {}", lab.at("place").display()));

    for target in ["/etc", "../.."] {
        let _ = fs::remove_file(lab.at("shared/out"));
        symlink(target, lab.at("shared/out")).unwrap();
        let out = lab.share("bind", &lab.at("shared/out"), &[]);
        let refused = lab.bring_up(&out);
        assert!(
            matches!(refused, Err(ShareError::Source { .. })),
            "{refused:?}"
        );
    }
    // Nor does one lead the mount to a place of the system's.
    fs::remove_dir(lab.at("place")).unwrap();
    symlink("/etc", lab.at("place")).unwrap();
    let refused = lab.bring_up(&bound);
    assert!(
        matches!(refused, Err(ShareError::Elsewhere { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_bound_file_is_a_file() {
    if !in_namespaces("a_bound_file_is_a_file") {
        return;
    }
    let lab = Lab::new();
    let source = lab.at("shared/hosts");
    fs::write(&source, "127.0.0.1 localhost\n").unwrap();
    lab.bring_up(&lab.share("bind", &source, &["ro"])).unwrap();
    let text = fs::read_to_string(lab.at("place")).unwrap();
    assert_eq!(text, "127.0.0.1 localhost\n");
}

#[test]
fn layers_are_put_together_and_the_lowest_stay_as_they_are() {
    if !in_namespaces("layers_are_put_together_and_the_lowest_stay_as_they_are") {
        return;
    }
    let lab = Lab::new();
    for (name, text) in [("a", "top"), ("b", "bottom")] {
        fs::create_dir(lab.at("shared").join(name)).unwrap();
        fs::write(lab.at("shared").join(name).join("f"), text).unwrap();
    }
    fs::write(lab.at("shared/b/g"), "only here").unwrap();
    let path = |name: &str| lab.at("shared").join(name).display().to_string();
    let lower = format!("lowerdir={}:{}", path("a"), path("b"));
    let upper = format!("upperdir={},workdir={}", path("u"), path("w"));
    lab.bring_up(&lab.share("overlayfs", Path::new("overlay"), &[&lower, &upper]))
        .unwrap();
    assert_eq!(fs::read_to_string(lab.at("place/f")).unwrap(), "top");
    assert_eq!(fs::read_to_string(lab.at("place/g")).unwrap(), "only here");
    fs::write(lab.at("place/g"), "changed").unwrap();
    assert_eq!(
        fs::read_to_string(lab.at("shared/b/g")).unwrap(),
        "only here"
    );
    assert_eq!(fs::read_to_string(lab.at("shared/u/g")).unwrap(), "changed");
}

#[test]
fn a_watched_copy_follows_its_original() {
    if !in_namespaces("a_watched_copy_follows_its_original") {
        return;
    }
    let lab = Lab::new();
    let source = lab.at("shared/config");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("key"), "old").unwrap();
    lab.bring_up(&lab.share("watchable-bind", &source, &["rbind", "ro"]))
        .unwrap();
    assert!(lab.shown().starts_with("tmpfs"), "{}", lab.shown());
    assert_eq!(fs::read_to_string(lab.at("place/key")).unwrap(), "old");
    fs::write(source.join("key"), "newer").unwrap();
    lab.until_copy_has("key", "newer");
}

#[test]
fn a_watched_copy_follows_on_under_the_next_agent() {
    let test = "a_watched_copy_follows_on_under_the_next_agent";
    const FIRST_AGENT: &str = "SEED_TEST_FIRST_AGENT";
    if !in_namespaces(test) {
        return;
    }
    if let Some(directory) = std::env::var_os(FIRST_AGENT) {
        // The first agent: it makes the copy, follows it for a moment, and ends.
        let lab = Lab {
            directory: PathBuf::from(directory),
            _kept: None,
        };
        let source = lab.at("shared/con fig");
        lab.bring_up(&lab.share("watchable-bind", &source, &[]))
            .unwrap();
        return;
    }
    let lab = Lab::new();
    let source = lab.at("shared/con fig");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("key"), "old").unwrap();
    fs::write(source.join("gone"), "old").unwrap();
    let first = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(FIRST_AGENT, lab.at(""))
        .output()
        .unwrap();
    assert!(first.status.success(), "{first:?}");
    assert_eq!(fs::read_to_string(lab.at("place/key")).unwrap(), "old");
    // Nobody follows now.
    fs::write(source.join("key"), "while nobody looked").unwrap();
    fs::remove_file(source.join("gone")).unwrap();
    watch::resume(&lab.at("shared"));
    let key = fs::read_to_string(lab.at("place/key")).unwrap();
    assert_eq!(key, "while nobody looked");
    assert!(!lab.at("place/gone").exists());
    fs::write(source.join("key"), "newer").unwrap();
    lab.until_copy_has("key", "newer");
    // A copy that is taken off is followed no more, and nothing goes to what was below it.
    run(&format!("umount {}", lab.at("place").display()));
    fs::write(source.join("key"), "later").unwrap();
    watch::resume(&lab.at("shared"));
    assert!(!lab.at("place/key").exists());
}
