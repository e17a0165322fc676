//! Events for containerd: forwarded in the order in which they happened, over a connection that is made
//! anew when it broke. Without an address they go nowhere. A containerd that is down loses events only
//! after the queue is full; `Wait` heals that.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use containerd_shim_protos::{
    events::task::{
        TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO, TaskOOM,
        TaskPaused, TaskResumed, TaskStart,
    },
    protobuf::{
        Message, MessageField,
        well_known_types::{any::Any, timestamp::Timestamp},
    },
    shim::{event::Envelope, events::ForwardRequest},
    shim_async::EventsClient,
    topics,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};
use ttrpc::{
    r#async::{Client, transport::Socket},
    context,
};

use crate::{
    names::{ContainerId, Namespace},
    sandbox::{Ended, Observer},
    sockets::connect_at_once,
};

/// Events that wait for containerd.
const QUEUE: usize = 1024;

/// How often an event is tried that containerd refuses, and the pause after each try.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// One forward.
const LIMIT: Duration = Duration::from_secs(5);

/// Published by containerd's clients under this metadata key.
const NAMESPACE_KEY: &str = "containerd-namespace-ttrpc";

/// Something that containerd wants to know.
pub(in crate::shim) trait Event: Message {
    /// Its topic.
    const TOPIC: &'static str;
    /// Its type, bare, as containerd has it.
    const TYPE: &'static str;
}

macro_rules! topic {
    ($($message:ident => $topic:ident;)*) => {
        $(impl Event for $message {
            const TOPIC: &'static str = topics::$topic;
            const TYPE: &'static str = concat!("containerd.events.", stringify!($message));
        })*
    };
}

topic! {
    TaskCreate => TASK_CREATE_EVENT_TOPIC;
    TaskStart => TASK_START_EVENT_TOPIC;
    TaskExit => TASK_EXIT_EVENT_TOPIC;
    TaskOOM => TASK_OOM_EVENT_TOPIC;
    TaskDelete => TASK_DELETE_EVENT_TOPIC;
    TaskExecAdded => TASK_EXEC_ADDED_EVENT_TOPIC;
    TaskExecStarted => TASK_EXEC_STARTED_EVENT_TOPIC;
    TaskPaused => TASK_PAUSED_EVENT_TOPIC;
    TaskResumed => TASK_RESUMED_EVENT_TOPIC;
}

/// Where events go. Clones share one queue.
#[derive(Debug, Clone)]
pub struct Publisher {
    namespace: Namespace,
    queue: Option<mpsc::UnboundedSender<Queued>>,
}

/// What stands in the queue.
#[derive(Debug)]
enum Queued {
    Event(Envelope),
    /// Who waits until everything before is out.
    Flush(oneshot::Sender<()>),
}

impl Publisher {
    /// Forwards to the ttrpc socket at `address`; an empty one means that nobody listens.
    pub fn start(address: &str, namespace: &Namespace) -> Self {
        let namespace = namespace.clone();
        if address.is_empty() {
            return Self {
                namespace,
                queue: None,
            };
        }
        let (queue, events) = mpsc::unbounded_channel();
        let address = match address.split_once("://") {
            Some((_, path)) => path.into(),
            None => address.into(),
        };
        tokio::spawn(forward_all(address, namespace.clone(), events));
        Self {
            namespace,
            queue: Some(queue),
        }
    }

    pub(in crate::shim) fn publish<E: Event>(&self, event: &E) {
        let Some(queue) = &self.queue else { return };
        let value = match event.write_to_bytes() {
            Ok(value) => value,
            Err(error) => return tracing::warn!(%error, "event was not encoded"),
        };
        let envelope = Envelope {
            timestamp: timestamp(SystemTime::now()),
            namespace: self.namespace.to_string(),
            topic: E::TOPIC.to_owned(),
            event: Some(Any {
                type_url: E::TYPE.to_owned(),
                value,
                ..Any::default()
            })
            .into(),
            ..Envelope::default()
        };
        let _ = queue.send(Queued::Event(envelope));
    }

    /// Waits until everything that was published is with containerd, or until `limit` is over.
    pub async fn flush(&self, limit: Duration) {
        let Some(queue) = &self.queue else { return };
        let (done, flushed) = oneshot::channel();
        let _ = queue.send(Queued::Flush(done));
        if timeout(limit, flushed).await.is_err() {
            tracing::warn!("containerd did not take the last events in time");
        }
    }
}

/// What came of one try.
enum Tried {
    Taken,
    /// Containerd is not there.
    Away,
    /// Containerd is there and does not want it.
    Refused,
}

