//! The pseudo-terminal of an exec: pty(7), tty_ioctl(4).
//!
//! The agent keeps the far end open as well until the service has ended: a master whose last far end is
//! closed reads EIO, which is the end of the stream only when no process is about to open it.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::PathBuf,
};

use rustix::{
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt},
    termios::{LocalModes, SpecialCodeIndex, Winsize, tcgetattr, tcsetwinsize},
};

/// Rows and columns. 0 means that nobody knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// A terminal that no process uses yet.
#[derive(Debug)]
pub(super) struct Terminal {
    /// Our end.
    pub(super) master: OwnedFd,
    /// The process's end, held open.
    pub(super) far_end: OwnedFd,
    /// The name of the process's end.
    pub(super) path: PathBuf,
}

impl Terminal {
    pub(super) fn open(size: Size) -> io::Result<Self> {
        // Without NOCTTY it would become the agent's own controlling terminal.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let far_end = ioctl_tiocgptpeer(&master, flags)?;
        resize(&master, size)?;
        let path = PathBuf::from(OsString::from_vec(name.into_bytes()));
        Ok(Self {
            master,
            far_end,
            path,
        })
    }
}

/// Sets the size; the processes in the foreground get SIGWINCH.
pub(super) fn resize(terminal: impl AsFd, size: Size) -> io::Result<()> {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(terminal, size)?)
}

/// The character that ends the input, if the terminal is in the mode in which there is one.
pub(super) fn end_of_file(terminal: impl AsFd) -> Option<u8> {
    let modes = tcgetattr(terminal).ok()?;
    let canonical = modes.local_modes.contains(LocalModes::ICANON);
    canonical.then(|| modes.special_codes[SpecialCodeIndex::VEOF])
}

#[cfg(test)]
mod tests {
    use rustix::termios::tcgetwinsize;

    use super::*;

    #[test]
    fn a_terminal_has_the_size_it_was_opened_with_and_then_the_new_one() {
        let terminal = Terminal::open(Size {
            rows: 24,
            columns: 80,
        })
        .unwrap();
        assert!(terminal.path.starts_with("/dev/pts"));
        let size = tcgetwinsize(&terminal.far_end).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (24, 80));
        resize(
            &terminal.master,
            Size {
                rows: 50,
                columns: 132,
            },
        )
        .unwrap();
        let size = tcgetwinsize(&terminal.far_end).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (50, 132));
    }

    #[test]
    fn a_fresh_terminal_ends_its_input_with_control_d() {
        let terminal = Terminal::open(Size::default()).unwrap();
        assert_eq!(end_of_file(&terminal.master), Some(4));
    }
}
