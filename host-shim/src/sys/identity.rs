//! Another user for a child: what happens between its fork and its exec (credentials(7), capabilities(7)).
//!
//! The program itself is still found and opened with the right to read everything, for it may be in a folder that is
//! closed to others; the exec takes that away, so that the running program has nothing but what it shall have.

use std::io;

use rustix::{
    fs::{Gid, Uid, fchown},
    stdio::stdout,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, configure_capability_in_ambient_set,
        set_capabilities, set_keep_capabilities, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};
use tokio::process::Command;

/// Without these nobody becomes another user, is given files, is ended by us, or leaves what we can open and remove.
const NEEDED: CapabilitySet = CapabilitySet::SETUID
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::DAC_OVERRIDE);

/// A user, as a running program is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User and group, of the same number.
    pub id: u32,
    /// Groups beside it.
    pub groups: Vec<Gid>,
    /// It may listen on ports below 1024.
    pub low_ports: bool,
}

impl Identity {
    /// This user and group, and nothing else.
    pub fn plain(id: u32) -> Self {
        Self {
            id,
            groups: Vec::new(),
            low_ports: false,
        }
    }

    /// `permitted` are the capabilities of the process that forked.
    fn become_it(&self, permitted: CapabilitySet) -> rustix::io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.id), Gid::from_raw(self.id));
        set_thread_groups(&self.groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_keep_capabilities(true)?;
        set_thread_res_uid(uid, uid, uid)?;
        let kept = if self.low_ports {
            permitted.intersection(CapabilitySet::NET_BIND_SERVICE)
        } else {
            CapabilitySet::empty()
        };
        let now = kept.union(permitted.intersection(CapabilitySet::DAC_READ_SEARCH));
        set_capabilities(
            None,
            CapabilitySets {
                effective: now,
                permitted: now,
                inheritable: kept,
            },
        )?;
        if !kept.is_empty() {
            configure_capability_in_ambient_set(kept, true)?;
        }
        Ok(())
    }
}

/// Whether this process can start others as other users, and keep house for them.
pub fn can_switch() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(NEEDED))
}

/// Makes the child another user. To be called before anything is set that a change of user takes back. `owns_stdout`:
/// its standard output is a pipe, which it shall be able to open by name.
#[allow(
    unsafe_code,
    reason = "a hook between fork and exec is unsafe by nature"
)]
pub fn run_as(command: &mut Command, identity: Identity, owns_stdout: bool) {
    let permitted = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.permitted);
    let hook = move || {
        if owns_stdout {
            let owner = (Uid::from_raw(identity.id), Gid::from_raw(identity.id));
            fchown(stdout(), Some(owner.0), Some(owner.1)).map_err(io::Error::from)?;
        }
        Ok(identity.become_it(permitted)?)
    };
    // SAFETY: between fork and exec the closure makes system calls on plain values and on a list that it owns. It
    // allocates nothing, takes no lock and touches no memory that another thread could hold half-written.
    unsafe {
        command.pre_exec(hook);
    }
}
