//! What every instance needs of this machine: the shim and the programs that it starts, the processor, the kernel, folders.

use std::{
    env, fs,
    io::{self, ErrorKind},
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use rustix::process::geteuid;
use seed_shim::{
    config::{Accel, Config, ROOTLESS_ENV},
    containerd::shim::ShimBinary,
    spec::Cpu,
    vmm::{
        VmmKind, programs,
        users::{self, Unchanged},
    },
};
use tokio::time::timeout;

use super::{
    Finding, Verdict,
    pods::{self, Containerd},
};
use crate::{error::CliError, rootless};

/// The first virtiofsd with all the options that it is given.
const OLDEST_VIRTIOFSD: (u32, u32) = (1, 10);

/// How long it may take to say its version.
const VERSION_LIMIT: Duration = Duration::from_secs(5);

/// Where a kernel's modules are, in the folder of its release: everywhere, and on NixOS.
const MODULES: [&str; 2] = [
    "lib/modules",
    "run/booted-system/kernel-modules/lib/modules",
];

/// The programs alone, as the error that `seed run` gives.
pub(in super::super) fn programs_or_error(config: &Config) -> Result<(), CliError> {
    match programs(config, &[])
        .into_iter()
        .find(|finding| finding.verdict == Verdict::Lacking)
    {
        None => Ok(()),
        Some(Finding {
            what,
            found,
            remedy,
            ..
        }) => Err(CliError::new(
            format!("{what} is not installed: {found}"),
            format!("Install it: {remedy}"),
        )),
    }
}

/// All of it. What the shims of a containerd of the list do not find is no lack, but of pods.
pub(super) async fn look(root: &Path, config: &Config, containerds: &[Containerd]) -> Vec<Finding> {
    let mut findings = user();
    findings.push(shim(containerds));
    findings.extend(programs(config, containerds));
    findings.extend(virtiofsd(config).await);
    findings.extend([accelerator(config), users(config), overlay(root)]);
    findings.push(folder("run folder", &config.run_dir));
    findings.push(folder("state folder", &config.state_dir));
    findings
}

/// Root, or what an ordinary user needs to be one in a namespace.
fn user() -> Vec<Finding> {
    let (what, uid) = ("user", geteuid().as_raw());
    if geteuid().is_root() {
        let inside = env::var_os(ROOTLESS_ENV).is_some();
        let found = if inside {
            "root of a user namespace"
        } else {
            "root"
        };
        return vec![Finding::good(what, found)];
    }
    let missing = rootless::missing();
    if missing.is_empty() {
        let found = format!("uid {uid}, root in a namespace of its own");
        return vec![Finding::good(what, found)];
    }
    let lacking = missing.into_iter().map(|one| Finding {
        what,
        verdict: Verdict::Lacking,
        found: format!("uid {uid}: {}", one.found),
        remedy: format!("be root, or: {}", one.remedy),
    });
    lacking.collect()
}

fn shim(containerds: &[Containerd]) -> Finding {
    match ShimBinary::find() {
        Ok(shim) => pods::shim_out_of_reach(containerds, shim.path())
            .unwrap_or_else(|| Finding::good("shim", shim.path().display().to_string())),
        Err(error) => Finding {
            what: "shim",
            verdict: Verdict::Lacking,
            found: error.to_string(),
            remedy: "install it in the folder of seed, or in PATH".into(),
        },
    }
}

/// Each program that the shim starts.
fn programs(config: &Config, containerds: &[Containerd]) -> Vec<Finding> {
    let wanted = programs::wanted(&config.programs, config.vmm);
    wanted
        .into_iter()
        .map(|(what, program, remedy)| match programs::find(program) {
            Some(path) => pods::out_of_reach(containerds, what, program, &path)
                .unwrap_or_else(|| Finding::good(what, path.display().to_string())),
            None => Finding {
                what,
                verdict: Verdict::Lacking,
                found: missing(program),
                remedy: remedy.into(),
            },
        })
        .collect()
}

/// The version of virtiofsd, where there is any: QEMU had another one before, in C, with other options.
async fn virtiofsd(config: &Config) -> Option<Finding> {
    let path = programs::find(&config.programs.virtiofsd)?;
    let mut command = tokio::process::Command::new(path);
    command.arg("--version").stdin(Stdio::null());
    command.kill_on_drop(true);
    let asked = timeout(VERSION_LIMIT, command.output()).await;
    let said = asked.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
    Some(virtiofsd_said(said))
}

fn virtiofsd_said(said: io::Result<Output>) -> Finding {
    let what = "virtiofsd's version";
    let lacking = |found: String| Finding {
        what,
        verdict: Verdict::Lacking,
        found,
        remedy: programs::VIRTIOFSD_REMEDY.into(),
    };
    let said = match said {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => return lacking(format!("it does not say it: {error}")),
    };
    let line = said.lines().next().unwrap_or_default();
    let number = line.strip_prefix("virtiofsd ").unwrap_or_default();
    let mut parts = number.split('.').map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST_VIRTIOFSD => {
            Finding::good(what, number)
        }
        _ => {
            let (major, minor) = OLDEST_VIRTIOFSD;
            lacking(format!(
                "{line:?}, not {major}.{minor} or later of the one in Rust"
            ))
        }
    }
}

