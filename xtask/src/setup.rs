//! `cargo xtask setup`: what the lab needs on this machine, and the installation of what is missing.
//!
//! Demo and bench need less than the tests ([`Need`]). It looks first, names each package that it is about to install, and uses apt (by sudo when not
//! root). What the release does not package is built with cargo, at pinned versions, into the cache.
//! On a distribution that it does not know it only says what is needed.

use std::{
    collections::BTreeMap,
    fs, iter,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};

use crate::{
    containerd,
    util::{self, Places, say},
};

/// What the machine is to be made ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// To build, to make the guest's root, and to run instances: demo and bench.
    Run,
    /// And everything that the tests use.
    Test,
    /// To build fuzz targets; nothing of the others.
    Fuzz,
    /// To compare the seed shell with OpenSSH; nothing of the others.
    Shell,
    /// To compare the journal's reader with systemd's own; nothing of the others.
    Journal,
}

/// A Debian package and what it is for.
type Package = (&'static str, &'static str);

/// On every release.
const PACKAGES: &[Package] = &[
    ("qemu-system-x86", "the VMM"),
    ("swtpm", "the TPM of each instance"),
    ("mmdebstrap", "builds the guest's root"),
    (
        "debian-archive-keyring",
        "checks what the guest's root is built from",
    ),
    ("age", "encrypts to the instance's key"),
    ("cpio", "packs the guest's initrd"),
    ("xz-utils", "unpacks the guest's kernel modules"),
    ("gcc", "links Rust programs"),
    ("libc6-dev", "links Rust programs"),
];
/// For tests.
const TEST_PACKAGES: &[Package] = &[
    ("curl", "fetches certificates, as in guests"),
    ("dbus-daemon", "a private bus for tests"),
    ("e2fsprogs", "makes damaged and foreign volumes for tests"),
    ("iproute2", "links in namespaces of their own, for tests"),
    ("jq", "makes pages in Nix builds"),
    ("libtss2-dev", "a second TPM stack to test ours against"),
    ("nix-bin", "evaluates the Nix files; no daemon, no store"),
    ("openssh-client", "the client that asks the seed shell"),
    ("openssl", "an authority for tests"),
    ("pkg-config", "finds libraries at build time"),
    ("systemd", "journalctl, a reader to test ours against"),
    ("tmux", "a terminal for the seed shell's dashboard"),
    ("tpm2-openssl", "OpenSSL with keys in a TPM, as in guests"),
    ("uidmap", "namespaces of ordinary users, for tests"),
];
/// Only to build virtiofsd.
const VIRTIOFSD_BUILD: &[Package] = &[
    ("libcap-ng-dev", "to build virtiofsd"),
    ("libseccomp-dev", "to build virtiofsd"),
];
const VIRTIOFSD_PACKAGE: Package = ("virtiofsd", "shows the guest its root");

/// What a reader of the README installs who has not got this far.
const BEFORE: [&str; 2] = ["ca-certificates", "git"];

/// Whether a document may tell its readers to install a package of this name.
pub(crate) fn is_package(name: &str) -> bool {
    let lists = [
        PACKAGES,
        TEST_PACKAGES,
        VIRTIOFSD_BUILD,
        &[VIRTIOFSD_PACKAGE],
    ];
    let mut known = lists.into_iter().flatten().map(|(name, _)| *name);
    BEFORE.contains(&name) || known.any(|known| known == name)
}

/// A program that is built with cargo.
struct Tool {
    /// The crate, at this version.
    name: &'static str,
    version: &'static str,
    program: &'static str,
    /// Quick to build rather than quick to run.
    debug: bool,
}

const VIRTIOFSD: Tool = Tool {
    name: "virtiofsd",
    version: "1.13.2",
    program: "virtiofsd",
    debug: false,
};
/// For the Nix files, and for licences, sources and advisories.
const TEST_TOOLS: &[Tool] = &[
    Tool {
        name: "cargo-deny",
        version: "0.20.2",
        program: "cargo-deny",
        debug: true,
    },
    Tool {
        name: "nixfmt_rs",
        version: "0.5.3",
        program: "nixfmt",
        debug: true,
    },
    Tool {
        name: "deadnix",
        version: "1.3.1",
        program: "deadnix",
        debug: true,
    },
];

/// To measure the seed shell.
const SHELL_PACKAGES: &[Package] = &[
    ("openssh-client", "the client that asks both servers"),
    (
        "openssh-server",
        "the server to compare the seed shell with",
    ),
];
const SHELL_PROGRAMS: &[&str] = &["ssh", "sshd"];
/// To measure the journal.
const JOURNAL_PACKAGES: &[Package] = &[
    (
        "systemd",
        "starts the server of the journal for one connection",
    ),
    (
        "systemd-journal-remote",
        "a server of the journal to compare the reader with",
    ),
];
const JOURNAL_PROGRAMS: &[&str] = &["systemd-socket-activate", "cc"];
/// For fuzz targets.
const FUZZ_PACKAGES: &[Package] = &[
    ("gcc", "links Rust programs"),
    ("g++", "builds libFuzzer"),
    ("libc6-dev", "links Rust programs"),
];
const FUZZER: Tool = Tool {
    name: "cargo-fuzz",
    version: "0.13.2",
    program: "cargo-fuzz",
    debug: true,
};

