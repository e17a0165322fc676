//! swtpm behind a character device, for programs that insist on `/dev/tpmrm0`.
//!
//! Owns a pseudo terminal whose slave side takes TPM commands, a thread that carries them to swtpm,
//! and a private mount namespace in which the slave is named `/dev/tpmrm0`. Needs root for the
//! namespace. There is no resource manager behind it, unlike behind the real device.
#![allow(
    dead_code,
    reason = "each test binary uses another part of this module"
)]
#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is a failure with a place"
)]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use age_tpm::tpm::Tcti;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use crate::common::{Swtpm, skip};

/// Go's runtime signals its own threads that run long, and a signal breaks off the read from a pseudo terminal, where a
/// TPM's driver has its answer ready. So on a busy machine the Go plugin would fail for a reason that no TPM has.
pub(crate) const NO_SIGNALS: (&str, &str) = ("GODEBUG", "asyncpreemptoff=1");

/// In the namespace: a small /dev with the slave in the TPM's place, then the program itself.
const ENTER: &str = r#"
set -eu
dev=$1 slave=$2; shift 2
mount -t tmpfs tmpfs "$dev"
for node in null zero full random urandom tty; do
    : > "$dev/$node"; mount --bind "/dev/$node" "$dev/$node"
done
: > "$dev/tpmrm0"; mount --bind "$slave" "$dev/tpmrm0"
mkdir "$dev/pts"; mount --rbind /dev/pts "$dev/pts"
ln -s pts/ptmx "$dev/ptmx"; ln -s /proc/self/fd "$dev/fd"
mount --rbind "$dev" /dev
exec "$@"
"#;

/// A `/dev/tpmrm0` that leads to a [`Swtpm`].
pub(crate) struct Device {
    slave: PathBuf,
    dev: PathBuf,
    carried: Arc<AtomicU64>,
    /// Held open, for a pty without slave answers reads with an error.
    _open: File,
}

impl Device {
    /// `None` with a visible skip where namespaces are not allowed.
    pub(crate) fn bridge(test: &str, swtpm: &Swtpm) -> Option<Self> {
        let allowed = Command::new("unshare").args(["-m", "true"]).output();
        if !allowed.is_ok_and(|output| output.status.success()) {
            skip(test, "a private mount namespace needs root");
            return None;
        }
        let Tcti::SwtpmUnix(socket) = swtpm.tcti() else {
            unreachable!("swtpm is on a socket")
        };
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave = PathBuf::from(ptsname(&master, Vec::new()).unwrap().into_string().unwrap());
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&slave)
            .unwrap();
        let mut mode = tcgetattr(&open).unwrap();
        mode.make_raw();
        tcsetattr(&open, OptionalActions::Now, &mode).unwrap();
        let carried = Arc::default();
        let count = Arc::clone(&carried);
        thread::spawn(move || carry(File::from(master), &socket, &count));
        let dev = swtpm.scratch().join("dev");
        std::fs::create_dir_all(&dev).unwrap();
        Some(Self {
            slave,
            dev,
            carried,
            _open: open,
        })
    }

    /// How many TPM commands have passed so far.
    pub(crate) fn commands(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    /// Takes the name `/dev/tpmrm0` for this process, too. It must be in a private mount namespace already.
    pub(crate) fn take_place(&self) {
        let mut mount = Command::new("sh");
        mount.args(["-c", ENTER, "sh"]).arg(&self.dev);
        assert!(
            mount
                .arg(&self.slave)
                .arg("true")
                .status()
                .unwrap()
                .success()
        );
    }

    /// A command line that runs `program` where `/dev/tpmrm0` is the emulator.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c", ENTER, "sh"])
            .arg(&self.dev)
            .arg(&self.slave)
            .arg(program)
            .env(NO_SIGNALS.0, NO_SIGNALS.1);
        command
    }
}

/// Carries frames until the pty is gone. One connection per command leaves swtpm free for others.
fn carry(mut pty: File, socket: &Path, count: &AtomicU64) {
    while let Some(command) = frame(&mut pty) {
        count.fetch_add(1, Ordering::Relaxed);
        let Ok(mut tpm) = UnixStream::connect(socket) else {
            return;
        };
        if tpm.write_all(&command).is_err() {
            return;
        }
        let Some(response) = frame(&mut tpm) else {
            return;
        };
        if pty.write_all(&response).is_err() {
            return;
        }
    }
}

/// One command or response: its size is in bytes 2 to 5.
fn frame(source: &mut impl Read) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 10];
    source.read_exact(&mut bytes).ok()?;
    let size = u32::from_be_bytes(bytes[2..6].try_into().unwrap());
    let start = bytes.len();
    bytes.resize(usize::try_from(size).unwrap().max(start), 0);
    source.read_exact(&mut bytes[start..]).ok()?;
    Some(bytes)
}
