//! Journal namespaces: the journal of each is a log of its own, as whole as the system's.

use std::{path::Path, time::Duration};

use seed_protocol::JournalNamespace;
use seed_shim::logs::{
    namespaces,
    reader::{Item, Reader},
};
use tokio::time::{sleep, timeout};

use super::{
    boot,
    container::Container,
    held::{exported, exported_of, held},
    host::{Host, wait_for_entries},
};

/// How long the host may take to hear of a namespace and to pull its journal: a poll has ten seconds.
const PULL_LIMIT: Duration = Duration::from_secs(60);

/// A unit that stays in a namespace. Without one, systemd stops the namespace's own units when the last that wrote to it
/// ends, and refuses to start another as long as it does.
fn stay(container: &Container, namespace: &str) {
    let property = format!("--property=LogNamespace={namespace}");
    container.run(&["systemd-run", "--quiet", &property, "sleep", "infinity"]);
}

/// So many lines from a unit in a namespace.
fn talk(container: &Container, namespace: &str, lines: std::ops::RangeInclusive<u32>) {
    let (from, to) = (lines.start(), lines.end());
    let script =
        format!("i={from}; while [ $i -le {to} ]; do echo {namespace} $i; i=$((i + 1)); done");
    let property = format!("--property=LogNamespace={namespace}");
    let words = [
        "systemd-run",
        "--quiet",
        "--wait",
        &property,
        "sh",
        "-c",
        &script,
    ];
    container.run(&words);
}

fn entries(dir: &Path) -> u64 {
    let mut reader = Reader::from_start(dir);
    let mut count = 0;
    while let Ok(Some(item)) = reader.next() {
        let Item::Frame(frame) = item else {
            panic!("segments are missing")
        };
        count += u64::from(frame.count);
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_of_a_namespace_is_a_log_of_its_own() {
    let Some(container) = boot("1G") else { return };
    let mut host = Host::begin(&container);
    let name = |text: &str| JournalNamespace::try_from(text).unwrap();
    let web = namespaces::dir_of(&host.logs(), &name("web"));
    stay(&container, "web");
    talk(&container, "web", 1..=500);
    let pulled = async {
        while entries(&web) < 500 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(
        timeout(PULL_LIMIT, pulled).await.is_ok(),
        "{}",
        entries(&web)
    );

    // Both sides are killed, and each log goes on where it was.
    drop(host.puller.take());
    talk(&container, "web", 501..=800);
    container.run(&["systemctl", "kill", "-s", "KILL", "shipper.service"]);
    host.pull();
    talk(&container, "web", 801..=1000);
    // A drain goes without a guest that is away: the agent is back when it has answered.
    wait_for_entries(&host, 1).await;
    // One that the host has not heard of when it is told to end.
    stay(&container, "late");
    talk(&container, "late", 1..=50);
    for namespace in ["web", "late"] {
        let option = format!("--namespace={namespace}");
        container.run(&["journalctl", &option, "--sync"]);
    }
    let guest = exported(&container);
    host.drain().await;

    assert_eq!(
        namespaces::kept(&host.logs()).unwrap(),
        [name("late"), name("web")]
    );
    let main = held(&host.logs());
    main.check(&guest);
    assert_eq!((main.missing(), main.resets), (0, 0));
    for (namespace, lines) in [("web", 1000), ("late", 50)] {
        let option = format!("--namespace={namespace}");
        let guest = exported_of(&container, &[&option]);
        let held = held(&namespaces::dir_of(&host.logs(), &name(namespace)));
        let only_here = held.check(&guest);
        assert_eq!(
            (only_here, held.missing(), held.resets),
            (0, 0, 0),
            "{namespace}"
        );
        assert_eq!(held.entries.len(), guest.len(), "{namespace}");
        assert!(held.entries.len() >= lines, "{namespace}");
    }
}
