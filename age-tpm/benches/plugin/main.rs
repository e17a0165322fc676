//! Our plugin and the Go one over the same swtpm, in one run: wall, CPU, TPM commands, memory.
//!
//! Owns the order of things; [`measure`] takes one sample, [`secrets`] opens a file of twenty secrets. Both plugins see
//! a `/dev/tpmrm0` that is a pseudo terminal before swtpm (`tests/common/device.rs`), so it wants root, and runs
//! itself again in a mount namespace of its own. Each round runs every kind once, in another order each time.
//!
//! Writes `[{"name", "unit", "ours", "go", "target"}, ..]`, medians; `target` is the largest ratio that is right.
//! `cargo xtask bench age` makes a table of it.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "a bench that cannot measure ends with the place where it could not"
)]

#[path = "../../tests/common/client.rs"]
mod client;
#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/common/device.rs"]
mod device;
mod measure;
mod secrets;
#[path = "../../tests/common/sops.rs"]
mod sops;

use std::error::Error;
use std::fs::{self, File};
use std::io::{Write, stderr, stdout};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use age_core::format::{FileKey, Stanza};
use age_tpm::Identity;
use age_tpm::identity::read_identities;
use age_tpm::wrap::wrap_file_key;
use serde_json::{Value, json};

use client::{ask_to_unwrap, like_age, talk_to};
use common::{Swtpm, peer, plugin, run_ok};
use device::{Device, NO_SIGNALS};
use measure::{Meter, Sample, Series};
use secrets::Secrets;

const BENCH: &str = "bench";
/// In the mount namespace.
const INSIDE: &str = "--inside";
const RUNS: usize = 100;
const FILE_KEY: [u8; 16] = *b"sixteen bytes ok";
/// How often memory is looked at; it hardly differs from run to run.
const MEMORY_RUNS: usize = 5;
/// Against the Go plugin, as the project's goals have it.
const HALF: f64 = 0.5;
const SAME: f64 = 1.0;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut runs = RUNS;
    let mut inside = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--runs" => runs = args.next().ok_or("--runs wants a number")?.parse()?,
            INSIDE => inside = true,
            // What `cargo bench` passes to every bench.
            "--bench" => {}
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    if runs == 0 {
        return Err("--runs 0 measures nothing".into());
    }
    if !inside {
        let mut again = Command::new("unshare");
        again.arg("-m").arg(std::env::current_exe()?).arg(INSIDE);
        let ended = again.args(["--runs", &runs.to_string()]).status()?;
        return match ended.success() {
            true => Ok(()),
            false => Err("broken off, see above; it needs root and unshare(1)".into()),
        };
    }
    let rig = Rig::start().ok_or("something is missing, see above")?;
    let rows = rig.measure(runs);
    writeln!(stdout(), "{}", Value::Array(rows))?;
    Ok(())
}

/// Both plugins, one emulator, one device, one identity of ours and one key that is lent.
struct Rig {
    swtpm: Swtpm,
    device: Device,
    go: PathBuf,
    /// A folder in which the Go plugin is the one that `age` finds.
    go_folder: PathBuf,
    age: PathBuf,
    file: PathBuf,
    identity: Identity,
    meter: Meter,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Go,
    /// Ours, with a service that holds the key.
    Held,
    /// Ours, without.
    Alone,
}

const SIDES: [Side; 3] = [Side::Go, Side::Held, Side::Alone];

impl Rig {
    fn start() -> Option<Self> {
        let in_cache = "root/usr/bin/age-plugin-tpm";
        let go = peer(BENCH, "SEED_GO_AGE_PLUGIN_TPM", in_cache)?;
        let age = peer(BENCH, "SEED_AGE13", "root/usr/bin/age")?;
        let swtpm = Swtpm::start(BENCH)?;
        let device = Device::bridge(BENCH, &swtpm)?;
        device.take_place();
        let go_folder = swtpm.scratch().join("go");
        fs::create_dir(&go_folder).unwrap();
        std::os::unix::fs::symlink(&go, go_folder.join("age-plugin-tpm")).unwrap();
        let file = swtpm.scratch().join("identity");
        run_ok(plugin(None).args(["-g", "-o"]).arg(&file), b"");
        let identity = read_identities(File::open(&file).unwrap())
            .unwrap()
            .remove(0);
        let meter = Meter::lend(&identity, swtpm.scratch().join("key.sock"));
        Some(Self {
            swtpm,
            device,
            go,
            go_folder,
            age,
            file,
            identity,
            meter,
        })
    }

    /// The plugin of that side, ready to run.
    fn plugin(&self, side: Side) -> Command {
        let mut command = match side {
            Side::Go => Command::new(&self.go),
            Side::Held | Side::Alone => plugin(None),
        };
        command.env("AGE_TPM_SOCKET", self.socket(side));
        command.env(NO_SIGNALS.0, NO_SIGNALS.1);
        command
    }

