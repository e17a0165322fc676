//! What goes wrong with containerd itself: it is killed while its instances run, end, or are about to start. Its shims live on,
//! nobody reads their output, and a containerd that is started again finds everything as it is.

use std::{thread, time::Duration};

use anyhow::Result;

use super::{
    faults::{self, ENDED, Outcome},
    plan::Part,
    subject::Subject,
};
use crate::lab::{self, BOOT, until};

/// So many times, for so long each.
pub(super) fn kills(subject: &mut Subject, times: u64, away: Duration) -> Result<Outcome> {
    let contained = subject.contained_mut()?;
    for _ in 0..times {
        contained.containerd.kill()?;
        contained.stream.leave()?;
        thread::sleep(away);
        contained.stream.listen()?;
        contained.containerd.run()?;
    }
    Ok(Outcome::Lives)
}

/// What ends while nobody listens is known afterwards.
pub(super) fn end_unseen(subject: &mut Subject, part: Part) -> Result<Outcome> {
    let pid = subject.process(part)?;
    let contained = subject.contained_mut()?;
    contained.containerd.kill()?;
    contained.stream.leave()?;
    let outcome = faults::kill(subject, part)?;
    until("the end of what was killed", ENDED, || {
        Ok((!lab::alive(pid)).then_some(()))
    })?;
    let contained = subject.contained_mut()?;
    // An engine opens what it reads before it removes a task that has ended, and with the shim goes what nobody has read.
    contained.stream.listen()?;
    contained.containerd.run()?;
    Ok(outcome)
}

/// The command that starts a task fails or does not, and its task is there or not: it can be removed, and started anew.
pub(super) fn start_cut(subject: &mut Subject, after: Duration) -> Result<Outcome> {
    faults::kill(subject, Part::Helper("qemu"))?;
    let contained = subject.contained_mut()?;
    contained.over()?;
    let mut begun = contained.begin()?;
    thread::sleep(after);
    contained.containerd.kill()?;
    until("the end of a start without containerd", BOOT, || {
        Ok(begun.try_wait()?)
    })?;
    contained.containerd.run()?;
    contained.clear()?;
    contained.start()?;
    Ok(Outcome::Restarted)
}
