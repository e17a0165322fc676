//! What each fuzz target does with its input: the way of the agent itself, and then what must hold of what came out.
//! A target is true when the input was taken, false when it was refused; a panic is a finding. The fuzzer runs these,
//! and so do the crate's tests over the corpus.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use seed_agent::{
    config::{Config, Instance},
    copy::{self, Piece},
    env::{self, Environment},
    network::words::{self, Network},
    server::kata::decode::{self, Request},
    storage::{MountPoint, VolumeName, online, options::MountOptions, owner::Mode},
    sys::pci::PciPath,
};

/// What a target does.
pub(crate) type Body = fn(&[u8]) -> bool;

/// All of them. A corpus has the name of its target.
pub(crate) const TARGETS: [(&str, Body); 13] = [
    ("sandbox", |input| request(Request::Sandbox, input)),
    ("container", |input| request(Request::Container, input)),
    ("exec", |input| request(Request::Exec, input)),
    ("network", |input| one_of(&NETWORK, input)),
    ("memory", |input| request(Request::Ephemeral, input)),
    ("volumes", volumes),
    ("guest", |input| one_of(&GUEST, input)),
    ("words", words_of_addresses),
    ("places", places),
    ("instance", instance),
    ("cmdline", cmdline),
    ("environment", environment),
    ("copy", copied),
];

/// Runs the target of this name.
pub(crate) fn run(name: &str, input: &[u8]) -> bool {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.expect("a target that is in the table").1(input)
}

/// A closure with a volume, so that host and closure can agree and disagree.
const CLOSURE: &str = r#"{"name":"demo","storage":{"data":{
    "mountPoint":"/seed/storage/data","user":"app","group":"app","mode":"0750"}}}"#;

/// A refusal is a sentence for the host: not empty, and not as long as what came.
fn request(request: Request, input: &[u8]) -> bool {
    let closure = Instance::parse(CLOSURE.as_bytes(), Path::new("closure"));
    match decode::check(request, input, &closure.expect("the closure is one")) {
        Ok(()) => true,
        Err(refusal) => {
            let text = refusal.to_string();
            assert!(!text.is_empty(), "a refusal without a word");
            assert!(text.len() < 8192, "a refusal of {} bytes", text.len());
            false
        }
    }
}

const NETWORK: [Request; 3] = [Request::Interface, Request::Routes, Request::Neighbours];
const VOLUMES: [Request; 4] = [
    Request::VolumeStats,
    Request::Resize,
    Request::Swap,
    Request::SwapPath,
];
/// What `seed.v1` has.
const GUEST: [Request; 4] = [
    Request::Journal,
    Request::Units,
    Request::Control,
    Request::Show,
];

/// The first byte says which.
fn one_of(requests: &[Request], input: &[u8]) -> bool {
    let Some((which, input)) = input.split_first() else {
        return false;
    };
    request(requests[usize::from(*which) % requests.len()], input)
}

/// Where a path leads that is taken cannot be told otherwise than by reading it.
fn volumes(input: &[u8]) -> bool {
    if let Ok(path) = online::volume_path(text(input.get(1..).unwrap_or_default())) {
        let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
        assert!(path.is_absolute() && path.components().all(plain));
        assert!(
            path.as_os_str().len() < 4096,
            "the kernel takes no such path"
        );
    }
    one_of(&VOLUMES, input)
}

fn text(input: &[u8]) -> &str {
    std::str::from_utf8(input).unwrap_or_default()
}

/// What is taken comes out in a form that reads as the same.
fn words_of_addresses(input: &[u8]) -> bool {
    let text = text(input);
    let mut taken = false;
    if let Ok(network) = Network::parse(text) {
        assert!(network.prefix <= words::bits(network.address));
        let again = Network::parse(&network.to_string()).expect("its own words");
        assert_eq!(again, network);
        taken = true;
    }
    if let Ok(hardware) = words::hardware(text) {
        let again = words::hardware_text(&hardware);
        assert!(again.eq_ignore_ascii_case(text));
        taken = true;
    }
    if let Ok(name) = words::link_name(text) {
        assert!(!name.contains(['/', '\0', '\n']) && name.len() < 16);
        taken = true;
    }
    taken
}

/// No place that is taken is the system's or leads up; no name leads anywhere.
fn places(input: &[u8]) -> bool {
    let text = text(input);
    let mut taken = false;
    if let Ok(place) = MountPoint::try_from(text) {
        let path = place.as_path();
        let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
        assert!(path.is_absolute() && path.components().all(plain));
        let shared = path.starts_with("/run/kata-containers/");
        for tree in ["/proc", "/sys", "/dev", "/run", "/etc", "/usr", "/seed/tpm"] {
            assert!(shared || !path.starts_with(tree), "{path:?} is in {tree}");
        }
        taken = true;
    }
    if let Ok(name) = VolumeName::try_from(text) {
        assert_eq!(Path::new(name.as_str()).components().count(), 1);
        assert!(!name.as_str().starts_with('.'));
        taken = true;
    }
    if let Ok(mode) = Mode::try_from(text) {
        assert!(mode.bits() <= 0o7777);
        taken = true;
    }
    let options: Vec<&str> = text.split(',').collect();
    let options = MountOptions::parse(&options);
    assert!(options.data.len() <= text.len(), "{options:?}");
    taken | PciPath::parse(text).is_some()
}

