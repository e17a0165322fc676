//! `ReadJournal` with a filter: the entries that journalctl gives, and positions that are right whatever was passed over.

use std::{collections::BTreeSet, time::Duration};

use seed_protocol::{
    journal::BatchDecoder,
    seed::v1::{JournalBatch, JournalFilter, Position, ReadJournalRequest},
};
use seed_shim::agent::Agent;
use tokio::time::{sleep, timeout};

use super::{
    boot,
    container::Container,
    held::exported_of,
    host::{Host, Writer},
};

/// How long a batch may take to come, with an agent that may have been killed a moment ago.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

async fn read(agent: &Agent, request: &ReadJournalRequest) -> JournalBatch {
    let ask = async {
        loop {
            match agent.read_journal(request).await {
                Ok(batch) => return batch,
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    };
    timeout(ANSWER_LIMIT, ask).await.unwrap()
}

fn numbers(batch: &JournalBatch) -> Vec<u64> {
    let entries = BatchDecoder::new(&batch.block).unwrap();
    entries.map(|entry| entry.unwrap().head.seqnum).collect()
}

/// Asks on and on from the beginning, in small batches, and kills the agent now and then: nothing that it remembers may
/// be needed.
async fn all(container: &Container, agent: &Agent, filter: &JournalFilter) -> Vec<u64> {
    let mut request = ReadJournalRequest {
        max_bytes: 4000,
        filter: Some(filter.clone()).into(),
        ..Default::default()
    };
    let mut found = Vec::new();
    for round in 1.. {
        let batch = read(agent, &request).await;
        assert!(batch.gap.is_none() && !batch.reset);
        let position = batch.position.clone().unwrap_or_default();
        let before = request.after.get_or_default().seqnum;
        assert!(position.seqnum >= batch.last_seqnum && position.seqnum >= before);
        let numbers = numbers(&batch);
        assert!(numbers.iter().all(|number| *number > before));
        let is_end = numbers.is_empty() && position.seqnum == before;
        found.extend(numbers);
        if is_end {
            return found;
        }
        request.after = Some(position).into();
        if round % 40 == 3 {
            container.run(&["systemctl", "kill", "-s", "KILL", "shipper.service"]);
        }
    }
    unreachable!("it returns at the end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_gives_what_journalctl_gives_and_its_positions_go_on() {
    let Some(container) = boot("1G") else { return };
    let host = Host::begin(&container);
    let agent = Agent::new(host.link.socket());
    let socket = container.journal_socket();
    let writer = Writer::begin(&container, 2000);
    let script = "i=0; while [ $i -lt 300 ]; do echo \"<$((i % 8))>wanted $i\"; i=$((i + 1)); done";
    let unit = ["--quiet", "--wait", "--unit=wanted", "sh", "-c", script];
    container.run(&[&["systemd-run"][..], &unit].concat());
    for number in 0..200 {
        let name = ["one", "two", "three"][number % 3];
        let (priority, kind) = (number % 7, number % 2);
        let text = format!(
            "MESSAGE=n {number}\nSYSLOG_IDENTIFIER={name}\nPRIORITY={priority}\nKIND={kind}\n"
        );
        socket.send(text.as_bytes()).unwrap();
        // Said by somebody else of the unit, and by nobody who may.
        socket
            .send(b"MESSAGE=forged\nUNIT=wanted.service\n")
            .unwrap();
    }
    writer.end();
    container.run(&["journalctl", "--sync"]);

    let filter = |units: &[&str], priority, matches: &[&str]| JournalFilter {
        units: units.iter().map(ToString::to_string).collect(),
        priority,
        matches: matches
            .iter()
            .map(|text| text.as_bytes().to_vec())
            .collect(),
        ..Default::default()
    };
    let mixed = ["SYSLOG_IDENTIFIER=one", "SYSLOG_IDENTIFIER=two", "KIND=1"];
    for (filter, words) in [
        (
            filter(&["wanted.service"], None, &[]),
            &["--unit=wanted"][..],
        ),
        (
            filter(&["wanted.service"], Some(3), &[]),
            &["--unit=wanted", "--priority=3"],
        ),
        (filter(&[], None, &mixed), &mixed),
        (
            filter(&[], Some(2), &["KIND=0"]),
            &["--priority=2", "KIND=0"],
        ),
        (filter(&["nobody.service"], None, &[]), &["--unit=nobody"]),
    ] {
        let theirs = exported_of(&container, words);
        let ours = all(&container, &agent, &filter).await;
        // The kills, and their restarts, may have been logged since; they are not of these.
        let theirs: Vec<u64> = theirs.iter().map(|entry| entry.seqnum).collect();
        assert_eq!(ours, theirs, "{words:?}");
        assert_eq!(ours.is_empty(), words == ["--unit=nobody"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_with_a_filter_waits_for_what_is_wanted_and_passes_the_rest() {
    let Some(container) = boot("1G") else { return };
    let host = Host::begin(&container);
    let agent = Agent::new(host.link.socket());
    let socket = container.journal_socket();
    let ask = |after: Position, wait_ms| ReadJournalRequest {
        after: Some(after).into(),
        wait_ms,
        filter: Some(JournalFilter {
            matches: vec![b"SYSLOG_IDENTIFIER=rare".to_vec()],
            ..Default::default()
        })
        .into(),
        ..Default::default()
    };
    // Nothing is wanted, and the position is at the end all the same.
    let mut position = Position::default();
    loop {
        let batch = read(&agent, &ask(position.clone(), 0)).await;
        assert!(numbers(&batch).is_empty());
        let next = batch.position.unwrap_or_default();
        if next == position {
            break;
        }
        position = next;
    }
    assert!(position.seqnum > 0 && position.boot_id.len() == 16);
    let (begin, request) = (position.seqnum, ask(position, 30_000));
    let writer = Writer::begin(&container, 500);
    let poll = tokio::spawn(async move { read(&agent, &request).await });
    while writer.sent() < 300 {
        sleep(Duration::from_millis(20)).await;
    }
    assert!(!poll.is_finished(), "what is not wanted ended the wait");
    socket
        .send(b"MESSAGE=at last\nSYSLOG_IDENTIFIER=rare\n")
        .unwrap();
    let batch = poll.await.unwrap();
    writer.end();
    let rare: BTreeSet<u64> = numbers(&batch).into_iter().collect();
    assert_eq!(rare.len(), 1);
    let found = *rare.first().unwrap();
    assert!(found > begin + 300 && batch.position.unwrap().seqnum >= found);
    drop(host);
}
