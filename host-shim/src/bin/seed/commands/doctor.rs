//! `seed doctor`: what this machine has and lacks, and what mends it.

use std::{
    env, fs,
    io::{self, ErrorKind},
    path::Path,
    process::{ExitCode, Output, Stdio},
    time::Duration,
};

use rustix::process::geteuid;
use seed_shim::{
    config::{Accel, Config, ROOTLESS_ENV},
    containerd::shim::ShimBinary,
    net,
    spec::Cpu,
    text::chain,
    vmm::{
        VmmKind, programs,
        users::{self, Unchanged},
    },
};
use serde_json::json;
use tokio::time::timeout;

use super::Context;
use crate::{error::CliError, output, rootless};

/// The first virtiofsd with all the options that it is given.
const OLDEST_VIRTIOFSD: (u32, u32) = (1, 10);

/// How long it may take to say its version.
const VERSION_LIMIT: Duration = Duration::from_secs(5);

/// How much something matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// Instances run without it, worse.
    Worse,
    /// No instance runs without it.
    Lacking,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Worse => "worse",
            Self::Lacking => "lacking",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// What mends it. Empty when good.
    remedy: String,
}

impl Finding {
    fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self {
            what,
            verdict: Verdict::Good,
            found: found.into(),
            remedy: String::new(),
        }
    }
}

pub(super) async fn doctor(context: &Context<'_>) -> Result<ExitCode, CliError> {
    let findings = look(&context.config).await;
    let lacking = findings
        .iter()
        .any(|finding| finding.verdict == Verdict::Lacking);
    if context.global.json {
        let list: Vec<_> = findings
            .iter()
            .map(|finding| {
                json!({
                    "what": finding.what,
                    "verdict": finding.verdict.word(),
                    "found": finding.found,
                    "remedy": finding.remedy,
                })
            })
            .collect();
        output::print_json(&json!({ "ready": !lacking, "findings": list }))?;
    } else {
        let rows: Vec<[String; 3]> = findings
            .iter()
            .map(|f| [f.verdict.word().into(), f.what.into(), f.found.clone()])
            .collect();
        let mut text = seed_shim::text::table(0, &rows);
        text.push('\n');
        let mut advice: Vec<String> = findings
            .iter()
            .filter(|finding| !finding.remedy.is_empty())
            .map(|finding| format!("{}: {}\n", finding.what, finding.remedy))
            .collect();
        // One package may mend two things.
        advice.dedup();
        let advice = advice.concat();
        if !advice.is_empty() {
            text += &format!("{advice}\n");
        }
        text += if lacking {
            "No instance can run here yet.\n"
        } else {
            "Instances can run here.\n"
        };
        output::print(&text)?;
    }
    Ok(ExitCode::from(u8::from(lacking)))
}

/// The programs alone, as the error that `seed run` gives.
pub(super) fn programs_or_error(config: &Config) -> Result<(), CliError> {
    match programs(config)
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

async fn look(config: &Config) -> Vec<Finding> {
    let mut findings = user();
    findings.push(shim());
    findings.extend(programs(config));
    findings.extend(virtiofsd(config).await);
    findings.extend([accelerator(config), users(config), overlay()]);
    findings.extend(for_pods(Path::new("/")));
    findings.extend(wire());
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

fn shim() -> Finding {
    match ShimBinary::find() {
        Ok(shim) => Finding::good("shim", shim.path().display().to_string()),
        Err(error) => Finding {
            what: "shim",
            verdict: Verdict::Lacking,
            found: error.to_string(),
            remedy: "install it in the folder of seed, or in PATH".into(),
        },
    }
}

/// Each program that the shim starts.
fn programs(config: &Config) -> Vec<Finding> {
    let wanted = programs::wanted(&config.programs, config.vmm);
    wanted
        .into_iter()
        .map(|(what, program, remedy)| match programs::find(program) {
            Some(path) => Finding::good(what, path.display().to_string()),
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

/// The kernel's part of a pod's network beside the tap devices.
fn wire() -> Option<Finding> {
    let what = "tc";
    // Whoever is no root makes no pods.
    if !geteuid().is_root() || env::var_os(ROOTLESS_ENV).is_some() {
        return None;
    }
    Some(match net::try_wire() {
        Ok(()) => Finding::good(what, "an ingress qdisc, u32 and mirred were tried"),
        Err(error) => Finding {
            what,
            verdict: Verdict::Worse,
            found: format!("{}: pods have no network", chain(&error)),
            remedy: "modprobe sch_ingress cls_u32 act_mirred (CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_U32, CONFIG_NET_ACT_MIRRED)".into(),
        },
    })
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

fn overlay() -> Finding {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known
        .lines()
        .any(|line| line.split_whitespace().last() == Some("overlay"))
    {
        return Finding::good("overlayfs", "in the kernel");
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let modules = Path::new("/lib/modules").join(release.trim());
    if modules.join("kernel/fs/overlayfs").is_dir() {
        return Finding::good("overlayfs", "as a module");
    }
    Finding {
        what: "overlayfs",
        verdict: Verdict::Lacking,
        found: "not in the kernel".into(),
        remedy: "use a kernel with CONFIG_OVERLAY_FS".into(),
    }
}

/// What only pods need: the taps of their cards, and the limits that Kubernetes sets.
fn for_pods(root: &Path) -> [Finding; 2] {
    let needs = [
        (
            "tun",
            "dev/net/tun",
            "pods have no network",
            "modprobe tun (CONFIG_TUN)",
        ),
        (
            "cgroup v2",
            "sys/fs/cgroup/cgroup.controllers",
            "Kubernetes wants it",
            "boot with systemd.unified_cgroup_hierarchy=1 (CONFIG_CGROUPS)",
        ),
    ];
    needs.map(|(what, path, without, remedy)| {
        let path = root.join(path);
        if path.exists() {
            return Finding::good(what, path.display().to_string());
        }
        Finding {
            what,
            verdict: Verdict::Worse,
            found: format!("no {}: {without}", path.display()),
            remedy: remedy.into(),
        }
    })
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

    #[tokio::test]
    async fn with_cloud_hypervisor_nothing_is_said_of_qemu() {
        let config = Config {
            vmm: VmmKind::CloudHypervisor,
            ..Config::default()
        };
        for finding in look(&config).await {
            let said = format!("{} {}", finding.what, finding.found).to_lowercase();
            assert!(!said.contains("qemu"), "{said}");
        }
    }

    #[test]
    fn what_pods_lack_is_named_with_the_option_of_the_kernel_and_stops_nobody_else() {
        let root = tempfile::tempdir().unwrap();
        let [tun, cgroup] = for_pods(root.path());
        assert_eq!(tun.verdict, Verdict::Worse);
        assert!(tun.found.ends_with("dev/net/tun: pods have no network"));
        assert_eq!(tun.remedy, "modprobe tun (CONFIG_TUN)");
        assert_eq!(cgroup.verdict, Verdict::Worse);
        assert!(cgroup.remedy.contains("systemd.unified_cgroup_hierarchy=1"));
        fs::create_dir_all(root.path().join("dev/net")).unwrap();
        fs::write(root.path().join("dev/net/tun"), "").unwrap();
        let [tun, cgroup] = for_pods(root.path());
        assert_eq!((tun.verdict, tun.remedy.as_str()), (Verdict::Good, ""));
        assert_eq!(cgroup.verdict, Verdict::Worse);
    }
}