/// Lists older than this may name packages that the mirror has no more.
const LISTS_STALE: Duration = Duration::from_secs(24 * 3600);
/// What apt is told beside: another one that is at work is waited for, so many seconds.
const APT_OPTIONS: [&str; 3] = ["--quiet", "--option", "DPkg::Lock::Timeout=300"];

/// What this machine runs.
#[derive(Debug, PartialEq, Eq)]
enum Distribution {
    Debian12,
    Debian13,
    NixOs,
    Other(String),
}

/// Makes sure that everything is there. Quick when it is.
pub(crate) fn run(places: &Places, need: Need) -> Result<()> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let release = distribution(&release);
    let (more, tool) = match &release {
        Distribution::Debian12 => (VIRTIOFSD_BUILD, Some(VIRTIOFSD)),
        Distribution::Debian13 => (&[VIRTIOFSD_PACKAGE][..], None),
        Distribution::NixOs => return in_nix_shell(places, need),
        Distribution::Other(name) => return on_other(places, need, name),
    };
    let for_tests = match need {
        Need::Run => (&[][..], &[][..]),
        Need::Test => (TEST_PACKAGES, TEST_TOOLS),
        Need::Fuzz => {
            install(places, FUZZ_PACKAGES)?;
            return build_tool(places, &FUZZER);
        }
        Need::Shell => return install(places, SHELL_PACKAGES),
        Need::Journal => return install(places, JOURNAL_PACKAGES),
    };
    let packages = PACKAGES.iter().chain(more).chain(for_tests.0);
    install(places, &packages.copied().collect::<Vec<_>>())?;
    let tools = tool.iter().chain(for_tests.1);
    tools
        .into_iter()
        .try_for_each(|tool| build_tool(places, tool))?;
    if need == Need::Test {
        containerd::unpack(places)?;
    }
    Ok(())
}

fn distribution(os_release: &str) -> Distribution {
    let fields: BTreeMap<_, _> = os_release
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name, value.trim_matches('"')))
        .collect();
    let field = |name: &str| fields.get(name).copied().unwrap_or_default();
    match (field("ID"), field("VERSION_ID")) {
        ("debian", "12") => Distribution::Debian12,
        ("debian", "13") => Distribution::Debian13,
        ("nixos", _) => Distribution::NixOs,
        _ if field("PRETTY_NAME").is_empty() => Distribution::Other("this system".to_owned()),
        _ => Distribution::Other(field("PRETTY_NAME").to_owned()),
    }
}

/// Installs what dpkg does not have.
fn install(places: &Places, wanted: &[Package]) -> Result<()> {
    let missing = missing(wanted)?;
    if missing.is_empty() {
        return Ok(());
    }
    say("These Debian packages are missing and will be installed now:");
    for (name, what) in &missing {
        say(&format!("  {name:<24} {what}"));
    }
    if !util::is_root() && util::which("sudo", &places.path_variable()).is_none() {
        bail!("installing needs root: run this as root, or install sudo");
    }
    let mut stale = lists_are_stale(Path::new("/var/lib/apt/lists"));
    util::twice(util::NETWORK_PAUSE, || {
        // However new they are, the mirror may have changed since.
        if std::mem::replace(&mut stale, true) {
            let mut update = util::privileged("apt-get", &[]);
            update.args(APT_OPTIONS).arg("update");
            util::step(places, "apt-get update", &mut update)?;
        }
        let mut command = util::privileged(
            "apt-get",
            // Daemons are not started by their installation (invoke-rc.d(8)): tests start their own.
            &[("DEBIAN_FRONTEND", "noninteractive"), ("RUNLEVEL", "1")],
        );
        command
            .args(APT_OPTIONS)
            .args(["install", "--yes", "--no-install-recommends"])
            .args(missing.iter().map(|(name, _)| name));
        util::step(places, "apt-get install", &mut command)
    })
}

fn missing(wanted: &[Package]) -> Result<Vec<Package>> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"]);
    query.args(wanted.iter().map(|(name, _)| name));
    // It exits with 1 when it does not know one of them; the others are listed all the same.
    let output = util::output(&mut query)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let installed = |name: &str| text.lines().any(|line| line == format!("{name} installed"));
    Ok(wanted
        .iter()
        .filter(|(name, _)| !installed(name))
        .copied()
        .collect())
}