    /// Where our plugin asks for the key; nowhere for an empty path.
    fn socket(&self, side: Side) -> &Path {
        match side {
            Side::Held => self.meter.socket(),
            Side::Go | Side::Alone => Path::new(""),
        }
    }

    /// `age` that finds the plugin of that side.
    fn age(&self, side: Side) -> Command {
        let mut command = common::command(&self.age, None);
        command.env("AGE_TPM_SOCKET", self.socket(side));
        command.env(NO_SIGNALS.0, NO_SIGNALS.1);
        if side == Side::Go {
            let mut folders = vec![self.go_folder.clone()];
            folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
            command.env("PATH", std::env::join_paths(folders).unwrap());
        }
        command
    }

    fn measure(&self, runs: usize) -> Vec<Value> {
        let stanza = wrap_file_key(
            &self.identity.recipient(),
            &FileKey::new(Box::new(FILE_KEY)),
        )
        .unwrap();
        let secrets = Secrets::seal(&self.age, &self.identity);
        let mut series: [Series; 3] = Default::default();
        let mut generate: [Series; 2] = Default::default();
        let mut library: [Series; 3] = Default::default();
        let mut program: [Series; 3] = Default::default();
        for round in 0..runs {
            for turn in 0..SIDES.len() {
                let index = (round + turn) % SIDES.len();
                let side = SIDES[index];
                series[index].add(self.take(|| self.unwrap(side, &stanza)));
                if side != Side::Held {
                    let index = usize::from(side == Side::Alone);
                    generate[index].add(self.take(|| self.generate(side)));
                }
                let identity = self.identity.to_string();
                library[index].add(self.take(|| {
                    secrets.open_in_process(&identity, &|| self.plugin(side));
                }));
                program[index].add(self.take(|| {
                    secrets.open_with_age(&self.file, &|| self.age(side));
                }));
            }
            let _ = writeln!(stderr(), "  round {} of {runs}", round + 1);
        }
        let [go, held, alone] = &series;
        let mut rows = Vec::new();
        let held_name = "identity-v1, key held";
        rows.extend(held.rows(go, held_name, Some(HALF)));
        rows.push(self.memory_row(held_name, Side::Held, &stanza));
        let alone_name = "identity-v1, key not held";
        rows.extend(alone.rows(go, alone_name, Some(SAME)));
        rows.push(self.memory_row(alone_name, Side::Alone, &stanza));
        let [go, ours] = &generate;
        rows.extend(ours.rows(go, "--generate", Some(SAME)));
        let [go, held, alone] = &library;
        rows.extend(held.rows(go, "20 sops secrets, key held", Some(HALF)));
        rows.extend(alone.rows(go, "20 sops secrets, key not held", None));
        let [go, held, alone] = &program;
        rows.extend(held.rows(go, "20 x age -d, key held", None));
        rows.extend(alone.rows(go, "20 x age -d, key not held", None));
        rows
    }

    fn take(&self, what: impl FnOnce()) -> Sample {
        self.meter.take(&self.device, what)
    }

    /// One run of the plugin as age would do it.
    fn unwrap(&self, side: Side, stanza: &Stanza) {
        self.unwrap_watched(side, stanza, &mut |_| {});
    }

    fn unwrap_watched(&self, side: Side, stanza: &Stanza, watch: &mut dyn FnMut(u32)) {
        let identity = self.identity.to_string();
        let first = ask_to_unwrap(&[&identity], std::slice::from_ref(stanza));
        let mut plugin = self.plugin(side);
        let dialogue = talk_to(&mut plugin, "identity-v1", &first, |pid, stanza| {
            if stanza.tag == "file-key" {
                watch(pid);
            }
            like_age(stanza)
        });
        let mut keys = dialogue.of("file-key").filter(|s| s.body == FILE_KEY);
        assert!(keys.next().is_some(), "{side:?}: {}", dialogue.errors());
    }

    fn generate(&self, side: Side) {
        let out = self.swtpm.scratch().join("new");
        let made = self.plugin(side).arg("-g").arg("-o").arg(&out).output();
        assert!(made.unwrap().status.success(), "{side:?}");
        fs::remove_file(out).unwrap();
    }

    /// Peak memory, looked at while the plugin waits for the answer to its file key.
    fn memory_row(&self, name: &str, side: Side, stanza: &Stanza) -> Value {
        let peak = |side| {
            let mut found = Vec::new();
            for _ in 0..MEMORY_RUNS {
                self.unwrap_watched(side, stanza, &mut |pid| found.push(measure::peak_mib(pid)));
            }
            measure::median(&found)
        };
        json!({ "name": format!("{name}: peak memory"), "unit": "MiB", "ours": peak(side), "go": peak(Side::Go), "target": null })
    }
}
