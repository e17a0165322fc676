//! Locks that another VM has, or has just had. A process that was killed gives its locks back when the last of its threads
//! has ended, and that is a moment after it counts as a zombie: whoever starts the next VM at once waits for that moment.

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
    fn a_lock_that_stays_is_told_as_it_is() {
        assert_eq!(take(|| Err(Errno::ACCESS)), Err(Errno::ACCESS));
    }
}
