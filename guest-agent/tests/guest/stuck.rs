//! A journald that is stuck, under the whole agent in a container of namespaces: nobody waits for it, and what it did not take is
//! counted.

use std::{io::Write, path::Path, time::Duration};

use seed_container::{Container, Spec, guest_root, wait_for};
use seed_kata_client::{Kata, unix};

use crate::kills::{AGAIN, SOCKET, UNIT, unit};

/// Each makes the agent log a line: more than its queue holds, and far more than journald's socket.
const CALLS: u64 = 2000;
/// What else the agent may say meanwhile, of its connection to systemd and of a host that does not come: it may be missing too.
const OTHERS: u64 = 20;
/// Of such a line.
const LINE: &str = "processors and memory are online";
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_journald_that_is_stuck_holds_up_no_call_no_end_and_no_start() {
    let root = match guest_root() {
        _ if crate::missing().is_none() => return,
        Ok(root) => root,
        Err(reason) => {
            let line = format!("SKIPPED an agent whose journald is stuck: {reason}\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return;
        }
    };
    let agent = Path::new(env!("CARGO_BIN_EXE_seed-agent"));
    let container = Spec::new(&root)
        .and_then(|spec| spec.file(&format!("/etc/systemd/system/{UNIT}"), unit()))
        .and_then(|spec| spec.file("/etc/seed/instance.json", "{}"))
        .and_then(|spec| spec.show(agent, "/opt/seed-agent").boot())
        .unwrap();
    container.serve(UNIT, SOCKET, AGAIN).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let kata = runtime.block_on(async { unix(&container.inside(SOCKET)).await.map(Kata::new) });
    let kata = kata.unwrap();

    tell_journald(&container, "STOP");
    runtime.block_on(async {
        for _ in 0..CALLS {
            kata.online(0, true).await.unwrap();
        }
        assert!(kata.check().await.unwrap());
    });
    tell_journald(&container, "CONT");
    wait_for("all lines, or their number", LIMIT, || {
        let (told, missing) = lines(&container);
        let all = CALLS..=CALLS + OTHERS;
        assert!(
            told + missing <= *all.end(),
            "{told} lines, {missing} missing"
        );
        Ok(missing > 0 && all.contains(&(told + missing)))
    })
    .unwrap();

    tell_journald(&container, "STOP");
    runtime.block_on(async {
        for _ in 0..100 {
            kata.online(0, true).await.unwrap();
        }
    });
    container.run(&["systemctl", "stop", UNIT]).unwrap();
    let result = ["systemctl", "show", "--value", "-p", "Result", UNIT];
    assert_eq!(container.run(&result).unwrap().trim(), "success");
    // Nor the next one's start.
    container.serve(UNIT, SOCKET, AGAIN).unwrap();
    wait_for("an agent that answers", AGAIN, || {
        // The old one's socket may still be there.
        let answered = runtime.block_on(async {
            let kata = Kata::new(unix(&container.inside(SOCKET)).await.ok()?);
            kata.check().await.ok()
        });
        Ok(answered == Some(true))
    })
    .unwrap();
    tell_journald(&container, "CONT");
}

fn tell_journald(container: &Container, signal: &str) {
    let unit = "systemd-journald.service";
    let words = ["systemctl", "kill", "--kill-whom=main", "-s", signal, unit];
    container.run(&words).unwrap();
}

/// How many of the lines are in the journal, and how many the agent says are missing.
fn lines(container: &Container) -> (u64, u64) {
    let words = ["journalctl", "-q", "-o", "json", "-t", "seed-agent"];
    let text = container.run(&words).unwrap();
    let entries: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told = entries.iter().filter(|entry| entry["MESSAGE"] == LINE);
    let missing = entries.iter().filter_map(|entry| entry["F_LINES"].as_str());
    let missing = missing.map(|lines| lines.parse::<u64>().unwrap());
    (told.count() as u64, missing.sum())
}