/// No lists, or old ones.
fn lists_are_stale(lists: &Path) -> bool {
    let Ok(entries) = fs::read_dir(lists) else {
        return true;
    };
    let has_packages = entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().contains("_Packages"));
    // apt renames what it fetched from `partial` into the folder: either time may be the last update's.
    let modified = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let age = modified(lists)
        .max(modified(&lists.join("partial")))
        .and_then(|time| SystemTime::now().duration_since(time).ok());
    !has_packages || age.is_none_or(|age| age > LISTS_STALE)
}

/// Builds a program into the cache unless that version is there.
fn build_tool(places: &Places, tool: &Tool) -> Result<()> {
    let Tool { name, version, .. } = tool;
    let tools = places.tools();
    let program = tools.join("bin").join(tool.program);
    let present = util::output(Command::new(&program).arg("--version"))
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    if present.is_ok_and(|text| text.ends_with(&format!(" {version}"))) {
        return Ok(());
    }
    say(&format!(
        "{name} {version} is not packaged for this release: building it into {}",
        tools.display()
    ));
    let build = places.cache.join("build");
    let mut cargo = Command::new("cargo");
    cargo
        .args(["install", "--locked", "--force", "--version", version, name])
        .args(tool.debug.then_some("--debug"))
        .arg("--root")
        .arg(&tools)
        .arg("--target-dir")
        .arg(&build)
        // A quarter less time for what only a lab uses.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .current_dir("/");
    util::step(places, &format!("cargo install {name}"), &mut cargo)?;
    fs::remove_dir_all(&build).with_context(|| format!("remove {}", build.display()))
}

/// Programs that must be found where this tool does not install.
const PROGRAMS: &[&str] = &[
    "qemu-system-x86_64",
    "swtpm",
    "virtiofsd",
    "mmdebstrap",
    "age",
    "cpio",
    "xz",
];
const TEST_PROGRAMS: &[&str] = &[
    "cargo-deny",
    "curl",
    "mkfs.ext4",
    "dbus-daemon",
    "ip",
    "jq",
    "openssl",
    "pkg-config",
    "ssh",
    "tmux",
    "nix-instantiate",
    "nixfmt",
    "deadnix",
];
const FUZZ_PROGRAMS: &[&str] = &["c++", "cargo-fuzz"];

fn absent(places: &Places, need: Need) -> Vec<&'static str> {
    let path = format!("{}:/usr/libexec:/usr/sbin", places.path_variable());
    let found = |name: &&&str| util::which(name, &path).is_none();
    let (run, more) = match need {
        Need::Run => (PROGRAMS, &[][..]),
        Need::Test => (PROGRAMS, TEST_PROGRAMS),
        Need::Fuzz => (FUZZ_PROGRAMS, &[][..]),
        Need::Shell => (SHELL_PROGRAMS, &[][..]),
        Need::Journal => (JOURNAL_PROGRAMS, &[][..]),
    };
    let all = run.iter().chain(more);
    all.filter(found).copied().collect()
}

fn in_nix_shell(places: &Places, need: Need) -> Result<()> {
    let absent = absent(places, need);
    if absent.is_empty() {
        return Ok(());
    }
    // nixpkgs has no mmdebstrap.
    let remedy = if absent.contains(&"mmdebstrap") {
        "run this inside `nix develop`, which brings all but mmdebstrap: that one makes the Debian guest of demo and VM cases, \
         and nixpkgs does not have it"
    } else {
        "run this inside `nix develop`, which brings them"
    };
    bail!("not found: {}\n{remedy}", absent.join(", "))
}

fn on_other(places: &Places, need: Need, name: &str) -> Result<()> {
    let absent = absent(places, need);
    if absent.is_empty() {
        return Ok(());
    }
    let tools = iter::once(&VIRTIOFSD).chain(TEST_TOOLS);
    let tools: Vec<_> = tools
        .map(|tool| format!("{} {}", tool.name, tool.version))
        .collect();
    bail!(
        "{name} is not a system that this tool installs on (Debian 12 and 13 are)\nnot found here: {}\n\
         install them and, for the tests, the development files of tpm2-tss, then run this again; \
         with `cargo install --locked` one can build {}",
        absent.join(", "),
        tools.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_told_apart() {
        let debian = |version: &str| {
            distribution(&format!(
                "PRETTY_NAME=\"Debian\"\nID=debian\nVERSION_ID=\"{version}\"\n"
            ))
        };
        assert_eq!(debian("12"), Distribution::Debian12);
        assert_eq!(debian("13"), Distribution::Debian13);
        assert_eq!(debian("11"), Distribution::Other("Debian".to_owned()));
        assert_eq!(
            distribution("ID=nixos\nVERSION_ID=\"25.11\"\n"),
            Distribution::NixOs
        );
        assert_eq!(
            distribution(""),
            Distribution::Other("this system".to_owned())
        );
    }

    #[test]
    fn missing_lists_are_stale() {
        assert!(lists_are_stale(Path::new("/nonexistent/lists")));
    }
}
