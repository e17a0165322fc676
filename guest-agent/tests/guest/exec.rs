//! Exec against a real systemd.

use std::time::Duration;

use seed_agent::{
    exec::{ExecError, ExecKey, MAX_RUNNING, Size, User},
    systemd::SystemdError,
};

use crate::{Guest, spec, with_systemd};

/// Between two looks at what changes.
const STEP: Duration = Duration::from_millis(20);

#[test]
fn output_error_and_status_come_back() {
    with_systemd(|guest| async move {
        let result = guest.script("echo out; echo err >&2; exit 7").await;
        assert_eq!(result, (7, "out\n".to_owned(), "err\n".to_owned()));
    });
}

#[test]
fn a_signal_is_128_and_its_number() {
    with_systemd(|guest| async move {
        assert_eq!(guest.script("kill -9 $$").await.0, 137);
        let key = guest
            .start("term", &spec(&["sleep", "1000"]))
            .await
            .unwrap();
        guest.execs.signal(&key, 15).await.unwrap();
        assert_eq!(guest.execs.wait(&key).await.unwrap(), 143);
        // The status stays 137 when the kill takes more than the main process.
        let key = guest
            .start("kill", &spec(&["sh", "-c", "sleep 1000 & sleep 1000"]))
            .await
            .unwrap();
        guest.execs.signal(&key, 9).await.unwrap();
        assert_eq!(guest.execs.wait(&key).await.unwrap(), 137);
        assert!(matches!(
            guest.execs.signal(&key, 9).await,
            Err(ExecError::Ended(_))
        ));
    });
}

#[test]
fn a_missing_command_is_named_at_once() {
    with_systemd(|guest| async move {
        let error = guest
            .start("e", &spec(&["no-such-command"]))
            .await
            .unwrap_err();
        assert!(matches!(error, ExecError::CommandNotFound(name) if name == "no-such-command"));
        // The id is free again.
        assert_eq!(guest.run(&spec(&["true"])).await.0, 0);
    });
}

#[test]
fn an_unknown_user_and_a_bad_interpreter_are_told_apart() {
    with_systemd(|guest| async move {
        let mut unknown = spec(&["true"]);
        unknown.user = User::Name("nobody-of-that-name".to_owned());
        let error = guest.start("user", &unknown).await.unwrap_err();
        let ExecError::Systemd(SystemdError::NotStarted {
            reason,
            status: 217,
            ..
        }) = error
        else {
            panic!("{error:?}");
        };
        assert_eq!(reason, "its user is not known");

        let script = "/run/bad-interpreter";
        std::fs::write(script, "#!/no/such/interpreter\n").unwrap();
        std::process::Command::new("chmod")
            .args(["+x", script])
            .status()
            .unwrap();
        let error = guest
            .start("interpreter", &spec(&[script]))
            .await
            .unwrap_err();
        assert!(matches!(
            error,
            ExecError::Systemd(SystemdError::NotStarted { status: 203, .. })
        ));
    });
}

