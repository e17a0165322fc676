//! Locks that another VM has, or has just had. A process that was killed gives its locks back when the last of its threads
//! has ended, and that is a moment after it counts as a zombie: whoever starts the next VM at once waits for that moment.
//!
//! A process that lives gives its locks of flock(2) back itself ([`Held`]): each belongs to the open file, not to the
//! descriptor, and a child that another thread has just started has a copy until it has become its program.

use std::{
    fs::File,
    io, thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// How long the end of a killed process may take: QEMU has much memory to give back.
const GOING: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Locks an open file or folder by flock(2); false where somebody else has it. Locking twice is locking once.
pub(crate) fn try_exclusive(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
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
pub(crate) fn take(mut attempt: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    let until = Instant::now() + GOING;
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
