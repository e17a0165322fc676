//! Ends: of the machine, with more in its journal than the host has yet, and of a unit. In both cases the end waits until
//! the host has the last entry.

use std::{
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use seed_protocol::{
    JournalNamespace,
    seed::v1::{ControlUnitRequest, control_unit_request::Action},
};
use seed_shim::{
    agent::Agent,
    logs::{entry::Record, namespaces, reader::Reader},
};

use super::{
    container::Container,
    held::{held, parse, records},
    host::{Host, until, wait_for_entries},
    root,
};

/// Logs as fast as it can until the last program of systemd kills it.
const FLOOD: (&str, &str) = (
    "flood.service",
    "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=sh -c 'while :; do i=$$((i + 1)); echo flood $$i; done'\n",
);

/// What a unit logs while it is stopped.
const LAST_WORDS: u32 = 2000;

/// An answer about a unit waits for journald for half of four seconds, and then for the host. One that took less has waited for
/// both; a later one, on a busy machine, may come without the last lines.
const IN_TIME: Duration = Duration::from_secs(2);
/// How often it may come late.
const TRIES: usize = 10;
const START_AGAIN: &str = "until systemctl start talker.service; do sleep 0.1; done";

/// How long the machine may take to end on a busy host, and what is left for its last program.
const END_LIMIT: Duration = Duration::from_secs(120);

/// The whole journal in a folder, by the journalctl of this root.
fn exported_from(root: &Path, journal: &Path) -> Vec<u8> {
    let script = "mount --bind \"$1\" \"$2/mnt\" && exec chroot \"$2\" journalctl -D \"/mnt/$3\" -q --no-pager -o export";
    let machine = std::fs::read_dir(journal).unwrap().next().unwrap().unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .args([Path::new("sh"), journal, root])
        .arg(machine.file_name())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {error}", output.status);
    output.stdout
}

/// What came of it. The agent may have to wait for the system bus first.
async fn control(agent: &Agent, action: Action) -> String {
    let request = ControlUnitRequest {
        name: "talker.service".to_owned(),
        action: action.into(),
        ..Default::default()
    };
    let begin = Instant::now();
    loop {
        match agent.control_unit(&request).await {
            Ok(answer) => return answer.result,
            Err(error) => assert!(
                error.to_string().contains("not yet") && begin.elapsed() < END_LIMIT,
                "{error}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How many of the messages that the host holds are such.
fn count(logs: &Path, is_such: impl Fn(&str) -> bool) -> usize {
    let all = messages(logs);
    all.iter().filter(|text| is_such(text)).count()
}

/// The messages that the host holds.
fn messages(logs: &Path) -> Vec<String> {
    let mut messages = Vec::new();
    records(logs, |record| {
        if let Record::Entry(entry) = record {
            let text = |bytes: &[u8]| {
                Some(String::from_utf8_lossy(bytes.strip_prefix(b"MESSAGE=")?).into_owned())
            };
            messages.extend(entry.fields.iter().find_map(|field| text(field.bytes)));
        }
    });
    messages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_machines_end_waits_until_the_host_has_the_last_entry() {
    let Some(root) = root() else { return };
    let journal = tempfile::tempdir().unwrap();
    let mut container = Container::boot_to_the_end(&root, journal.path(), FLOOD);
    let mut host = Host::begin(&container);
    container.run(&["systemctl", "start", FLOOD.0]);
    wait_for_entries(&host, 1000).await;
    // The host is behind, and can pull again only when all but the last has ended.
    host.link.set_cut(true);
    tokio::time::sleep(Duration::from_secs(1)).await;
    container.run(&["systemctl", "poweroff", "--no-block"]);
    let begin = Instant::now();
    while !container.text("/proc/1/comm").starts_with("systemd-shut") {
        assert!(begin.elapsed() < END_LIMIT, "the machine does not end");
        thread::sleep(Duration::from_millis(10));
    }
    host.link.set_cut(false);
    container.wait_for_end(END_LIMIT);
    host.drain().await;

    let held = held(&host.logs());
    let guest = parse(exported_from(&root, journal.path()).as_slice());
    held.check(&guest);
    assert_eq!((held.missing(), held.resets), (0, 0));
    let messages = messages(&host.logs());
    let flood = messages.iter().filter(|text| text.starts_with("flood "));
    assert!(flood.count() > 1000);
    // journald's last word.
    assert_eq!(messages.last().unwrap(), "Journal stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_about_a_unit_comes_when_the_host_has_its_last_lines() {
    let Some(root) = root() else { return };
    let script =
        format!("i=0; while [ $$i -lt {LAST_WORDS} ]; do i=$$((i + 1)); echo last words $$i; done");
    for namespace in ["", "web"] {
        let journal = tempfile::tempdir().unwrap();
        let text = format!(
            "[Service]\nLogNamespace={namespace}\nExecStart=sleep infinity\nExecStop=sh -c '{script}'\n"
        );
        let container =
            Container::boot_to_the_end(&root, journal.path(), ("talker.service", &text));
        let host = Host::begin(&container);
        let logs = match JournalNamespace::try_from(namespace) {
            Ok(name) => namespaces::dir_of(&host.logs(), &name),
            Err(_) => host.logs(),
        };
        let agent = Agent::new(host.link.socket());
        assert_eq!(control(&agent, Action::ACTION_START).await, "done");
        // On a busy machine a host takes longer to ask for a namespace that it has just heard of than an answer waits for that.
        let is_pulled = || matches!(Reader::from_start(&logs).next(), Ok(Some(_)));
        until("the namespace's first entries", is_pulled).await;
        let last = format!("last words {LAST_WORDS}");
        for tries in 1.. {
            let begin = Instant::now();
            assert_eq!(control(&agent, Action::ACTION_STOP).await, "done");
            let is_in_time = begin.elapsed() < IN_TIME;
            // Once for each stop, also where those before were late.
            let words = count(&logs, |text| text == last);
            let stops = count(&host.logs(), |text| {
                text.starts_with("Stopped talker.service")
            });
            if (words, stops) == (tries, tries) {
                break;
            }
            assert!(
                !is_in_time && tries < TRIES,
                "namespace {namespace:?}: {words} and {stops} after {tries} stops"
            );
            // As long as systemd stops what the namespace needs it refuses to start a unit in it.
            container.run(&["timeout", "120", "sh", "-c", START_AGAIN]);
        }
    }
}