#[test]
fn every_byte_of_100_mib_arrives_though_the_reader_stalls() {
    with_systemd(|guest| async move {
        const NUMBERS: u32 = 13_000_000;
        let key = guest
            .start("much", &spec(&["seq", &NUMBERS.to_string()]))
            .await
            .unwrap();
        let (mut total, mut next, mut rest) = (0, 1, Vec::new());
        let mut stall = 0;
        loop {
            let part = guest
                .execs
                .read_stdout(&key, 32 * 1024, None)
                .await
                .unwrap();
            if part.is_empty() {
                break;
            }
            total += part.len();
            rest.extend_from_slice(&part);
            let mut begin = 0;
            while let Some(length) = rest[begin..].iter().position(|&byte| byte == b'\n') {
                assert_eq!(rest[begin..begin + length], *next.to_string().as_bytes());
                next += 1;
                begin += length + 1;
            }
            rest.drain(..begin);
            stall += 1;
            if stall % 500 == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        assert_eq!((next - 1, rest.len()), (NUMBERS, 0));
        assert!(total > 100 * 1024 * 1024, "{total}");
        assert_eq!(guest.execs.wait(&key).await.unwrap(), 0);
    });
}

#[test]
fn the_last_output_is_read_also_long_after_the_end() {
    with_systemd(|guest| async move {
        let key = guest.start("late", &spec(&["echo", "late"])).await.unwrap();
        assert_eq!(guest.execs.wait(&key).await.unwrap(), 0);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(guest.all(&key, false).await, "late\n");
        assert_eq!(guest.all(&key, true).await, "");
        // Forgotten but for the status.
        assert_eq!(guest.execs.wait(&key).await.unwrap(), 0);
        assert_eq!(guest.all(&key, false).await, "");
    });
}

#[test]
fn input_reaches_the_process_and_its_end_too() {
    with_systemd(|guest| async move {
        let key = guest.start("cat", &spec(&["cat"])).await.unwrap();
        let data: Vec<u8> = (0..300_000_u32).map(|n| (n % 26) as u8 + b'a').collect();
        let write = async {
            for part in data.chunks(70_000) {
                guest.execs.write_stdin(&key, part, None).await.unwrap();
            }
            guest.execs.close_stdin(&key).await.unwrap();
        };
        let ((), seen) = tokio::join!(write, guest.all(&key, false));
        assert!(seen.as_bytes() == data);
        assert_eq!(guest.execs.wait(&key).await.unwrap(), 0);
        let late = guest.execs.write_stdin(&key, b"x", None).await;
        assert!(matches!(
            late,
            Err(ExecError::InputClosed(_) | ExecError::Ended(_))
        ));
    });
}

#[test]
fn a_terminal_is_the_controlling_one_and_is_resized() {
    with_systemd(|guest| async move {
        let script = "tty | sed 's/[0-9]*$//'; stty size; echo $TERM; read line; stty size; \
                      echo \"got $line\"; : < /dev/tty && echo controlling; cat; exit 3";
        let mut with_terminal = spec(&["sh", "-c", script]);
        with_terminal.terminal = Some(Size {
            rows: 24,
            columns: 80,
        });
        let key = guest.start("tty", &with_terminal).await.unwrap();
        let mut seen = String::new();
        while !seen.contains("xterm-256color") {
            let part = guest.execs.read_stdout(&key, 4096, None).await.unwrap();
            seen += std::str::from_utf8(&part).unwrap();
        }
        assert!(seen.starts_with("/dev/pts/\r\n24 80\r\n"), "{seen:?}");
        guest
            .execs
            .resize(
                &key,
                Size {
                    rows: 50,
                    columns: 132,
                },
            )
            .unwrap();
        guest
            .execs
            .write_stdin(&key, b"hello\n", None)
            .await
            .unwrap();
        guest.execs.close_stdin(&key).await.unwrap();
        let rest = guest.all(&key, false).await;
        assert!(
            rest.contains("50 132\r\ngot hello\r\ncontrolling\r\n"),
            "{rest:?}"
        );
        assert_eq!(guest.execs.wait(&key).await.unwrap(), 3);
        assert_eq!(guest.all(&key, true).await, "");
        let plain = guest.start("plain", &spec(&["sleep", "5"])).await.unwrap();
        let resized = guest.execs.resize(&plain, Size::default());
        assert!(matches!(resized, Err(ExecError::NoTerminal(_))));
        guest.execs.signal(&plain, 9).await.unwrap();
    });
}

#[test]
fn a_terminal_belongs_to_the_user_who_works_in_it() {
    with_systemd(|guest| async move {
        let mut process = spec(&[
            "sh",
            "-c",
            "id -un; stat -c %U $(tty); echo seen > /dev/tty",
        ]);
        process.user = User::Name("nobody".to_owned());
        process.terminal = Some(Size::default());
        let expected = "nobody\r\nnobody\r\nseen\r\n".to_owned();
        assert_eq!(guest.run(&process).await, (0, expected, String::new()));
    });
}

#[test]
fn a_signal_for_what_has_just_ended_finds_nothing() {
    with_systemd(|guest| async move {
        // What ignores SIGTERM keeps the service for a while after its main process has ended.
        let script = "trap '' TERM; echo ready; sleep 5 & exit 0";
        let key = guest
            .start("left", &spec(&["sh", "-c", script]))
            .await
            .unwrap();
        let ready = guest.execs.read_stdout(&key, 6, None).await;
        assert_eq!(ready.unwrap(), b"ready\n");
        // As long as it is not seen to have ended the signal arrives, and is ignored.
        let signal = loop {
            match guest.execs.signal(&key, 15).await {
                Ok(()) => tokio::time::sleep(STEP).await,
                ended => break ended,
            }
        };
        assert!(matches!(signal, Err(ExecError::Ended(_))), "{signal:?}");
        assert_eq!(guest.execs.wait(&key).await.unwrap(), 0);
    });
}

#[test]
fn control_c_ends_what_runs_in_the_terminal() {
    with_systemd(|guest| async move {
        let mut with_terminal = spec(&["sleep", "1000"]);
        with_terminal.terminal = Some(Size::default());
        let key = guest.start("interrupt", &with_terminal).await.unwrap();
        guest.execs.write_stdin(&key, b"\x03", None).await.unwrap();
        assert_eq!(guest.execs.wait(&key).await.unwrap(), 130);
    });
}

#[test]
fn arguments_environment_directory_and_user_are_taken_as_they_are() {
    with_systemd(|guest| async move {
        let script =
            "printf '%s|' \"$1\" \"$V\" \"$PWD\" \"$(id -u):$(id -g)\"; echo x > /dev/stdout";
        let mut process = spec(&["sh", "-c", script, "sh", "$HOME ${V} %n %% a\nb\r 'q\" \\"]);
        process.environment = vec!["V=$X %i \"'\\\n\tend \x1b[0m\r\x07".to_owned()];
        process.directory = "/var".to_owned();
        process.user = User::Number {
            uid: 65534,
            gid: Some(65534),
        };
        let (status, output, error) = guest.run(&process).await;
        let expected =
            "$HOME ${V} %n %% a\nb\r 'q\" \\|$X %i \"'\\\n\tend \x1b[0m\r\x07|/var|65534:65534|x\n";
        assert_eq!((status, output.as_str(), error.as_str()), (0, expected, ""));

        let mut named = spec(&["sh", "-c", "echo $USER > /dev/stdout"]);
        named.user = User::Name("nobody".to_owned());
        assert_eq!(
            guest.run(&named).await,
            (0, "nobody\n".to_owned(), String::new())
        );
    });
}

#[test]
fn what_a_process_leaves_behind_ends_with_it() {
    with_systemd(|guest| async move {
        // The end comes at all: the test's own limit is far below 1000 s.
        let (status, output, _) = guest.script("sleep 1000 & echo $!").await;
        assert_eq!(status, 0);
        // A process leaves its cgroup, which is what systemd waits for, a moment before it is gone.
        let process = format!("/proc/{}", output.trim());
        while std::fs::exists(&process).unwrap() {
            tokio::time::sleep(STEP).await;
        }
    });
}

#[test]
fn any_number_may_wait_and_an_id_can_be_used_again() {
    with_systemd(|guest| async move {
        let key = guest
            .start("again", &spec(&["sh", "-c", "sleep 0.3; exit 4"]))
            .await
            .unwrap();
        let twice = guest.start("again", &spec(&["true"])).await;
        assert!(matches!(twice, Err(ExecError::Exists(_))));
        let waits = (0..20).map(|_| guest.execs.wait(&key));
        for status in futures_util::future::join_all(waits).await {
            assert_eq!(status.unwrap(), 4);
        }
        guest.all(&key, false).await;
        guest.all(&key, true).await;
        let key = guest
            .start("again", &spec(&["sh", "-c", "exit 5"]))
            .await
            .unwrap();
        assert_eq!(guest.execs.wait(&key).await.unwrap(), 5);
        let unknown = ExecKey {
            container: "test".to_owned(),
            exec: "unknown".to_owned(),
        };
        assert!(matches!(
            guest.execs.wait(&unknown).await,
            Err(ExecError::NotFound(_))
        ));
    });
}

#[test]
fn there_are_at_most_64_at_a_time() {
    with_systemd(|guest| async move {
        let sleep = spec(&["sleep", "1000"]);
        let ids: Vec<String> = (0..MAX_RUNNING).map(|n| format!("many-{n}")).collect();
        let starts = ids.iter().map(|id| guest.start(id, &sleep));
        let keys: Vec<ExecKey> = futures_util::future::try_join_all(starts).await.unwrap();
        assert!(matches!(
            guest.start("one-more", &sleep).await,
            Err(ExecError::TooMany)
        ));
        for key in &keys {
            guest.execs.signal(key, 9).await.unwrap();
        }
        for key in &keys {
            assert_eq!(guest.execs.wait(key).await.unwrap(), 137);
        }
        // Those that ended and were not read take no place.
        assert_eq!(guest.run(&spec(&["true"])).await.0, 0);
    });
}

#[test]
fn an_exec_that_fails_leaves_nothing_in_systemd() {
    with_systemd(|guest| async move {
        assert_eq!(guest.script("exit 1").await.0, 1);
        let left = guest
            .systemd
            .list_units(&["seed-exec-*.service".to_owned()])
            .await
            .unwrap();
        let left: Vec<_> = left
            .iter()
            .filter(|unit| unit.active_state == "failed")
            .collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn an_exec_outlives_systemd_executing_itself_anew() {
    with_systemd(|guest| async move {
        let script = "read line; echo \"$line\"; exit 9";
        let key = guest
            .start("reexec", &spec(&["sh", "-c", script]))
            .await
            .unwrap();
        let reexec = std::process::Command::new("systemctl")
            .arg("daemon-reexec")
            .status();
        assert!(reexec.unwrap().success());
        // A request meets no "not yet" while the connection is made anew. One that the bus gave to the systemd that leaves has no
        // answer.
        let units = loop {
            match guest.systemd.list_units(&[]).await {
                Ok(units) => break units,
                Err(SystemdError::Lost(_) | SystemdError::Bus { .. }) => {}
                Err(other) => panic!("{other}"),
            }
            tokio::time::sleep(STEP).await;
        };
        assert!(!units.is_empty());
        guest
            .execs
            .write_stdin(&key, b"still here\n", None)
            .await
            .unwrap();
        assert_eq!(guest.all(&key, false).await, "still here\n");
        assert_eq!(guest.execs.wait(&key).await.unwrap(), 9);
    });
}

#[test]
fn a_start_that_its_caller_gives_up_leaves_nothing_that_runs() {
    with_systemd(|guest| async move {
        let sleep = spec(&["sleep", "1000"]);
        // Looked at once, which asks for it, and then dropped.
        let given_up = tokio::time::timeout(Duration::ZERO, guest.start("given-up", &sleep));
        assert!(given_up.await.is_err());
        let key = ExecKey {
            container: "test".to_owned(),
            exec: "given-up".to_owned(),
        };
        let status = loop {
            match guest.execs.wait(&key).await {
                Err(ExecError::NotFound(_)) => tokio::time::sleep(STEP).await,
                status => break status.unwrap(),
            }
        };
        assert_eq!(status, 137);
        assert_eq!(running(&guest).await, 0);
    });
}

#[test]
fn a_start_that_meets_a_new_systemd_runs_or_leaves_nothing() {
    with_systemd(|guest| async move {
        let sleep = spec(&["sleep", "1000"]);
        let ids: Vec<String> = (0..20).map(|n| format!("meets-{n}")).collect();
        let starts = ids.iter().map(|id| guest.start(id, &sleep));
        let reexec = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let mut reexec = std::process::Command::new("systemctl");
            reexec.arg("daemon-reexec").spawn().unwrap()
        };
        let (started, mut reexec) = tokio::join!(futures_util::future::join_all(starts), reexec);
        assert!(reexec.wait().unwrap().success());
        let keys: Vec<ExecKey> = started.into_iter().flatten().collect();
        // What is being ended ends.
        while running(&guest).await != keys.len() {
            tokio::time::sleep(STEP).await;
        }
        for key in &keys {
            guest.execs.signal(key, 9).await.unwrap();
            assert_eq!(guest.execs.wait(key).await.unwrap(), 137);
        }
    });
}

/// How many execs systemd has that run, or are about to.
async fn running(guest: &Guest) -> usize {
    let pattern = ["seed-exec-*.service".to_owned()];
    let units = guest.systemd.list_units(&pattern).await.unwrap();
    let states = units.iter().map(|unit| unit.active_state.as_str());
    states
        .filter(|state| !matches!(*state, "inactive" | "failed"))
        .count()
}

#[test]
fn a_program_that_says_too_much_is_an_error_and_is_ended() {
    with_systemd(|guest| async move {
        let before = running(&guest).await;
        let much = guest
            .execs
            .run(&["head", "-c", "3145728", "/dev/zero"], b"");
        assert_eq!(much.await.unwrap().output.len(), 3 * 1024 * 1024);
        let too_much = guest.execs.run(&["cat", "/dev/zero"], b"").await;
        assert!(matches!(too_much, Err(ExecError::TooMuch { .. })));
        while running(&guest).await != before {
            tokio::time::sleep(STEP).await;
        }
    });
}

#[test]
fn a_program_that_a_request_needs_gets_its_input_and_gives_both_outputs_and_its_status() {
    with_systemd(|guest| async move {
        let input = vec![b'x'; 300 * 1024];
        let script = "cat; echo complaint >&2; exit 3";
        let ran = guest
            .execs
            .run(&["sh", "-c", script], &input)
            .await
            .unwrap();
        assert_eq!((ran.status, ran.output.len()), (3, input.len()));
        assert_eq!(ran.error, b"complaint\n");
        let missing = guest.execs.run(&["no-such-command"], b"").await;
        assert!(matches!(missing, Err(ExecError::CommandNotFound(_))));
    });
}
