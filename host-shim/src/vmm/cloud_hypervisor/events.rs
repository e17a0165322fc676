//! What Cloud Hypervisor tells of itself on its event monitor (`event_monitor/src/lib.rs`): JSON documents over
//! several lines, each followed by an empty line. What they mean is decided in [`Ear`], without any I/O.
//!
//! It says `shutdown` of a machine that its guest switched off, and of one that it takes down because it was told
//! to end; then it goes on to say that it ends itself. A guest that reboots is started again in the same process,
//! which our daemons cannot follow: for us that is the end.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::vmm::{VmEnd, VmmKind, supervisor::Heard};

/// How soon the end of the program follows the end of its machine, when that was not the guest's doing.
const OWN_DOING: Duration = Duration::from_millis(300);

/// The longest document that is taken.
const MAX_DOCUMENT_BYTES: usize = 64 * 1024;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    source: String,
    event: String,
    /// What kind of panic.
    detail: Option<String>,
}

impl Event {
    fn parse(document: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(document).ok()?;
        let text = |pointer| value.pointer(pointer).and_then(Value::as_str);
        Some(Self {
            source: text("/source")?.to_owned(),
            event: text("/event")?.to_owned(),
            detail: text("/properties/event").map(str::to_owned),
        })
    }
}

/// What follows from an event.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Booted,
    Heard(Heard),
    /// The machine was switched off: by its guest, unless the program says in the next moment that it ends.
    Off,
}

#[derive(Debug, Default)]
struct Ear;

impl Ear {
    fn meaning(event: &Event) -> Option<Meaning> {
        let heard = match (event.source.as_str(), event.event.as_str()) {
            ("vm", "booted") => return Some(Meaning::Booted),
            ("vm", "shutdown") => return Some(Meaning::Off),
            ("vm", "paused") => Heard::Paused,
            ("vm", "resumed") => Heard::Resumed,
            ("vm", "rebooting") => Heard::Over(VmEnd::Reboot),
            // `crash_loaded` is a panic that the guest looks after itself.
            ("guest", "panic") if event.detail.as_deref() != Some("crash_loaded") => {
                Heard::Over(VmEnd::Panic)
            }
            ("vmm", "shutdown") => Heard::End(VmEnd::Died {
                name: VmmKind::CloudHypervisor.as_str(),
                how: "it was told to end from outside".to_owned(),
            }),
            _ => return None,
        };
        Some(Meaning::Heard(heard))
    }
}

/// Reads events until the program is gone. `booted` is told when the machine runs.
pub(super) async fn listen(
    from: impl AsyncRead + Unpin,
    booted: oneshot::Sender<()>,
    tell: mpsc::UnboundedSender<Heard>,
) {
    let mut from = BufReader::new(from);
    let mut booted = Some(booted);
    while let Some(event) = next(&mut from).await {
        match Ear::meaning(&event) {
            Some(Meaning::Booted) => drop(booted.take().map(|booted| booted.send(()))),
            Some(Meaning::Heard(heard)) => drop(tell.send(heard)),
            Some(Meaning::Off) => {
                let own = timeout(OWN_DOING, own_end(&mut from)).await;
                let heard = match own {
                    Ok(Some(own)) => own,
                    // The pipe closed: it was killed after its guest was off.
                    Ok(None) | Err(_) => Heard::Over(VmEnd::Poweroff),
                };
                let _ = tell.send(heard);
            }
            None => {}
        }
    }
}

/// The program's own end, which explains its machine's.
async fn own_end(from: &mut BufReader<impl AsyncRead + Unpin>) -> Option<Heard> {
    while let Some(event) = next(from).await {
        if let Some(Meaning::Heard(heard @ Heard::End(_))) = Ear::meaning(&event) {
            return Some(heard);
        }
    }
    None
}

/// The next event; `None` at the end. What is no event is passed over.
async fn next(from: &mut BufReader<impl AsyncRead + Unpin>) -> Option<Event> {
    let (mut document, mut line) = (String::new(), Vec::new());
    loop {
        line.clear();
        match from.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return None,
            Ok(_) if line != b"\n" && document.len() < MAX_DOCUMENT_BYTES => {
                document.push_str(&String::from_utf8_lossy(&line));
            }
            Ok(_) if line != b"\n" => {}
            Ok(_) => {
                if let Some(event) = Event::parse(&document) {
                    tracing::debug!(source = event.source, event = event.event, "VMM tells");
                    return Some(event);
                }
                document.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(source: &str, event: &str, detail: Option<&str>) -> String {
        let properties = detail.map(|detail| serde_json::json!({ "event": detail }));
        let value = serde_json::json!({
            "timestamp": {"secs": 0, "nanos": 6_664_404},
            "source": source, "event": event, "properties": properties,
        });
        format!("{}\n\n", serde_json::to_string_pretty(&value).unwrap())
    }

    async fn heard(events: &[(&str, &str, Option<&str>)]) -> (bool, Vec<Heard>) {
        let text: String = events
            .iter()
            .map(|(source, event, detail)| document(source, event, *detail))
            .collect();
        let (booted, mut boots) = oneshot::channel();
        let (tell, mut told) = mpsc::unbounded_channel();
        listen(text.as_bytes(), booted, tell).await;
        let mut all = Vec::new();
        while let Some(heard) = told.recv().await {
            all.push(heard);
        }
        (boots.try_recv().is_ok(), all)
    }

    #[tokio::test]
    async fn a_life_is_followed_to_its_poweroff() {
        let (booted, heard) = heard(&[
            ("vmm", "starting", None),
            ("vm", "booting", None),
            ("virtio-device", "activated", None),
            ("vm", "booted", None),
            ("vm", "paused", None),
            ("vm", "resumed", None),
            ("vm", "shutdown", None),
        ])
        .await;
        assert!(booted);
        let end = Heard::Over(VmEnd::Poweroff);
        assert_eq!(heard, [Heard::Paused, Heard::Resumed, end]);
    }

    #[tokio::test]
    async fn a_program_that_was_told_to_end_is_no_poweroff() {
        let (_, heard) = heard(&[
            ("vm", "shutdown", None),
            ("vm", "deleted", None),
            ("vmm", "shutdown", None),
        ])
        .await;
        assert!(
            matches!(&heard[..], [Heard::End(VmEnd::Died { .. })]),
            "{heard:?}"
        );
    }

    #[tokio::test]
    async fn a_panic_and_a_reboot_are_ends() {
        let (_, panics) = heard(&[("guest", "panic", Some("panic"))]).await;
        assert_eq!(panics, [Heard::Over(VmEnd::Panic)]);
        let (_, reboots) = heard(&[("vm", "rebooting", None)]).await;
        assert_eq!(reboots, [Heard::Over(VmEnd::Reboot)]);
        let (_, loaded) = heard(&[("guest", "panic", Some("crash_loaded"))]).await;
        assert_eq!(loaded, []);
    }

    #[tokio::test]
    async fn what_is_no_event_is_passed_over() {
        let text = format!("{{\"half\n\n\n{}", document("vm", "paused", None));
        let (booted, _boots) = oneshot::channel();
        let (tell, mut told) = mpsc::unbounded_channel();
        listen(text.as_bytes(), booted, tell).await;
        assert_eq!(told.recv().await, Some(Heard::Paused));
    }
}
