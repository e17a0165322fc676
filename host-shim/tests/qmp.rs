//! The QMP client against a recorded dialogue (QEMU 7.2) and against one that breaks the protocol.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use seed_shim::vmm::qemu::qmp::{Qmp, QmpError, QmpEvent};
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
    let (mut qmp, mut events) = Qmp::over(ours).await.unwrap();
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
