//! The system calls that the standard library has no word for. The only place with `unsafe`, and each
//! block says why it is sound.

pub mod identity;
pub mod lookup;
pub mod mounts;
pub mod tun;

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::Path,
    sync::Arc,
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat2},
    io::{Errno, FdFlags, fcntl_setfd},
    mount::{MountPropagationFlags, mount_change},
    process::{
        Pid, Resource, Rlimit, Signal, getpid, getppid, getrlimit, set_parent_process_death_signal,
        setrlimit,
    },
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    process::{Child, Command},
};

/// How often a path is resolved again that the kernel could not be sure of.
const RESOLVED_AGAIN: usize = 128;

/// Opens `path` with `root` as `/`, so that no link and no `..` leads out of it. `flags` make nothing.
///
/// The kernel gives a `..` up with EAGAIN whenever anything on the machine is mounted or renamed meanwhile
/// (openat2(2)), which pods that come and go do all the time: it is asked again.
pub fn open_inside(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..RESOLVED_AGAIN {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            opened => return Ok(opened?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// Lets this process have so many files open, or as many as it may ask for, where it could have fewer: what systemd starts begins
/// with 1024 (systemd-system.conf(5), `DefaultLimitNOFILE=`). Where no more are allowed it does with those.
pub fn allow_files(many: u64) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(many, |most| most.min(many));
    if limit.current.is_some_and(|now| now < wanted) {
        let current = Some(wanted);
        let _ = setrlimit(Resource::Nofile, Rlimit { current, ..limit });
    }
}

/// Has the runtime say when a socket can be read from or its other side is gone. Must be called inside the runtime. The
/// socket's flags stay as they are: whoever else holds it may wait on it.
#[allow(
    unsafe_code,
    reason = "the runtime watches sockets by number: that one is whose it is thought to be takes a promise"
)]
pub fn watched(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor keeps its number until it is dropped, and `AsyncFd` ends its registration before it
    // drops what it owns.
    let watched = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    watched.map_err(|error| error.into_parts().1)
}

/// Gives the calling thread, and every thread and process that it starts from now on, mounts of its own.
/// Mounts of the host still arrive; ours do not leave.
///
/// To be called before any other thread exists.
#[allow(
    unsafe_code,
    reason = "rustix marks unshare unsafe for the sake of another flag"
)]
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: the one precondition is about `UnshareFlags::FILES`, which is not given: the table of
    // descriptors stays shared.
    unsafe {
        unshare_unsafe(UnshareFlags::NEWNS)?;
    }
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", flags)?;
    Ok(())
}

/// Gives the calling thread a network of its own, with nothing in it. To be called in a thread that ends: it keeps that.
#[allow(
    unsafe_code,
    reason = "rustix marks unshare unsafe for the sake of another flag"
)]
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: the one precondition is about `UnshareFlags::FILES`, which is not given.
    unsafe {
        unshare_unsafe(UnshareFlags::NEWNET)?;
    }
    Ok(())
}

/// Starts a process in other mounts than ours, as the leader of a session of its own. To be called in a thread
/// that does nothing else and ends: it keeps those mounts.
#[allow(
    unsafe_code,
    reason = "rustix marks unshare unsafe for the sake of another flag"
)]
pub fn spawn_with_mounts(
    command: &mut std::process::Command,
    mounts: impl AsFd,
) -> io::Result<std::process::Child> {
    use std::os::unix::process::CommandExt;
    // A thread that shares its root and working directory with others cannot change mounts (setns(2)).
    // SAFETY: the one precondition is about `UnshareFlags::FILES`, which is not given: the table of
    // descriptors stays shared.
    unsafe {
        unshare_unsafe(UnshareFlags::FS)?;
    }
    move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
    let hook = || Ok(rustix::process::setsid().map(drop)?);
    // SAFETY: between fork and exec the closure makes one system call. It allocates nothing, takes no lock
    // and touches no memory that another thread could hold half-written.
    unsafe {
        command.pre_exec(hook);
    }
    command.spawn()
}

