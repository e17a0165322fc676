//! One sample: wall time, CPU time of all children and of the thread that lends the key, TPM commands.
//!
//! CPU time is `getrusage(RUSAGE_CHILDREN)`, so children of children count when they were waited for, as age does.
//! The TPM emulator's own time is in the wall time only, on either side.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use age_tpm::Identity;
use age_tpm::held::{Holder, Server};
use age_tpm::tpm::{DEFAULT_DEVICE, Tcti};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::{Value, json};

use crate::device::Device;

/// What one run cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    wall_ms: f64,
    cpu_ms: f64,
    commands: f64,
}

/// Reads clocks; and lends the key, as the agent of a guest does, from a thread whose time is counted.
pub(crate) struct Meter {
    socket: PathBuf,
    /// `schedstat` of the lending thread: nanoseconds on a CPU come first.
    lender: PathBuf,
}

impl Meter {
    /// Lends `identity`'s key at `socket` until the process ends.
    pub(crate) fn lend(identity: &Identity, socket: PathBuf) -> Self {
        let server = Server::bind(&socket, None).unwrap();
        let tpm = Tcti::Device(DEFAULT_DEVICE.into());
        let mut holder = Holder::new(identity.clone(), tpm).unwrap();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let own = fs::read_link("/proc/thread-self").unwrap();
            holder.load().unwrap();
            tell.send(Path::new("/proc").join(own).join("schedstat"))
                .unwrap();
            server.run(&mut holder, &mut |error| panic!("{error}"));
        });
        let lender = told.recv().unwrap();
        Self { socket, lender }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn take(&self, device: &Device, what: impl FnOnce()) -> Sample {
        let commands = device.commands();
        let cpu = self.cpu_ms();
        let begin = Instant::now();
        what();
        let wall = begin.elapsed();
        let spent = self.cpu_ms() - cpu;
        let carried = u32::try_from(device.commands() - commands).unwrap();
        Sample {
            wall_ms: wall.as_secs_f64() * 1000.0,
            cpu_ms: spent,
            commands: carried.into(),
        }
    }

    fn cpu_ms(&self) -> f64 {
        let children = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
        let times = [children.user_time(), children.system_time()];
        let children: i64 = times.iter().map(TimeValLike::num_microseconds).sum();
        let lender = fs::read_to_string(&self.lender).unwrap();
        let lender: u64 = lender.split(' ').next().unwrap().parse().unwrap();
        let micros = u32::try_from(children).unwrap();
        f64::from(micros) / 1000.0 + f64::from(u32::try_from(lender / 1000).unwrap()) / 1000.0
    }
}

/// Samples of one kind.
#[derive(Debug, Default)]
pub(crate) struct Series(Vec<Sample>);

impl Series {
    pub(crate) fn add(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    fn median(&self, part: fn(&Sample) -> f64) -> f64 {
        median(&self.0.iter().map(part).collect::<Vec<_>>())
    }

    /// Beside the Go plugin's. A target is one for wall and CPU.
    pub(crate) fn rows(&self, go: &Self, name: &str, target: Option<f64>) -> Vec<Value> {
        let row = |what: &str, unit: &str, part: fn(&Sample) -> f64, target: Option<f64>| {
            json!({
                "name": format!("{name}: {what}"),
                "unit": unit,
                "ours": self.median(part),
                "go": go.median(part),
                "target": target,
            })
        };
        vec![
            row("wall", "ms", |s| s.wall_ms, target),
            row("CPU", "ms", |s| s.cpu_ms, target),
            row("TPM commands", "count", |s| s.commands, None),
        ]
    }
}

/// The middle value; of an even number the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// `VmHWM` of a process that waits.
pub(crate) fn peak_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
    f64::from(kib.parse::<u32>().unwrap()) / 1024.0
}