fn missing(program: &Path) -> String {
    if program.components().count() > 1 {
        format!("{} is no program", program.display())
    } else {
        format!("no {} in PATH", program.display())
    }
}

fn accelerator(config: &Config) -> Finding {
    let cpu = Cpu::look();
    let alone = config.accel == Accel::Kvm || config.vmm == VmmKind::CloudHypervisor;
    let (what, worse) = ("kvm", |found: &str, remedy: &str| Finding {
        what: "kvm",
        verdict: if alone {
            Verdict::Lacking
        } else {
            Verdict::Worse
        },
        found: found.into(),
        remedy: remedy.into(),
    });
    match (cpu.has_flag, cpu.has_device) {
        (true, true) => Finding::good(what, "/dev/kvm"),
        (true, false) => worse(
            "/dev/kvm cannot be written",
            "modprobe kvm_intel or kvm_amd, and be root or in the group kvm",
        ),
        (false, _) => worse(
            "the processor offers no virtualization (no vmx or svm flag)",
            if alone {
                "enable virtualization in the firmware, or nested virtualization in the outer VM"
            } else {
                "QEMU translates instead, many times slower; enable virtualization in the firmware, or nested virtualization in the outer VM"
            },
        ),
    }
}

/// Whether QEMU and its daemons have no more rights than they need.
fn users(config: &Config) -> Finding {
    let what = "users";
    if config.vmm == VmmKind::CloudHypervisor {
        let inside = env::var_os(ROOTLESS_ENV).is_some();
        if !geteuid().is_root() || inside {
            return Finding::good(what, "Cloud Hypervisor and its daemons run as you");
        }
        return Finding {
            what,
            verdict: Verdict::Worse,
            found: "Cloud Hypervisor and its daemons run as root".into(),
            remedy: "vmm = \"qemu\" in the shim's configuration gives each a user of its own"
                .into(),
        };
    }
    let cpu = Cpu::look();
    let by_kvm = config.accel != Accel::Tcg && cpu.has_flag && cpu.has_device;
    let kept = users::kept_from_kvm().filter(|_| by_kvm);
    let (why, remedy) = match (users::possible(&config.users), kept) {
        (Ok(()), Some(found)) => {
            return Finding {
                what,
                verdict: Verdict::Worse,
                found: format!("QEMU runs as root: {found}"),
                remedy: "give it a group of its own that may read and write it, as udev does"
                    .into(),
            };
        }
        (Ok(()), None) => {
            let first = config.users.first;
            let found = format!("QEMU and its daemons run as users of their own, from {first} on");
            return Finding::good(what, found);
        }
        // Those of a user namespace's root are the user's own.
        (Err(why), _) if why == Unchanged::NoRoot || env::var_os(ROOTLESS_ENV).is_some() => {
            return Finding::good(what, "QEMU and its daemons run as you");
        }
        (Err(why @ Unchanged::Configured), _) => {
            (why, "give users.count in the shim's configuration")
        }
        (Err(why), _) => (
            why,
            "name users that it has in [users] of the shim's configuration",
        ),
    };
    Finding {
        what,
        verdict: Verdict::Worse,
        found: format!("QEMU and its daemons run as root: {}", why.reason()),
        remedy: remedy.into(),
    }
}

