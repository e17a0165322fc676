//! `cargo xtask demo`: one real instance from its first boot to its end, each point shown from the running system.
//!
//! It types what a user would type (`seed run`, `seed status`, ...) and checks what comes back; a point that does
//! not hold is shown as such, and the exit status says so. The instance lives in directories of its own.

mod end;
mod guest;
mod identity;
mod logs;
mod root;
mod screen;
mod start;
mod volume;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::{
    image,
    lab::Lab,
    programs, setup,
    util::{self, Places, print, say},
};
use screen::{POINTS, Screen};

/// The instance's name.
const NAME: &str = "demo";

/// What the command line said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) json: bool,
    pub(crate) keep: bool,
    /// `auto`, `kvm` or `tcg`.
    pub(crate) accel: String,
}

impl Options {
    /// From the rest of the command line.
    pub(crate) fn parse(parser: &mut lexopt::Parser) -> Result<Self> {
        use lexopt::prelude::*;
        let mut options = Self {
            json: false,
            keep: false,
            accel: "auto".to_owned(),
        };
        while let Some(arg) = parser.next()? {
            match arg {
                Long("json") => options.json = true,
                Long("keep") => options.keep = true,
                Long("accel") => options.accel = parser.value()?.string()?,
                other => return Err(other.unexpected().into()),
            }
        }
        if !["auto", "kvm", "tcg"].contains(&options.accel.as_str()) {
            bail!("--accel {}: auto, kvm or tcg", options.accel);
        }
        Ok(options)
    }

    /// As words, for the part that runs as root.
    fn words(&self) -> Vec<String> {
        let mut words = vec!["--accel".to_owned(), self.accel.clone()];
        words.extend(self.json.then(|| "--json".to_owned()));
        words.extend(self.keep.then(|| "--keep".to_owned()));
        words
    }
}

/// Makes everything ready, then shows.
pub(crate) fn run(places: &Places, options: &Options) -> Result<ExitCode> {
    say("Getting ready");
    setup::run(places, setup::Need::Run)?;
    programs::build(places)?;
    let guest = image::build(places)?;
    if util::is_root() {
        return show(places, guest, options);
    }
    // `seed run` mounts and makes namespaces: the rest as root, in one go.
    let mut command = util::again_as_root(places, "demo-of")?;
    util::passed_on(command.arg(guest).args(options.words()))
}

/// What the points share.
struct Demo {
    lab: Lab,
    screen: Screen,
    keep: bool,
    /// For what comes after `seed stop`: the processes that must be gone then.
    pids: Vec<u32>,
    /// The boot that ended with a killed VMM, as the journal writes it.
    killed_boot: Option<String>,
}

type Point = fn(&mut Demo) -> Result<()>;

/// As root, with a guest root that is built.
pub(crate) fn show(places: &Places, guest: PathBuf, options: &Options) -> Result<ExitCode> {
    let begin = Instant::now();
    let mut demo = Demo {
        lab: Lab::make(places, guest, &options.accel, &[NAME])?,
        screen: Screen::new(options.json),
        keep: options.keep,
        pids: Vec::new(),
        killed_boot: None,
    };
    let points: [Point; 8] = [
        root::show,
        start::run,
        start::status,
        guest::environment,
        volume::show,
        identity::show,
        logs::show,
        end::show,
    ];
    for ((key, _), point) in POINTS.iter().zip(points) {
        demo.screen.point(key);
        if let Err(error) = point(&mut demo) {
            demo.screen.error(&error);
            if matches!(*key, "guest_root" | "run") {
                break;
            }
        }
    }
    finish(demo, options, begin)
}

fn finish(demo: Demo, options: &Options, begin: Instant) -> Result<ExitCode> {
    let Demo { lab, screen, .. } = demo;
    let (holding, all) = (screen.holding(), POINTS.len());
    let seconds = begin.elapsed().as_secs();
    screen.plain("");
    screen.plain(&format!(
        "{holding} of {all} points hold, after {seconds} s"
    ));
    let mut data = screen.data();
    if options.keep && lab.status(NAME).is_ok() {
        let lines = kept(&lab)?;
        screen.plain("");
        lines.iter().for_each(|line| screen.plain(line));
        data["kept"] = json!({ "config": lab.config(), "directory": lab.dir() });
        lab.keep()?;
    } else {
        // After `end` there is nothing to stop; after an early end the guard does it.
        let stopped = lab.status(NAME).is_err();
        if stopped && holding == all {
            lab.remove()?;
        } else {
            drop(lab);
        }
    }
    data["ok"] = json!(holding == all);
    if options.json {
        print(&data.to_string())?;
    }
    Ok(util::code(holding == all))
}

/// How to look around in an instance that was left running, and how to end it.
fn kept(lab: &Lab) -> Result<Vec<String>> {
    let seed = lab.find("seed")?;
    let folder = seed.parent().context("seed is in no folder")?;
    let sudo = if std::env::var_os("SUDO_USER").is_some() {
        "sudo -E env \"PATH=$PATH\" "
    } else {
        ""
    };
    let tools = lab.find("virtiofsd").ok();
    let tools = tools.as_deref().and_then(|path| path.parent());
    let mut path = folder.display().to_string();
    if let Some(tools) = tools {
        path = format!("{path}:{}", tools.display());
    }
    Ok(vec![
        format!("The instance is still running. To look around:"),
        String::new(),
        format!("  export SEED_CONFIG={}", lab.config().display()),
        format!("  export PATH={path}:$PATH"),
        format!("  {sudo}seed status {NAME}"),
        format!("  {sudo}seed logs {NAME} -f"),
        format!("  {sudo}seed exec {NAME} -t -- bash"),
        String::new(),
        "To end it and remove all of it:".to_owned(),
        String::new(),
        format!(
            "  {sudo}seed stop {NAME} && {sudo}seed rm {NAME} --yes && rm -r {}",
            lab.dir().display()
        ),
    ])
}
