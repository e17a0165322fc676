//! Connections to Unix sockets that are there at once or not at all. A server that stands still takes nobody in any more: once so
//! many wait as there is room for, connect(2) would wait as well, without a limit (unix(7)).

use std::{io, os::unix::net::UnixStream, path::Path};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// Connects. Reading and writing do not block either. [`io::ErrorKind::WouldBlock`]: too many wait there already.
pub(crate) fn connect_at_once(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// Whether somebody listens there, however many wait.
pub(crate) fn has_listener(path: &Path) -> bool {
    match connect_at_once(path) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::net::UnixListener;

    use rustix::net::{bind, listen};

    use super::*;

    /// A listener at this path that has room for nobody but the one who waits there.
    pub(crate) fn full(path: &Path) -> (UnixListener, UnixStream) {
        let listener = UnixListener::bind(path).unwrap();
        listen(&listener, 0).unwrap();
        let waits = connect_at_once(path).unwrap();
        (listener, waits)
    }

    #[test]
    fn a_listener_that_takes_nobody_more_keeps_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        assert!(!has_listener(&path));
        let _full = full(&path);
        let error = connect_at_once(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(has_listener(&path));
    }

    #[test]
    fn a_name_behind_which_nobody_listens_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("left");
        let flags = SocketFlags::CLOEXEC;
        let left = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        bind(&left, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        assert!(path.exists() && !has_listener(&path));
    }
}
