//! containerd of three Debian releases, runc, the CNI plugins and a static busybox, for tests and figures:
//! unpacked into the cache and never installed, so the machine's own containerd stays as it is.
//!
//! In `<cache>/containerd/`: `1.6`, `1.7` and `2.1` with containerd's programs, `runc`, `cni`, `busybox`. The
//! packages come by a private apt with its own lists; the releases' signatures are checked as always. A version
//! that the mirror has no more is replaced by the newest of its series. One that runs is a [`Daemon`].

mod daemon;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    image,
    util::{self, Places, say},
};

pub(crate) use daemon::Daemon;

/// Which packages: from bookworm, trixie and sid. runc and the others are bookworm's: they run on every later libc.
const PACKAGES: &[Package] = &[
    Package::new("1.6", "containerd", "1.6.20~ds1-1+deb12u3", "1.6."),
    Package::new("1.7", "containerd", "1.7.24~ds1-6+deb13u1", "1.7."),
    Package::new("2.1", "containerd", "2.1.9+ds1-5", "2.1."),
    Package::new("runc", "runc", "1.1.5+ds1-1+deb12u1", "1.1.5"),
    Package::new(
        "cni",
        "containernetworking-plugins",
        "1.1.1+ds1-3+b5",
        "1.1.1",
    ),
    Package::new(
        "busybox",
        "busybox-static",
        "1:1.35.0-4+deb12u1+b1",
        "1:1.35.",
    ),
];
const SUITES: [&str; 3] = ["bookworm", "trixie", "sid"];
/// Icons and screenshots of a desktop's software shop.
const DEP11: &str = "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A package that is unpacked.
#[derive(Debug)]
struct Package {
    /// The folder in the cache.
    folder: &'static str,
    name: &'static str,
    version: &'static str,
    /// What another version must begin with to stand in.
    series: &'static str,
}

impl Package {
    const fn new(
        folder: &'static str,
        name: &'static str,
        version: &'static str,
        series: &'static str,
    ) -> Self {
        Self {
            folder,
            name,
            version,
            series,
        }
    }
}

/// Where they are.
pub(crate) fn folder(places: &Places) -> PathBuf {
    places.cache.join("containerd")
}

/// Unpacks what is missing. Needs apt and dpkg.
pub(crate) fn unpack(places: &Places) -> Result<()> {
    let folder = folder(places);
    let missing: Vec<_> = PACKAGES
        .iter()
        .filter(|package| !folder.join(package.folder).is_dir())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    say(&format!(
        "containerd for tests is unpacked into {}, not installed:",
        folder.display()
    ));
    let apt = Apt::make(&folder.join("apt"))?;
    let chosen = util::twice(util::NETWORK_PAUSE, || download(places, &apt, &missing))?;
    for (package, version) in &chosen {
        let target = folder.join(package.folder);
        install(&apt.debs(), &target, package.name, version)?;
    }
    fs::remove_dir_all(&apt.folder).context("remove the private apt")
}

/// Downloads these packages; each with its version, which is one that the mirror has now.
fn download(
    places: &Places,
    apt: &Apt,
    missing: &[&'static Package],
) -> Result<Vec<(&'static Package, String)>> {
    util::step(
        places,
        "apt-get update (private)",
        apt.command("apt-get").arg("update"),
    )?;
    let mut chosen = Vec::new();
    for &package in missing {
        let listed = util::read(apt.command("apt-cache").args(["madison", package.name]))?;
        let version = choose(package, &listed)?;
        say(&format!("  {:<28} {version}", package.name));
        chosen.push((package, version));
    }
    let wanted = chosen
        .iter()
        .map(|(package, version)| format!("{}={version}", package.name));
    let mut download = apt.command("apt-get");
    download
        .arg("download")
        .args(wanted)
        .current_dir(apt.debs());
    util::step(places, "apt-get download (private)", &mut download)?;
    Ok(chosen)
}

/// The wanted version, or the newest of its series: `madison` lists the newest first.
fn choose(package: &Package, listed: &str) -> Result<String> {
    let versions: Vec<_> = listed
        .lines()
        .filter_map(|line| line.split('|').nth(1).map(str::trim))
        .collect();
    let found = versions
        .iter()
        .find(|version| **version == package.version)
        .or_else(|| versions.iter().find(|v| v.starts_with(package.series)));
    match found {
        Some(version) => Ok((*version).to_owned()),
        None => bail!(
            "the mirror has no {} {}*, only {}",
            package.name,
            package.series,
            versions.join(", ")
        ),
    }
}

/// Unpacks a package that was downloaded to `debs`; a folder that is there is whole.
fn install(debs: &Path, target: &Path, name: &str, version: &str) -> Result<()> {
    // apt writes the colon of an epoch like this in a file's name.
    let file = format!("{name}_{}_", version.replace(':', "%3a"));
    let deb = fs::read_dir(debs)?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&file))
        .with_context(|| format!("apt-get downloaded no {file}*.deb"))?
        .path();
    let part = debs.join("unpacked");
    util::read(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&part))?;
    fs::rename(&part, target).with_context(|| format!("make {}", target.display()))
}

/// An apt with lists, sources and cache of its own. It still reads how the host reaches its mirror.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn make(folder: &Path) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial", "debs"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("make {}", part.display()))?;
        }
        let mirror = image::mirror()?;
        let sources: String = SUITES
            .iter()
            .map(|suite| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))
            .collect();
        fs::write(folder.join("sources.list"), sources).context("write the sources")?;
        fs::write(folder.join("status"), "").context("write the status")?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// Where it downloads packages to.
    fn debs(&self) -> PathBuf {
        self.folder.join("debs")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = |name: &str| self.folder.join(name).display().to_string();
        for (key, value) in [
            ("Dir::Etc::SourceList", path("sources.list")),
            ("Dir::Etc::SourceParts", "/dev/null".to_owned()),
            ("Dir::State::Lists", path("lists")),
            ("Dir::State::status", path("status")),
            ("Dir::Cache", path("cache")),
            ("APT::Sandbox::User", String::new()),
            // Sid's lists are dated to a week; a machine's clock may be further off.
            ("Acquire::Check-Valid-Until", "false".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            (DEP11, "false".to_owned()),
        ] {
            command.arg("-o").arg(format!("{key}={value}"));
        }
        command.arg("-q");
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stands_in_for_a_series_but_a_release_of_it() {
        let series = PACKAGES.iter().filter(|one| one.name == "containerd");
        for package in series {
            assert_eq!(package.series, format!("{}.", package.folder));
            assert!(package.version.starts_with(package.series));
        }
    }

    #[test]
    fn the_wanted_version_is_taken_and_else_the_newest_of_its_series() {
        let package = Package::new("1.7", "containerd", "1.7.24-1", "1.7.");
        let line =
            |version: &str| format!("containerd | {version} | mirror sid/main amd64 Packages\n");
        let listed = line("2.1.9-5") + &line("1.7.27-2") + &line("1.7.24-1") + &line("1.6.20-1");
        assert_eq!(choose(&package, &listed).expect("listed"), "1.7.24-1");
        let listed = line("2.1.9-5") + &line("1.7.27-2") + &line("1.7.25-1");
        assert_eq!(choose(&package, &listed).expect("a newer one"), "1.7.27-2");
        let error = choose(&package, &line("2.1.9-5")).expect_err("another series");
        assert!(error.to_string().contains("2.1.9-5"), "{error}");
    }
}