fn instance(input: &[u8]) -> bool {
    let Ok(instance) = Instance::parse(input, Path::new("instance.json")) else {
        return false;
    };
    for volume in instance.volumes.values() {
        let place = volume.mount_point.to_string();
        assert_eq!(
            MountPoint::try_from(place.as_str()).ok().as_ref(),
            Some(&volume.mount_point)
        );
    }
    true
}

fn cmdline(input: &[u8]) -> bool {
    let config = Config::from_cmdline(&String::from_utf8_lossy(input), Instance::default());
    // A value may be a secret: only names are kept for the log.
    assert!(config.ignored.iter().all(|name| !name.contains('=')));
    config.mistakes.is_empty()
}

/// Entries are divided by the byte 0x1e.
fn environment(input: &[u8]) -> bool {
    let entries: Vec<&[u8]> = input.split(|byte| *byte == 0x1e).collect();
    let Ok(environment) = Environment::parse(&entries) else {
        return false;
    };
    let rendered = env::render(&environment);
    let mut rest = rendered.as_slice();
    let left_out = environment.left_out();
    for (key, value) in environment.iter() {
        if left_out.contains(&key.as_str()) {
            continue;
        }
        let assigned;
        (assigned, rest) = assignment(rest);
        assert_eq!(assigned, (key.as_str().as_bytes().to_vec(), value.to_vec()));
    }
    assert!(rest.is_empty());
    true
}

/// One assignment as a shell reads it, in double quotes, and what comes after it (POSIX shell command language,
/// 2.2.3). Anything that a shell would do more with is a panic.
fn assignment(text: &[u8]) -> ((Vec<u8>, Vec<u8>), &[u8]) {
    let sign = text.iter().position(|byte| *byte == b'=');
    let (name, rest) = text.split_at(sign.expect("an assignment"));
    let mut rest = rest.strip_prefix(b"=\"").expect("a quoted value");
    let mut value = Vec::new();
    loop {
        let (byte, after) = rest.split_first().expect("an end of the quotes");
        rest = after;
        match byte {
            b'"' => break,
            b'$' | b'`' => panic!("a shell would expand this"),
            b'\\' => {
                let (escaped, after) = rest.split_first().expect("something is escaped");
                assert!(b"$`\"\\".contains(escaped), "not an escape in quotes");
                value.push(*escaped);
                rest = after;
            }
            byte => value.push(*byte),
        }
    }
    let rest = rest.strip_prefix(b"\n").expect("an end of the line");
    ((name.to_vec(), value), rest)
}

/// Pieces are divided by the byte 0x1e: a byte for the kind, a byte for offset and size, the path below the folder,
/// 0x1f, the bytes. A path that begins with `/` is taken as it is.
fn copied(input: &[u8]) -> bool {
    let lab = Lab::new();
    let mut taken = false;
    for record in input.split(|byte| *byte == 0x1e).take(16) {
        let Some(([kind, sizes], words)) = record.split_first_chunk::<2>().map(|(h, w)| (*h, w))
        else {
            continue;
        };
        let mut words = words.splitn(2, |byte| *byte == 0x1f);
        let path = String::from_utf8_lossy(words.next().unwrap_or_default()).into_owned();
        let data = words.next().unwrap_or_default().to_vec();
        let path = match path.strip_prefix('/') {
            // Absolute, and as it is: this one is not below the folder, or only if it says so.
            Some(_) => path,
            None => format!("{}/{path}", lab.root().display()),
        };
        let length = i64::try_from(data.len()).expect("it is short");
        let piece = Piece {
            path,
            file_size: length + i64::from(sizes >> 4) - i64::from(sizes & 1) * 8,
            file_mode: [0o100_644, 0o040_755, 0o120_777, 0o644, 0o060_600, u32::MAX]
                [usize::from(kind) % 6],
            dir_mode: 0o750,
            uid: -1,
            gid: -1,
            offset: i64::from(sizes & 0xe) - i64::from(sizes & 1),
            data,
        };
        taken |= copy::take(&lab.root(), &piece).is_ok();
        lab.check();
    }
    taken
}

/// A folder for copies with a way out that somebody left there, and a file beside it that must stay as it is.
struct Lab(PathBuf);

const KEPT: &str = "as it was";

impl Lab {
    fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("seed-fuzz-copy-{}-{number}", process::id());
        let lab = Self(std::env::temp_dir().join(name));
        fs::create_dir_all(lab.root()).expect("a folder for copies");
        fs::create_dir(lab.0.join("outside")).expect("a folder beside it");
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(lab.0.join("outside"), mode).expect("it is ours");
        fs::write(lab.0.join("outside/kept"), KEPT).expect("a file beside it");
        symlink("../outside", lab.root().join("way-out")).expect("a way out");
        lab
    }

    fn root(&self) -> PathBuf {
        self.0.join("copies")
    }

    fn check(&self) {
        let names = |path: PathBuf| fs::read_dir(path).expect("a folder").count();
        assert_eq!(names(self.0.clone()), 2, "something is beside the folder");
        assert_eq!(names(self.0.join("outside")), 1, "something is outside");
        let kept = fs::read_to_string(self.0.join("outside/kept"));
        assert_eq!(kept.expect("the file outside"), KEPT);
        let top = fs::metadata(self.0.join("outside")).expect("the folder outside");
        assert_eq!(top.mode() & 0o7777, 0o755, "the mode outside has changed");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
