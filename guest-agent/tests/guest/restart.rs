//! Execs and the agent that started them: it ends in the middle, as by SIGKILL, and another one goes on.

use std::{sync::Arc, time::Duration};

use seed_agent::{
    exec::{ExecError, ExecKey, Memory, Sessions, Size},
    sys::descriptors::Keeper,
};
use tokio::{runtime::Runtime, time::sleep};

use crate::{Guest, is_skipped, spec};

/// Several agents, one after the other, and what outlives each.
struct Lives {
    memory: Memory,
    keeper: Keeper,
    _directory: tempfile::TempDir,
}

impl Lives {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keeper = Keeper::Memory(Arc::default());
        Self {
            memory: Memory::new(directory.path().join("execs"), keeper.clone()),
            keeper,
            _directory: directory,
        }
    }

    /// One life: all its tasks end where they are when `work` is done.
    fn live<F: Future>(&self, work: impl FnOnce(Guest) -> F) -> F::Output {
        let runtime: Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let (memory, keeper) = (self.memory.clone(), self.keeper.clone());
        let done = runtime.block_on(async {
            let limit = Duration::from_secs(300);
            let life = async { work(Guest::connect_with(memory, keeper).await).await };
            tokio::time::timeout(limit, life)
                .await
                .expect("a life ends")
        });
        runtime.shutdown_background();
        done
    }
}

fn key(id: &str) -> ExecKey {
    ExecKey {
        container: "test".to_owned(),
        exec: id.to_owned(),
    }
}

/// The rest of the output of a host that has `all` already.
async fn rest(execs: &Sessions, key: &ExecKey, all: &mut Vec<u8>) {
    loop {
        let position = Some(all.len() as u64);
        let part = execs.read_stdout(key, 30_000, position).await.unwrap();
        if part.is_empty() {
            return;
        }
        all.extend(part);
    }
}

#[test]
fn output_input_and_status_go_on_byte_for_byte_through_many_agents() {
    if is_skipped() {
        return;
    }
    let lives = Lives::new();
    let key = key("cat");
    let much: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 251) as u8).collect();
    lives.live(async |guest| {
        let spec = spec(&["sh", "-c", "cat; echo done >&2; exit 7"]);
        guest.start("cat", &spec).await.unwrap();
    });
    let mut all = Vec::new();
    let mut sent = 0;
    // Each agent ends while it writes and reads; what it said last is forgotten by the host, too.
    for round in 0..12 {
        sent = lives.live(async |guest| {
            let until = (sent + 150_000 + round * 1000).min(much.len());
            let write = guest
                .execs
                .write_stdin(&key, &much[sent..until], Some(sent as u64));
            let read = async {
                for _ in 0..4 {
                    let had = all.len();
                    let part = guest
                        .execs
                        .read_stdout(&key, 20_000, Some(had as u64))
                        .await;
                    // Of an answer only a part comes through.
                    let part = part.unwrap();
                    all.extend(&part[..part.len().saturating_sub(round * 500)]);
                }
            };
            // The writer is left in the middle when reading is done first, and begins again where it was.
            tokio::select! {
                biased;
                () = read => sent,
                written = write => {
                    written.unwrap();
                    until
                }
            }
        });
    }
    lives.live(async |guest| {
        let feed = async {
            let position = Some(sent as u64);
            guest
                .execs
                .write_stdin(&key, &much[sent..], position)
                .await
                .unwrap();
            guest.execs.close_stdin(&key).await.unwrap();
        };
        tokio::join!(feed, rest(&guest.execs, &key, &mut all));
        assert_eq!(all.len(), much.len());
        assert!(all == much, "the bytes are not the same");
        assert_eq!(guest.all(&key, true).await, "done\n");
        assert_eq!(guest.execs.wait(&key).await.unwrap(), 7);
    });
    // Also the last word is remembered.
    lives.live(async |guest| {
        assert_eq!(guest.execs.wait(&key).await.unwrap(), 7);
        assert_eq!(guest.execs.read_stdout(&key, 1, None).await.unwrap(), b"");
    });
}

#[test]
fn what_ends_while_there_is_no_agent_has_its_output_and_its_true_status() {
    if is_skipped() {
        return;
    }
    let lives = Lives::new();
    let ends = [
        ("exit 0", 0),
        ("exit 3", 3),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
    ];
    lives.live(async |guest| {
        for (index, (script, _)) in ends.iter().enumerate() {
            let script = format!("sleep 1; echo last words; {script}");
            guest
                .start(&index.to_string(), &spec(&["sh", "-c", &script]))
                .await
                .unwrap();
        }
    });
    std::thread::sleep(Duration::from_secs(3));
    lives.live(async |guest| {
        for (index, (script, status)) in ends.iter().enumerate() {
            let key = key(&index.to_string());
            assert_eq!(guest.all(&key, false).await, "last words\n", "{script}");
            assert_eq!(guest.execs.wait(&key).await.unwrap(), *status, "{script}");
        }
    });
}

#[test]
fn a_terminal_goes_on_with_its_size_and_ends_with_its_process() {
    if is_skipped() {
        return;
    }
    let lives = Lives::new();
    let key = key("shell");
    lives.live(async |guest| {
        let mut spec = spec(&["sh", "-c", "read line; stty size; echo got $line; exit 4"]);
        spec.terminal = Some(Size::default());
        guest.start("shell", &spec).await.unwrap();
        sleep(Duration::from_millis(200)).await;
    });
    lives.live(async |guest| {
        let size = Size {
            rows: 33,
            columns: 99,
        };
        guest.execs.resize(&key, size).unwrap();
        guest
            .execs
            .write_stdin(&key, b"hello\n", Some(0))
            .await
            .unwrap();
        let mut all = Vec::new();
        rest(&guest.execs, &key, &mut all).await;
        let text = String::from_utf8(all).unwrap();
        assert!(
            text.contains("33 99") && text.contains("got hello"),
            "{text}"
        );
        assert_eq!(guest.execs.wait(&key).await.unwrap(), 4);
    });
}

#[test]
fn a_host_cannot_be_ahead_of_the_stream() {
    if is_skipped() {
        return;
    }
    let lives = Lives::new();
    lives.live(async |guest| {
        let key = guest.start("x", &spec(&["cat"])).await.unwrap();
        let beyond = guest.execs.read_stdout(&key, 1, Some(1)).await;
        assert!(
            matches!(beyond, Err(ExecError::Stream { .. })),
            "{beyond:?}"
        );
        let beyond = guest.execs.write_stdin(&key, b"x", Some(1)).await;
        assert!(
            matches!(beyond, Err(ExecError::Stream { .. })),
            "{beyond:?}"
        );
        guest.execs.close_stdin(&key).await.unwrap();
        assert_eq!(guest.execs.wait(&key).await.unwrap(), 0);
    });
}
