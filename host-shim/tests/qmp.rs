//! The QMP client against a recorded dialogue (QEMU 7.2) and against one that breaks the protocol.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use seed_shim::vmm::qemu::{
    grow::{self, GrowError},
    qmp::{Qmp, QmpError, QmpEvent},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
};

const GREETING: &str = include_str!("testdata/qmp-greeting.json");
const EVENTS: &str = include_str!("testdata/qmp-events.json");

#[tokio::test]
async fn a_recorded_shutdown_becomes_events_in_their_order() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let qemu = tokio::spawn(async move {
        let (read, mut write) = theirs.into_split();
        let mut lines = BufReader::new(read).lines();
        write.write_all(GREETING.as_bytes()).await.unwrap();
        let mut asked = Vec::new();
        for _ in 0..2 {
            asked.push(lines.next_line().await.unwrap().unwrap());
            write.write_all(b"{\"return\": {}}\r\n").await.unwrap();
        }
        write.write_all(EVENTS.as_bytes()).await.unwrap();
        asked
    });
    let (qmp, mut events) = Qmp::over(ours).await.unwrap();
    qmp.send("system_powerdown").await.unwrap();
    let mut seen = Vec::new();
    while let Some(event) = events.recv().await {
        seen.push(event);
    }
    let reason = "guest-shutdown".to_owned();
    let wanted = [QmpEvent::Shutdown { reason }, QmpEvent::Stopped];
    assert_eq!(seen, wanted);
    assert_eq!(
        qemu.await.unwrap(),
        [
            "{\"execute\":\"qmp_capabilities\"}",
            "{\"execute\":\"system_powerdown\"}"
        ]
    );
}

#[tokio::test]
async fn only_a_write_that_stops_the_machine_for_want_of_room_is_no_room() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(GREETING.as_bytes()).await.unwrap();
    theirs.write_all(b"{\"return\": {}}\r\n").await.unwrap();
    for (action, nospace) in [("report", true), ("stop", false), ("stop", true)] {
        let data = format!(
            "{{\"device\": \"\", \"node-name\": \"data\", \"operation\": \"write\", \"action\": \"{action}\", \"nospace\": {nospace}, \"reason\": \"No space left on device\"}}"
        );
        let event = format!("{{\"event\": \"BLOCK_IO_ERROR\", \"data\": {data}}}\r\n");
        theirs.write_all(event.as_bytes()).await.unwrap();
    }
    let (_qmp, mut events) = Qmp::over(ours).await.unwrap();
    drop(theirs);
    assert_eq!(events.recv().await, Some(QmpEvent::NoRoom));
    assert_eq!(events.recv().await, None);
}

#[tokio::test]
async fn what_is_no_qmp_is_refused() {
    for (said, closed) in [
        ("", true),
        ("SSH-2.0\r\n", false),
        ("{\"error\": {}}\r\n", false),
    ] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(said.as_bytes()).await.unwrap();
        drop(theirs);
        let error = Qmp::over(ours).await.unwrap_err();
        assert_eq!(matches!(error, QmpError::Closed), closed, "{error}");
    }
}

/// Plays QEMU: answers each command with the next of `answers`, and gives back what was asked.
async fn dialogue(answers: Vec<Value>) -> (Qmp, tokio::task::JoinHandle<Vec<Value>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let qemu = tokio::spawn(async move {
        let (read, mut write) = theirs.into_split();
        let mut lines = BufReader::new(read).lines();
        write.write_all(GREETING.as_bytes()).await.unwrap();
        lines.next_line().await.unwrap().unwrap();
        write.write_all(b"{\"return\": {}}\r\n").await.unwrap();
        let mut asked = Vec::new();
        for mut answer in answers {
            let line = lines.next_line().await.unwrap().unwrap();
            let mut command: Value = serde_json::from_str(&line).unwrap();
            answer["id"] = command["id"].take();
            let event = "{\"event\": \"RTC_CHANGE\", \"data\": {\"offset\": 1}}\r\n";
            write.write_all(event.as_bytes()).await.unwrap();
            write
                .write_all(format!("{answer}\r\n").as_bytes())
                .await
                .unwrap();
            command.as_object_mut().unwrap().remove("id");
            asked.push(command);
        }
        asked
    });
    (Qmp::over(ours).await.unwrap().0, qemu)
}

/// As QEMU 7.2 lists two processors, of which the first is there.
fn processors() -> Value {
    let slot = |socket| {
        json!({
            "props": {"core-id": 0, "thread-id": 0, "node-id": 0, "socket-id": socket},
            "vcpus-count": 1, "type": "qemu64-x86_64-cpu",
        })
    };
    let mut there = slot(0);
    there["qom-path"] = "/machine/unattached/device[0]".into();
    json!({ "return": [slot(2), slot(1), there] })
}

#[tokio::test]
async fn a_machine_grows_by_what_it_lacks() {
    let sizes = json!({"return": {"base-memory": 512 << 20, "plugged-memory": 128 << 20}});
    let done = json!({"return": {}});
    let answers = vec![
        processors(),
        done.clone(),
        sizes,
        json!({"return": [{"type": "dimm"}]}),
        done.clone(),
        done,
    ];
    let (qmp, qemu) = dialogue(answers).await;
    grow::grow(&qmp, 2, 700).await.unwrap();
    let asked = qemu.await.unwrap();
    assert_eq!(
        asked[1],
        json!({"execute": "device_add", "arguments": {
            "driver": "qemu64-x86_64-cpu", "id": "cpu1",
            "core-id": 0, "thread-id": 0, "node-id": 0, "socket-id": 1,
        }})
    );
    assert_eq!(
        asked[4],
        json!({"execute": "object-add", "arguments": {
            "qom-type": "memory-backend-memfd", "id": "more1", "size": 128 << 20, "share": true,
        }})
    );
    assert_eq!(
        asked[5],
        json!({"execute": "device_add", "arguments": {
            "driver": "pc-dimm", "id": "dimm1", "memdev": "more1",
        }})
    );
}

#[tokio::test]
async fn what_qemu_refuses_is_said_in_its_words_and_taken_back() {
    let refused = json!({"error": {"class": "GenericError", "desc": "no free memory slots left"}});
    let answers = vec![
        processors(),
        json!({"return": {"base-memory": 512 << 20, "plugged-memory": 0}}),
        json!({"return": []}),
        json!({"return": {}}),
        refused,
        json!({"return": {}}),
    ];
    let (qmp, qemu) = dialogue(answers).await;
    let error = grow::grow(&qmp, 1, 640).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "QEMU refused device_add: no free memory slots left"
    );
    let asked = qemu.await.unwrap();
    assert_eq!(
        asked[5],
        json!({"execute": "object-del", "arguments": {"id": "more0"}})
    );
    // It has closed the connection: who waits is told.
    let error = grow::grow(&qmp, 1, 640).await.unwrap_err();
    assert!(
        matches!(error, GrowError::Qmp(QmpError::Closed | QmpError::Io(_))),
        "{error}"
    );
    let (qmp, _qemu) = dialogue(vec![processors()]).await;
    let error = grow::grow(&qmp, 4, 640).await.unwrap_err();
    assert_eq!(error.to_string(), "the machine has room for 3 processors");
}
