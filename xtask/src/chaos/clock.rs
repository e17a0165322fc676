//! The host's wall clock as the instances see it, stepped without stepping the machine's.
//!
//! A library of one page that is loaded before the C library (`clock.c`) adds a number of seconds to the wall clock of
//! whatever a lab starts: `seed`, the shim, QEMU and with it the guest's real-time clock, swtpm, virtiofsd and the vsock daemon.
//! All of them ask the C library. containerd does not, being Go, and the times of files are the kernel's: those two stay.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{FileExt, PermissionsExt},
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};

use crate::{lab::Lab, util};

const SOURCE: &str = include_str!("clock.c");
/// A clock that was stepped is off by as much, less or more than this: everything else takes time.
const NEARLY: i64 = 1800;

/// The clock of a lab's programs.
#[derive(Debug)]
pub(super) struct Clock(File);

impl Clock {
    /// Gives the lab a clock; to be called before anything is started in it.
    pub(super) fn make(lab: &mut Lab) -> Result<Self> {
        let (source, library, step) = ("clock.c", "clock.so", "clock");
        let path = |name: &str| lab.dir().join(name);
        fs::write(path(source), SOURCE).context("write the clock's source")?;
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-shared", "-fPIC", "-o"]);
        util::read(cc.arg(path(library)).arg(path(source)).arg("-ldl"))?;
        let mut options = File::options();
        let file = options.write(true).create_new(true).open(path(step));
        let clock = Self(file.context("make the clock's file")?);
        clock.step(0)?;
        let (library, step) = (path(library), path(step));
        // QEMU, swtpm and the vsock daemon are users of their own, and find both by name.
        for (place, mode) in [
            (lab.dir(), 0o711),
            (library.as_path(), 0o755),
            (step.as_path(), 0o644),
        ] {
            let opened = fs::set_permissions(place, Permissions::from_mode(mode));
            opened.with_context(|| format!("open {} to others", place.display()))?;
        }
        lab.tell("LD_PRELOAD", library.to_string_lossy().into_owned());
        lab.tell("CHAOS_CLOCK", step.to_string_lossy().into_owned());
        Ok(clock)
    }

    /// Steps it: so many seconds from the machine's.
    pub(super) fn step(&self, seconds: i64) -> Result<()> {
        let step = self.0.write_all_at(&seconds.to_ne_bytes(), 0);
        step.context("write the clock's step")
    }
}

/// A guest that booted under a stepped clock has it: `said` is its time, as `date +%s` prints it.
pub(super) fn has_stepped(said: &str, seconds: i64) -> Result<()> {
    let guest: i64 = said.trim().parse().with_context(|| said.to_owned())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let off = guest - i64::try_from(now.as_secs())?;
    ensure!(
        (off - seconds).abs() < NEARLY,
        "the host's clock was stepped by {seconds} s, and the guest that booted then is off by {off} s"
    );
    Ok(())
}