fn overlay(root: &Path) -> Finding {
    let what = "overlayfs";
    let read = |path: &Path| fs::read_to_string(root.join(path)).unwrap_or_default();
    let known = read(Path::new("proc/filesystems"));
    if known
        .lines()
        .any(|line| line.split_whitespace().last() == Some("overlay"))
    {
        return Finding::good(what, "in the kernel");
    }
    let release = read(Path::new("proc/sys/kernel/osrelease"));
    for modules in MODULES.map(|folder| Path::new(folder).join(release.trim())) {
        let built_in = read(&modules.join("modules.builtin"));
        if built_in.lines().any(|line| line.ends_with("/overlay.ko")) {
            return Finding::good(what, "in the kernel");
        }
        if root.join(modules).join("kernel/fs/overlayfs").is_dir() {
            return Finding::good(what, "as a module");
        }
    }
    let remedy = "use a kernel with CONFIG_OVERLAY_FS";
    Finding::bad(what, Verdict::Lacking, "not in the kernel", remedy)
}

fn folder(what: &'static str, path: &Path) -> Finding {
    let existing = path
        .ancestors()
        .find(|dir| dir.exists())
        .unwrap_or(Path::new("/"));
    let writable = rustix::fs::access(existing, rustix::fs::Access::WRITE_OK).is_ok();
    if writable && existing.is_dir() {
        return Finding::good(what, path.display().to_string());
    }
    Finding {
        what,
        verdict: Verdict::Lacking,
        found: format!("{} cannot be written", existing.display()),
        remedy: "name another folder in the shim's configuration (run_dir, state_dir)".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_virtiofsd_and_the_one_of_qemu_are_told_from_one_that_will_do() {
        let said = |text: &str| {
            virtiofsd_said(Ok(Output {
                status: std::process::ExitStatus::default(),
                stdout: text.into(),
                stderr: Vec::new(),
            }))
        };
        for good in ["virtiofsd 1.10.0\n", "virtiofsd 1.13.2", "virtiofsd 2.0.0"] {
            assert_eq!(said(good).verdict, Verdict::Good, "{good}");
        }
        for bad in [
            "",
            "virtiofsd 1.9.0",
            "virtiofsd version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright",
        ] {
            let finding = said(bad);
            assert_eq!(finding.verdict, Verdict::Lacking, "{bad}");
            assert!(finding.found.contains("1.10 or later"), "{}", finding.found);
        }
        let silent = virtiofsd_said(Err(ErrorKind::TimedOut.into()));
        assert_eq!(silent.verdict, Verdict::Lacking);
    }
    #[test]
    fn overlayfs_is_found_as_a_file_system_as_built_in_and_as_a_module_also_on_nixos() {
        const RELEASE: &str = "6.12.43-test";
        let filesystems = |text: &str| ("proc/filesystems".to_owned(), text.to_owned());
        let module = |folder: &str, file: &str, text: &str| {
            (format!("{folder}/{RELEASE}/{file}"), text.to_owned())
        };
        let overlay_with = |(path, text): (String, String)| {
            let root = tempfile::tempdir().unwrap();
            let release = (
                "proc/sys/kernel/osrelease".to_owned(),
                format!("{RELEASE}\n"),
            );
            for (path, text) in [release, (path, text)] {
                let path = root.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            let finding = overlay(root.path());
            (finding.verdict, finding.found)
        };
        let built_in = "kernel/fs/fuse/fuse.ko\nkernel/fs/overlayfs/overlay.ko\n";
        let inside = (Verdict::Good, "in the kernel".to_owned());
        let loadable = (Verdict::Good, "as a module".to_owned());
        let known = filesystems("nodev\tsysfs\nnodev\toverlay\n");
        assert_eq!(overlay_with(known), inside);
        for folder in MODULES {
            let file = module(folder, "modules.builtin", built_in);
            assert_eq!(overlay_with(file), inside, "{folder}");
            let file = module(folder, "kernel/fs/overlayfs/overlay.ko.xz", "");
            assert_eq!(overlay_with(file), loadable, "{folder}");
        }
        let lacking = (Verdict::Lacking, "not in the kernel".to_owned());
        for other in [
            filesystems("nodev\tsysfs\n\text4\n"),
            module(MODULES[0], "modules.builtin", "kernel/fs/fuse/fuse.ko\n"),
            (
                "lib/modules/5.10.0/kernel/fs/overlayfs/overlay.ko".into(),
                String::new(),
            ),
        ] {
            assert_eq!(overlay_with(other.clone()), lacking, "{other:?}");
        }
    }
}
