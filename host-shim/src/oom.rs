//! Whom the host's kernel kills first when its memory runs out: `oom_score_adj` of a process, from -1000 (never) to 1000
//! (proc_pid_oom_score_adj(5)). A child begins with its parent's.

use std::{fs, io};

/// Before all others.
const FIRST: i32 = 1000;

/// Gives a process this score. Less than it has wants CAP_SYS_RESOURCE.
pub(crate) fn set(pid: u32, adj: i32) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/oom_score_adj"), adj.to_string())
}

/// Gives a child one more than we have: it goes before us.
pub(crate) fn set_above_own(pid: u32) -> io::Result<()> {
    let own = fs::read_to_string("/proc/self/oom_score_adj")?;
    let own: i32 = own.trim().parse().map_err(io::Error::other)?;
    set(pid, (own + 1).min(FIRST))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_child_goes_before_us_or_before_all() {
        let mut child = Command::new("sleep")
            .arg("1000")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let score = |pid: &str| -> i32 {
            let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
            text.trim().parse().unwrap()
        };
        let pid = child.id();
        set_above_own(pid).unwrap();
        let above = score(&pid.to_string());
        set(pid, FIRST).unwrap();
        let first = score(&pid.to_string());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((above, first), ((score("self") + 1).min(FIRST), FIRST));
    }
}
