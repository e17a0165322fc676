//! Locks that another VM has, or has just had. A process that was killed gives its locks back when the last of its threads
//! has ended, and that is a moment after it counts as a zombie: whoever starts the next VM at once waits for that moment.
//!
//! A process that lives gives its locks of flock(2) back itself ([`Held`]): each belongs to the open file, not to the
//! descriptor, and a child that another thread has just started has a copy until it has become its program.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// How long the end of a killed process may take: QEMU has much memory to give back.
const GOING: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How often the folder of a lock may be gone while the lock is made in it.
const TRIES: usize = 1000;

/// Locks an open file or folder by flock(2); false where somebody else has it. Locking twice is locking once.
pub(crate) fn try_exclusive(file: &File) -> io::Result<bool> {
    is_ours(flock(file, FlockOperation::NonBlockingLockExclusive))
}

/// The same after a wait for one that goes, until `until` at the most.
pub(crate) fn exclusive(file: &File, until: Instant) -> io::Result<bool> {
    is_ours(take_until(until, || {
        flock(file, FlockOperation::NonBlockingLockExclusive)
    }))
}

/// By when a lock is given back that goes.
pub(crate) fn gone_by() -> Instant {
    Instant::now() + GOING
}

fn is_ours(locked: Result<(), Errno>) -> io::Result<bool> {
    match locked {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// An open file or folder, whose lock, where it has one, goes with this, whoever has a copy of the descriptor.
#[derive(Debug)]
pub(crate) struct Held(pub(crate) File);

impl Held {
    /// Lets others in already.
    pub(crate) fn give_back(&self) {
        // It cannot fail on a descriptor that is open, and closing the last copy does the same.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Tries until the lock is not taken, or [`GOING`] is over. Blocks the thread, and only where somebody has the lock.
pub(crate) fn take(attempt: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    take_until(gone_by(), attempt)
}

fn take_until(until: Instant, mut attempt: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    loop {
        match attempt() {
            // flock(2) says the first, fcntl(2) either.
            Err(Errno::AGAIN | Errno::ACCESS) if Instant::now() < until => {
                thread::sleep(LOOK_AGAIN);
            }
            result => return result,
        }
    }
}

/// Opens and locks a file that goes, and its folder with it, when whoever has locked it needs neither any more; the folder is made
/// with mode 0700 where it is missing. None where `lock` says that somebody else has it.
pub(crate) fn in_its_folder(
    path: &Path,
    open: impl Fn() -> io::Result<File>,
    lock: impl Fn(&File) -> io::Result<bool>,
) -> io::Result<Option<Held>> {
    let mut tries = 0..TRIES;
    loop {
        let made = path.parent().map_or(Ok(()), |dir| {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)
        });
        let file = match made.and_then(|()| open()) {
            Ok(file) => file,
            // The last one that had it took the folder with it, before or while it was made.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists
                ) && tries.next().is_some() =>
            {
                continue;
            }
            Err(error) => return Err(error),
        };
        if !lock(&file)? {
            return Ok(None);
        }
        let file = Held(file);
        // Whoever had it before may have removed it meanwhile: what is locked then has no name, and the next one makes another.
        let (ours, there) = (file.0.metadata()?, fs::metadata(path));
        if there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
            return Ok(Some(file));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_goes_is_waited_for_and_another_error_is_not() {
        let mut attempts = 0;
        let result = take(|| {
            attempts += 1;
            if attempts < 3 {
                Err(Errno::AGAIN)
            } else {
                Ok(())
            }
        });
        assert_eq!((result, attempts), (Ok(()), 3));
        let mut attempts = 0;
        let result = take(|| {
            attempts += 1;
            Err(Errno::NOLCK)
        });
        assert_eq!((result, attempts), (Err(Errno::NOLCK), 1));
    }

    #[test]
    fn a_lock_that_is_given_back_is_free_although_a_copy_of_its_file_is_open() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let [one, other] = [(); 2].map(|()| File::open(file.path()).unwrap());
        let copy = one.try_clone().unwrap();
        assert!(try_exclusive(&one).unwrap() && !try_exclusive(&other).unwrap());
        drop(Held(one));
        assert!(try_exclusive(&other).unwrap());
        drop(copy);
    }

    #[test]
    fn a_lock_that_stays_is_told_as_it_is() {
        assert_eq!(take(|| Err(Errno::ACCESS)), Err(Errno::ACCESS));
    }
}