/// The end of the queue: forwards one after the other. A containerd that is away is waited for.
async fn forward_all(
    address: PathBuf,
    namespace: Namespace,
    mut events: mpsc::UnboundedReceiver<Queued>,
) {
    let mut client = None;
    let mut waiting = VecDeque::new();
    let mut refusals = 0;
    loop {
        if waiting.is_empty() {
            let Some(queued) = events.recv().await else {
                return;
            };
            waiting.push_back(queued);
        }
        while let Ok(more) = events.try_recv() {
            waiting.push_back(more);
        }
        let surplus = waiting.len().saturating_sub(QUEUE);
        if surplus > 0 {
            tracing::warn!(surplus, "events were dropped: containerd takes none");
            waiting.drain(..surplus);
        }
        let event = match waiting.pop_front() {
            Some(Queued::Event(event)) => event,
            Some(Queued::Flush(done)) => {
                let _ = done.send(());
                continue;
            }
            None => continue,
        };
        match forward(&address, &namespace, &mut client, &event).await {
            Tried::Taken => refusals = 0,
            Tried::Away => {
                waiting.push_front(Queued::Event(event));
                sleep(PAUSE).await;
            }
            Tried::Refused if refusals + 1 < TRIES => {
                refusals += 1;
                waiting.push_front(Queued::Event(event));
                sleep(PAUSE).await;
            }
            Tried::Refused => {
                refusals = 0;
                let topic = &event.topic;
                tracing::warn!(topic, "event was dropped: containerd does not take it");
            }
        }
    }
}

/// A connection to containerd. One that stands still keeps nobody waiting.
fn dial(address: &Path) -> io::Result<Client> {
    let stream = tokio::net::UnixStream::from_std(connect_at_once(address)?)?;
    Ok(Client::new(Socket::new(stream)))
}

async fn forward(
    address: &Path,
    namespace: &Namespace,
    client: &mut Option<EventsClient>,
    event: &Envelope,
) -> Tried {
    if client.is_none() {
        *client = dial(address).ok().map(EventsClient::new);
    }
    let Some(events) = client.as_ref() else {
        return Tried::Away;
    };
    let mut context = context::with_duration(LIMIT);
    context.add(NAMESPACE_KEY.to_owned(), namespace.to_string());
    let request = ForwardRequest {
        envelope: Some(event.clone()).into(),
        ..ForwardRequest::default()
    };
    let Err(error) = events.forward(context, &request).await else {
        return Tried::Taken;
    };
    tracing::debug!(%error, topic = event.topic, "event was not taken");
    *client = None;
    match error {
        ttrpc::Error::RpcStatus(_) => Tried::Refused,
        _ => Tried::Away,
    }
}

/// A time as protobuf has it.
pub(in crate::shim) fn timestamp(at: SystemTime) -> MessageField<Timestamp> {
    Some(Timestamp::from(at)).into()
}

/// Tells containerd of one task's start and end.
#[derive(Debug)]
pub(super) struct TaskObserver {
    pub(super) publisher: Publisher,
    pub(super) id: ContainerId,
}

impl Observer for TaskObserver {
    fn started(&self, pid: u32) {
        let container_id = self.id.to_string();
        self.publisher.publish(&TaskStart {
            container_id,
            pid,
            ..TaskStart::default()
        });
    }

    fn killed_for_memory(&self) {
        let container_id = self.id.to_string();
        self.publisher.publish(&TaskOOM {
            container_id,
            ..TaskOOM::default()
        });
    }

    fn ended(&self, pid: u32, ended: &Ended) {
        self.publisher.publish(&TaskExit {
            container_id: self.id.to_string(),
            id: self.id.to_string(),
            pid,
            exit_status: ended.exit.status,
            exited_at: timestamp(ended.at),
            ..TaskExit::default()
        });
    }
}

