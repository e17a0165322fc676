//! `seed doctor`: what this machine has and lacks, and what mends it. What an instance needs is looked at in [`host`], what a pod
//! needs beside it in [`pods`]. Nothing is mended here.

use std::{env, path::Path, process::ExitCode};

use rustix::process::geteuid;
use seed_shim::config::{Config, ROOTLESS_ENV};
use serde_json::json;

use super::Context;
use crate::{error::CliError, output};

mod host;
mod pods;

pub(super) use host::programs_or_error;

/// How much something matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// Instances and pods run without it, worse.
    Worse,
    /// Instances run without it, but no pod.
    NoPods,
    /// No instance runs without it.
    Lacking,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Worse => "worse",
            Self::NoPods => "no pods",
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

    fn bad(
        what: &'static str,
        verdict: Verdict,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            what,
            verdict,
            found: found.into(),
            remedy: remedy.into(),
        }
    }
}

/// What the findings come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Outcome {
    /// Whether an instance can run.
    ready: bool,
    /// Whether a pod can be made, where it was looked at what pods need.
    pods: Option<bool>,
}

impl Outcome {
    fn of(findings: &[Finding], for_pods: bool) -> Self {
        let has = |verdict| findings.iter().any(|finding| finding.verdict == verdict);
        let ready = !has(Verdict::Lacking);
        Self {
            ready,
            pods: for_pods.then(|| ready && !has(Verdict::NoPods)),
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self { ready: false, .. } => "No instance can run here yet.",
            Self { pods: None, .. } => "Instances can run here.",
            Self {
                pods: Some(true), ..
            } => "Instances can run here, and pods can be made.",
            Self {
                pods: Some(false), ..
            } => "Instances can run here, but no pod can be made.",
        }
    }

    /// Of what was asked for: instances, or pods.
    fn is_good(self, pods: bool) -> bool {
        if pods {
            self.pods == Some(true)
        } else {
            self.ready
        }
    }
}

/// `pods`: whether the exit status is about these.
pub(super) async fn doctor(context: &Context<'_>, pods: bool) -> Result<ExitCode, CliError> {
    // Whoever is no root makes none, and cannot try what the kernel has for them.
    let is_root = geteuid().is_root() && env::var_os(ROOTLESS_ENV).is_none();
    let mut findings = look(&context.config, is_root).await;
    if pods && !is_root {
        findings.push(pods::not_by_a_user());
    }
    let outcome = Outcome::of(&findings, pods || is_root);
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
        let Outcome { ready, pods } = outcome;
        output::print_json(&json!({ "ready": ready, "pods": pods, "findings": list }))?;
    } else {
        output::print(&page(&findings, outcome))?;
    }
    Ok(ExitCode::from(u8::from(!outcome.is_good(pods))))
}

fn page(findings: &[Finding], outcome: Outcome) -> String {
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
    text + outcome.sentence() + "\n"
}

async fn look(config: &Config, for_pods: bool) -> Vec<Finding> {
    let root = Path::new("/");
    let containerds = for_pods.then(|| pods::containerds(root));
    let containerds = containerds.as_deref().unwrap_or_default();
    let mut findings = host::look(root, config, containerds).await;
    if for_pods {
        findings.extend(pods::look(root));
    }
    findings
}

#[cfg(test)]
mod tests {
    use seed_shim::vmm::VmmKind;

    use super::*;

    #[tokio::test]
    async fn with_cloud_hypervisor_nothing_is_said_of_qemu() {
        let config = Config {
            vmm: VmmKind::CloudHypervisor,
            ..Config::default()
        };
        for finding in look(&config, true).await {
            let said = format!("{} {}", finding.what, finding.found).to_lowercase();
            assert!(!said.contains("qemu"), "{said}");
        }
    }

    #[test]
    fn what_pods_alone_lack_fails_whoever_asked_for_pods() {
        let one = |verdict| {
            let found = "no /dev/net/tun";
            vec![Finding::bad("tun", verdict, found, "modprobe tun")]
        };
        for (verdict, instances, pods) in [
            (Verdict::Good, true, true),
            (Verdict::Worse, true, true),
            (Verdict::NoPods, true, false),
            (Verdict::Lacking, false, false),
        ] {
            let outcome = Outcome::of(&one(verdict), true);
            let good = (outcome.is_good(false), outcome.is_good(true));
            assert_eq!(good, (instances, pods), "{verdict:?}");
        }
        let findings = one(Verdict::NoPods);
        let said = page(&findings, Outcome::of(&findings, true));
        assert_eq!(
            said,
            "no pods  tun  no /dev/net/tun\n\ntun: modprobe tun\n\n\
             Instances can run here, but no pod can be made.\n"
        );
        let unseen = Outcome::of(&one(Verdict::Good), false);
        assert!(unseen.is_good(false) && !unseen.is_good(true));
        assert_eq!(unseen.sentence(), "Instances can run here.");
    }
}