/// Makes the child get SIGKILL when this thread ends, however it ends.
#[allow(
    unsafe_code,
    reason = "a hook between fork and exec is unsafe by nature"
)]
pub fn die_with_parent(command: &mut Command) {
    let parent = getpid();
    let hook = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the call: then nobody would ever send the signal.
        if getppid() == Some(parent) {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(
                rustix::io::Errno::SRCH.raw_os_error(),
            ))
        }
    };
    // SAFETY: between fork and exec the closure makes two system calls on plain values. It allocates
    // nothing, takes no lock and touches no memory that another thread could hold half-written.
    unsafe {
        command.pre_exec(hook);
    }
}

/// Makes the child begin in the control groups whose `cgroup.procs` these are. To be called before it is made another user.
#[allow(
    unsafe_code,
    reason = "a hook between fork and exec is unsafe by nature"
)]
pub fn enter_groups(command: &mut Command, doors: Arc<Vec<OwnedFd>>) {
    let hook = move || {
        for door in doors.iter() {
            // Who writes it is meant (cgroups(7)).
            rustix::io::write(door, b"0")?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls on a list that it owns. It allocates nothing, takes no
    // lock and touches no memory that another thread could hold half-written.
    unsafe {
        command.pre_exec(hook);
    }
}

/// Starts a child that finds these files open, under the numbers that they have here. No other child does, whoever starts
/// one meanwhile.
#[allow(
    unsafe_code,
    reason = "a hook between fork and exec is unsafe by nature"
)]
pub fn spawn_with_files(mut command: Command, files: &[BorrowedFd<'_>]) -> io::Result<Child> {
    let numbers: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
    let hook = move || -> io::Result<()> {
        for number in &numbers {
            // SAFETY: `files` are open here until the child has begun, and so they are in the child, which is a copy.
            let file = unsafe { BorrowedFd::borrow_raw(*number) };
            fcntl_setfd(file, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls on plain values of a list that it owns. It allocates
    // nothing, takes no lock and touches no memory that another thread could hold half-written. The command goes with
    // this call: nobody starts another child of it, after the files may have been closed.
    unsafe {
        command.pre_exec(hook);
    }
    command.spawn()
}

/// Sends a signal to the process behind a pidfd. A process that is gone is no error.
pub fn signal(pidfd: impl AsFd, signal: Signal) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(pidfd, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// When the process of this pid started, in clock ticks since boot (proc_pid_stat(5), field 22): with the
/// pid it names one process for good. `None` when there is none, or only its zombie.
pub fn start_time(pid: u32) -> Option<u64> {
    let (state, start) = stat(pid)?;
    (!matches!(state, 'Z' | 'X')).then_some(start)
}

/// Whether a signal has stopped this process: it does nothing until another one continues it.
pub fn is_stopped(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state == 'T')
}

/// A process's state and its start.
fn stat(pid: u32) -> Option<(char, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so count from its end.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// A pid as rustix wants it.
pub fn pid(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn this_process_has_a_start_time_and_a_missing_one_has_none() {
        assert!(start_time(std::process::id()).is_some_and(|ticks| ticks > 0));
        assert_eq!(start_time(u32::MAX), None);
    }

    #[test]
    fn a_path_with_dots_is_opened_while_others_rename() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("nix")).unwrap();
        let (one, other) = (directory.path().join("one"), directory.path().join("other"));
        std::fs::write(&one, "").unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(directory.path(), flags, Mode::empty()).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::fs::rename(&one, &other).unwrap();
                    std::fs::rename(&other, &one).unwrap();
                }
            });
            let path = Path::new("/nix/../nix");
            let opened = (0..20_000).find_map(|_| open_inside(root.as_fd(), path, flags).err());
            done.store(true, Ordering::Relaxed);
            assert!(opened.is_none(), "{opened:?}");
        });
    }
}