/// The stdio part of `TaskCreate`.
pub(super) fn task_io(stdio: &super::task::Stdio) -> MessageField<TaskIO> {
    Some(TaskIO {
        stdin: stdio.stdin.clone(),
        stdout: stdio.stdout.clone(),
        stderr: stdio.stderr.clone(),
        terminal: stdio.terminal,
        ..TaskIO::default()
    })
    .into()
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    };

    use async_trait::async_trait;
    use containerd_shim_protos::{
        api::Empty,
        shim_async::{Events, create_events},
    };
    use ttrpc::r#async::{Server, TtrpcContext};

    use super::*;

    /// Far more than anything takes that shall happen.
    const LONG: Duration = Duration::from_secs(60);

    /// Keeps what it takes, and counts what it does not.
    #[derive(Default)]
    struct Containerd {
        refuses: Option<&'static str>,
        refused: Arc<AtomicU32>,
        seen: Arc<Mutex<Vec<Envelope>>>,
    }

    #[async_trait]
    impl Events for Containerd {
        async fn forward(
            &self,
            context: &TtrpcContext,
            request: ForwardRequest,
        ) -> ttrpc::Result<Empty> {
            assert_eq!(context.metadata[NAMESPACE_KEY], ["default"]);
            let envelope = request.envelope.unwrap();
            if self.refuses == Some(envelope.topic.as_str()) {
                self.refused.fetch_add(1, Ordering::Relaxed);
                let status = ttrpc::get_status(ttrpc::Code::INVALID_ARGUMENT, "unwanted");
                return Err(ttrpc::Error::RpcStatus(status));
            }
            self.seen.lock().unwrap().push(envelope);
            Ok(Empty::new())
        }
    }

    impl Containerd {
        async fn serve(self, address: &str) -> Server {
            let service = create_events(Arc::new(self));
            let mut server = Server::new()
                .bind(address)
                .unwrap()
                .register_service(service);
            server.start().await.unwrap();
            server
        }
    }

    /// A publisher for a containerd that is to come to this address.
    fn publisher() -> (tempfile::TempDir, String, Publisher) {
        let dir = tempfile::tempdir().unwrap();
        let address = format!("unix://{}", dir.path().join("ttrpc.sock").display());
        let namespace = Namespace::try_from("default").unwrap();
        let publisher = Publisher::start(&address, &namespace);
        (dir, address, publisher)
    }

    fn topics(seen: &Mutex<Vec<Envelope>>) -> Vec<String> {
        let seen = seen.lock().unwrap();
        seen.iter().map(|one| one.topic.clone()).collect()
    }

    #[tokio::test]
    async fn events_arrive_in_their_order_also_when_containerd_comes_late() {
        let (_dir, address, publisher) = publisher();
        publisher.publish(&TaskCreate::new());
        publisher.publish(&TaskStart::new());
        publisher.publish(&TaskExit::new());
        publisher.flush(Duration::from_millis(10)).await;
        // Longer than refusals are tried again: away is not a refusal.
        sleep(PAUSE * TRIES + PAUSE).await;
        let containerd = Containerd::default();
        let seen = Arc::clone(&containerd.seen);
        let _server = containerd.serve(&address).await;
        // It looks for containerd every half second; the rest is the machine's other work.
        publisher.flush(LONG).await;
        assert_eq!(
            topics(&seen),
            ["/tasks/create", "/tasks/start", "/tasks/exit"]
        );
        let first = seen.lock().unwrap()[0].event.type_url.clone();
        assert_eq!(first, "containerd.events.TaskCreate");
    }

    #[tokio::test]
    async fn what_containerd_refuses_is_tried_some_times_and_holds_up_nothing_for_good() {
        let (_dir, address, publisher) = publisher();
        let containerd = Containerd {
            refuses: Some("/tasks/start"),
            ..Containerd::default()
        };
        let (seen, refused) = (
            Arc::clone(&containerd.seen),
            Arc::clone(&containerd.refused),
        );
        let _server = containerd.serve(&address).await;
        publisher.publish(&TaskCreate::new());
        publisher.publish(&TaskStart::new());
        publisher.publish(&TaskExit::new());
        // Each refused one has all of its tries.
        publisher.publish(&TaskStart::new());
        publisher.publish(&TaskDelete::new());
        publisher.flush(LONG).await;
        assert_eq!(
            topics(&seen),
            ["/tasks/create", "/tasks/exit", "/tasks/delete"]
        );
        assert_eq!(refused.load(Ordering::Relaxed), 2 * TRIES);
    }

    #[tokio::test]
    async fn the_oldest_are_dropped_when_too_many_wait() {
        const SURPLUS: u32 = 10;
        let (_dir, address, publisher) = publisher();
        let all = u32::try_from(QUEUE).unwrap() + SURPLUS;
        for pid in 0..all {
            publisher.publish(&TaskExit {
                pid,
                ..TaskExit::default()
            });
        }
        // So that they are counted before the first is taken.
        sleep(Duration::from_millis(10)).await;
        let containerd = Containerd::default();
        let seen = Arc::clone(&containerd.seen);
        let _server = containerd.serve(&address).await;
        let pids = || -> Vec<u32> {
            let exit = |one: &Envelope| TaskExit::parse_from_bytes(&one.event.value).unwrap().pid;
            seen.lock().unwrap().iter().map(exit).collect()
        };
        let last = async {
            while pids().last() != Some(&(all - 1)) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LONG, last).await.unwrap();
        assert_eq!(pids(), (SURPLUS..all).collect::<Vec<_>>());
    }
}
