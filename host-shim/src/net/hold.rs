//! Whose a pod's network is. Its links lead to one machine: who wires them once more takes the first one's frames, and nobody
//! is told. So a network is locked for as long as it is wired, by flock(2) on the namespace's own file.
//!
//! That is one file whatever name it is opened by (`fs/nsfs.c`, ioctl_nsfs(2)), so all shims of a host see the lock, whatever
//! their run folders. It goes with its holder: a shim that was killed leaves nothing that its pod's next task would find.
//! Who holds it is told by `/proc/locks` (proc_locks(5)).

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{major, minor};
use thiserror::Error;

use crate::{
    locks::{self, Held},
    shim::cli::{self, Command, Target},
};

/// How often it is looked whether one that ends has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Why a network is not ours.
#[derive(Debug, Error)]
pub enum HoldError {
    /// A machine has it.
    #[error(
        "network namespace {} is wired to the machine of {holder}, and serves one at a time: end that one first, or give this one a namespace of its own",
        network.display()
    )]
    Taken {
        /// The namespace.
        network: PathBuf,
        /// Whose it is.
        holder: String,
    },
    /// It cannot be locked.
    #[error("network namespace {} cannot be locked", network.display())]
    Lock {
        /// The namespace.
        network: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A network that is ours, until this is dropped.
#[derive(Debug)]
pub(super) struct Hold(Held);

impl Hold {
    /// Takes the network namespace at `network`. Blocks where somebody has it: for the time that one which was killed
    /// may take to be gone, at most.
    pub(super) fn take(network: &Path) -> Result<Self, HoldError> {
        let hold = Self::open(network)?;
        if locks::exclusive(hold.file(), locks::gone_by()).map_err(fault(network))? {
            return Ok(hold);
        }
        let pid = holder(hold.file());
        Err(HoldError::Taken {
            network: network.to_owned(),
            holder: in_words(pid, pid.and_then(shim_of).as_ref()),
        })
    }

    /// Takes it from one that is about to end, and waits for that until `until`; none where whoever has it goes on.
    pub(super) fn take_over(network: &Path, until: Instant) -> Result<Option<Self>, HoldError> {
        let hold = Self::open(network)?;
        loop {
            if locks::try_exclusive(hold.file()).map_err(fault(network))? {
                return Ok(Some(hold));
            }
            let goes_on = holder(hold.file()).is_some_and(|pid| !command_line(pid).is_empty());
            if goes_on || Instant::now() > until {
                return Ok(None);
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    fn open(network: &Path) -> Result<Self, HoldError> {
        let file = File::open(network).map_err(fault(network))?;
        Ok(Self(Held(file)))
    }

    fn file(&self) -> &File {
        &self.0.0
    }
}

fn fault(network: &Path) -> impl FnOnce(io::Error) -> HoldError + use<'_> {
    |source| HoldError::Lock {
        network: network.to_owned(),
        source,
    }
}

/// Who has locked this file by flock(2).
fn holder(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok()?;
    let device = metadata.dev();
    let inode = metadata.ino();
    let name = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    locked_by(&fs::read_to_string("/proc/locks").ok()?, &name)
}

/// The same, of the file of this name in a list of the kernel's.
fn locked_by(list: &str, name: &str) -> Option<u32> {
    list.lines().find_map(|line| {
        // Its number, or a number and an arrow of one that waits: that one is passed over.
        let mut fields = line.split_whitespace().skip(1);
        let is_it = fields.next() == Some("FLOCK");
        let pid = fields.nth(2)?;
        let is_it = is_it && fields.next() == Some(name);
        pid.parse().ok().filter(|_| is_it)
    })
}

/// A holder for a message. It may have let go just now, or be in a PID namespace that is not seen from here.
fn in_words(pid: Option<u32>, shim: Option<&Target>) -> String {
    match (pid, shim) {
        (None, _) => "a process that is not to be seen from here".to_owned(),
        (Some(pid), None) => format!("process {pid}"),
        (Some(pid), Some(Target { namespace, id, .. })) => {
            format!("{namespace}/{id}, process {pid}")
        }
    }
}

/// Whose shim a process is.
fn shim_of(pid: u32) -> Option<Target> {
    let words = command_line(pid).into_iter().skip(1);
    match cli::parse(words) {
        Ok(Command::Serve(target)) => Some(target),
        _ => None,
    }
}

/// What a process was started as. None has no word: one that ends has lost its memory already (proc_pid_cmdline(5)).
fn command_line(pid: u32) -> Vec<OsString> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split_inclusive(|byte| *byte == 0);
    let words = words.map(|word| word.strip_suffix(&[0]).unwrap_or(word));
    words
        .map(|word| OsStr::from_bytes(word).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_found_among_other_locks() {
        let list = "1: POSIX  ADVISORY  WRITE 11 00:04:4026534026 0 EOF\n\
                    2: FLOCK  ADVISORY  WRITE 12 00:04:40265340 0 EOF\n\
                    3: FLOCK  ADVISORY  WRITE 13 00:04:4026534026 0 EOF\n\
                    3: -> FLOCK  ADVISORY  WRITE 14 00:04:4026534027 0 EOF\n";
        assert_eq!(locked_by(list, "00:04:4026534026"), Some(13));
        assert_eq!(locked_by(list, "00:04:4026534027"), None);
        assert_eq!(locked_by("", "00:04:4026534026"), None);
    }

    #[test]
    fn ones_own_lock_is_ones_own() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(holder(file.as_file()), None);
        assert!(locks::try_exclusive(file.as_file()).unwrap());
        assert_eq!(holder(file.as_file()), Some(std::process::id()));
    }

    #[test]
    fn a_holder_is_told_by_what_is_known_of_it() {
        let target = |line: &str| match cli::parse(line.split(' ').map(OsString::from)) {
            Ok(Command::Serve(target)) => Some(target),
            other => panic!("{other:?}"),
        };
        let shim = target("-namespace default -id demo -address a serve");
        assert_eq!(in_words(Some(7), shim.as_ref()), "default/demo, process 7");
        assert_eq!(in_words(Some(7), None), "process 7");
        let unseen = "a process that is not to be seen from here";
        assert_eq!(in_words(None, None), unseen);
    }

    #[test]
    fn only_a_shim_is_taken_for_one_and_only_who_is_there_has_words() {
        assert!(!command_line(std::process::id()).is_empty());
        assert_eq!(shim_of(std::process::id()), None);
        assert!(command_line(u32::MAX).is_empty());
    }
}
