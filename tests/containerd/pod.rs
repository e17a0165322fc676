//! A pod's life by CRI, over stub VMs, with each series of containerd: sandbox, container, exec, streams, logs,
//! stats, and all of it gone at the end.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use seed_tests::{
    Containerd, Cri, Runner, Version,
    containerd::{Options, Programs},
    cri::{
        api::{
            ContainerConfig, ContainerMetadata, ContainerState, ImageSpec, KeyValue,
            LinuxContainerResources, NamespaceMode, PodSandboxConfig, PodSandboxMetadata,
        },
        stream::{self, Stream},
    },
    limit,
    parts::signal,
};

use crate::{
    bench::{self, INIT, STUB, in_order, nothing_left},
    flood, group, kept, kubelet, security,
};

/// Its name, and what it does on a containerd that runs.
pub(crate) type Case = (&'static str, fn(&mut Containerd, &Cri) -> Result<()>);

pub(crate) const CASES: [Case; 13] = [
    ("a_pod_lives_and_leaves_nothing", whole_life),
    ("streams_of_exec_and_attach", streams),
    ("a_forwarded_port_is_the_guests", forwarded_port),
    ("init_containers_run_one_after_the_other", init_containers),
    (
        "a_second_container_is_refused_with_a_sentence",
        second_container,
    ),
    ("limits_and_their_change_reach_the_machine", limits),
    (
        "a_pods_security_context_is_kept_or_told",
        security::kept_or_told,
    ),
    (group::CASE, group::pods),
    (
        "an_identity_moves_with_its_archive",
        kubelet::identity_moves,
    ),
    (
        "a_kill_for_memory_in_the_guest_is_its_reason",
        killed_for_memory,
    ),
    ("containerd_killed_and_started_finds_the_pod", restart),
    (
        "containerd_killed_under_a_flood_costs_no_entry",
        flood::containerd_killed,
    ),
    ("a_pods_killed_shim_leaves_nothing", killed_shim),
];

/// Runs them on one containerd, in which CRI makes pods as `options` say.
pub(crate) fn run(
    runner: &mut Runner,
    programs: &Programs,
    version: Version,
    kind: &str,
    options: &Options,
    cases: &[Case],
) {
    let name = |case: &str| format!("{kind}_{version}_{case}");
    let names: Vec<_> = cases.iter().map(|(case, _)| name(case)).collect();
    let wanted: Vec<_> = names.iter().map(String::as_str).collect();
    if !runner.wants(&wanted) {
        for (case, _) in cases {
            runner.case(&name(case), || Ok(()));
        }
        return;
    }
    let mut up = None;
    runner.always(&name("starts"), || {
        let containerd = bench::stubs(programs, version, options)?;
        containerd.import_busybox()?;
        let cri = Cri::connect(&containerd)?;
        up = Some((containerd, cri));
        Ok(())
    });
    let Some((mut containerd, mut cri)) = up else {
        return;
    };
    for (case, test) in cases {
        if *case == group::CASE && !group::can_be_made() {
            runner.skip(&name(case), "control groups cannot be written");
            continue;
        }
        let passed = runner.case(&name(case), || test(&mut containerd, &cri));
        if !passed {
            runner.note(&bench::tail(&containerd.log()));
            // What it left would be found by every later one.
            break;
        }
        // A restart in between has taken the old connection.
        match Cri::connect(&containerd) {
            Ok(new) => cri = new,
            Err(error) => runner.note(&format!("no CRI any more: {error:#}")),
        }
    }
}

/// A pod of this name in the namespace `test`.
pub(crate) fn sandbox(containerd: &Containerd, name: &str) -> Result<PodSandboxConfig> {
    let logs = containerd.dir().join("pod-logs").join(name);
    fs::create_dir_all(&logs)?;
    let metadata = PodSandboxMetadata {
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        namespace: "test".to_owned(),
        ..Default::default()
    };
    let mut config = PodSandboxConfig {
        metadata: Some(metadata).into(),
        hostname: name.to_owned(),
        log_directory: logs.to_string_lossy().into_owned(),
        ..Default::default()
    };
    let dns = config.dns_config.mut_or_insert_default();
    (dns.servers, dns.searches) = (vec!["10.96.0.10".into()], vec!["svc.test".into()]);
    let security = config
        .linux
        .mut_or_insert_default()
        .security_context
        .mut_or_insert_default();
    security.namespace_options.mut_or_insert_default().pid = NamespaceMode::CONTAINER.into();
    Ok(config)
}

/// A container of the stub's image.
pub(crate) fn container(name: &str) -> ContainerConfig {
    let metadata = ContainerMetadata {
        name: name.to_owned(),
        ..Default::default()
    };
    let image = ImageSpec {
        image: STUB.to_owned(),
        ..Default::default()
    };
    let variable = KeyValue {
        key: "GREETING".to_owned(),
        value: "hello".to_owned(),
        ..Default::default()
    };
    ContainerConfig {
        metadata: Some(metadata).into(),
        image: Some(image).into(),
        command: vec![INIT.to_owned()],
        envs: vec![variable],
        log_path: format!("{name}.log"),
        ..Default::default()
    }
}

/// Makes a pod with a running container; the ids of both.
pub(crate) fn started(
    containerd: &Containerd,
    cri: &Cri,
    name: &str,
) -> Result<(PodSandboxConfig, String, String)> {
    let config = sandbox(containerd, name)?;
    let pod = cri.run_pod(&config, "seed")?;
    let id = cri.create(&pod, &container("app"), &config)?;
    cri.start(&id)?;
    ensure!(
        state(cri, &id)? == ContainerState::RUNNING,
        "it does not run"
    );
    Ok((config, pod, id))
}

pub(crate) fn state(cri: &Cri, container: &str) -> Result<ContainerState> {
    Ok(cri.status(container)?.state.enum_value_or_default())
}

/// Stops and removes a pod with all in it.
pub(crate) fn end(containerd: &Containerd, cri: &Cri, pod: &str) -> Result<()> {
    cri.stop_pod(pod)?;
    cri.remove_pod(pod)?;
    nothing_left(containerd)
}

/// Waits for a container's log to have these parts in this order.
pub(crate) fn log_has(path: &Path, parts: &[&str]) -> Result<()> {
    limit::until(
        &format!("the log {}", path.display()),
        limit::LOG_LINE,
        || {
            let text = fs::read_to_string(path).unwrap_or_default();
            Ok(in_order(&text, parts).is_ok().then_some(()))
        },
    )
}

pub(crate) fn whole_life(containerd: &mut Containerd, cri: &Cri) -> Result<()> {
    let (config, pod, id) = started(containerd, cri, "life")?;
    // One shim for both, and no machine for the pause.
    ensure!(
        containerd.shims()?.len() == 1,
        "shims: {:?}",
        containerd.shims()?
    );
    let address = cri.pod_status(&pod)?.network.ip.clone();
    ensure!(address.starts_with("10."), "the pod's address: {address:?}");
    let log = Path::new(&config.log_directory).join("app.log");
    log_has(
        &log,
        &[
            "stdout F",
            "stub guest is up",
            "stub guest has nothing to do",
        ],
    )?;
    let told = bench::orders(containerd, &id)?;
    // A card with the pod's address, the way out, and the files that CRI gives every container.
    for part in [
        &format!("address: \"{address}\" mask: \"24\""),
        "name: \"eth0\"",
        "mtu: 1450",
        "hwAddr:",
        "gateway: \"10.",
        "fd5e:",
        "hostname: \"life\"",
        "GREETING=hello",
    ] {
        ensure!(told.contains(part), "no {part:?} in {told}");
    }
    // DNS comes as a file of the pause container's, or as words where there is none.
    let by_words = told.contains("dns: \"nameserver 10.96.0.10\" dns: \"search svc.test\"");
    let by_file = [
        "destination: \"/etc/hosts\" source: \"/run/kata-containers/shared/containers/",
        "destination: \"/etc/resolv.conf\"",
    ];
    let by_file = by_file.iter().all(|part| told.contains(part));
    ensure!(by_words != by_file, "DNS in {told}");

    kept::names_its_pod(containerd, &id)?;
    // What stays has the pod's name; while it runs the container's id leads there, too.
    for name in [id.as_str(), kept::NAME] {
        let said = seed(containerd, &["logs", name])?;
        ensure!(
            said.contains("stub guest is up"),
            "seed logs {name}: {said}"
        );
    }
    let refused = seed(containerd, &["rm", kept::NAME, "--yes"]);
    let said = format!(
        "{:#}",
        refused.err().context("removed under a running pod")?
    );
    ensure!(said.contains("is running"), "{said}");
    // Nothing of it is anything that is kept of one that has ended, so however young that may be it stays.
    seed(
        containerd,
        &["prune", "--older-than", "0", "--tpm", "--yes"],
    )?;
    ensure!(kept::of(containerd)?.is_none(), "it runs");

    let failed = cri.exec_sync(&id, &["false"])?;
    ensure!(failed.exit_code == 3, "{failed:?}");
    let none = cri.exec_sync(&id, &["nonesuch"]);
    let said = none.err().context("nonesuch was started")?;
    let said = format!("{said:#}");
    ensure!(said.contains("nonesuch"), "{said}");
    let stats = cri.stats(&id)?;
    ensure!(
        stats.memory.is_some() || stats.cpu.is_some(),
        "no stats: {stats:?}"
    );

    fs::rename(&log, log.with_extension("1"))?;
    cri.reopen_log(&id)?;
    ensure!(log.exists(), "the log was not reopened");

    cri.stop(&id, 20)?;
    let status = cri.status(&id)?;
    ensure!(
        status.state.enum_value_or_default() == ContainerState::EXITED && status.exit_code == 0,
        "{status:?}"
    );
    cri.remove(&id)?;
    // The identity has the pod's name, for the next container of that name.
    let identities = containerd.state_dir().join("tpm/k8s.io");
    let machine_id = identities.join(kept::NAME).join("machine-id");
    let names = || fs::read_dir(&identities).map(Vec::from_iter);
    ensure!(
        machine_id.exists(),
        "no identity of that name, only {:?}",
        names()
    );
    end(containerd, cri, &pod)?;
    let said = seed(containerd, &["logs", kept::NAME])?;
    ensure!(said.contains("stub guest is up"), "seed logs: {said}");
    kept::logs_go_first(containerd)?;
    ensure!(machine_id.exists(), "the identity went with the logs");
    seed(containerd, &["rm", kept::NAME, "--yes"])?;
    ensure!(!machine_id.exists(), "{} stays", machine_id.display());
    Ok(())
}

/// `seed ARGS` in CRI's namespace, which must succeed; what it printed.
pub(crate) fn seed(containerd: &Containerd, args: &[&str]) -> Result<String> {
    let mut command = containerd.seed(&["--namespace", "k8s.io"]);
    let output = command.args(args).output()?;
    ensure!(
        output.status.success(),
        "seed {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn streams(containerd: &mut Containerd, cri: &Cri) -> Result<()> {
    let (_, pod, id) = started(containerd, cri, "streams")?;
    let mut exec = Stream::open(&cri.exec_url(&id, &["cat"])?)?;
    exec.send(stream::STDIN, b"to and fro\n")?;
    let text = exec.read_until(stream::STDOUT, "fro\n", limit::COMMAND)?;
    ensure!(text == "to and fro\n", "exec: {text:?}");
    drop(exec);

    let mut failed = Stream::open(&cri.exec_url(&id, &["false"])?)?;
    let text = failed.read_until(stream::ERROR, "ExitCode", limit::COMMAND)?;
    ensure!(text.contains("\"3\""), "status: {text}");

    let mut terminal = Stream::open(&cri.terminal_url(&id, &["size"])?)?;
    terminal.send(stream::RESIZE, br#"{"Width":132,"Height":43}"#)?;
    let text = terminal.read_until(stream::STDOUT, "43 132\n", limit::COMMAND)?;
    ensure!(text == "43 132\n", "the terminal's size: {text:?}");

    let text = attached(containerd, cri, &id)?;
    ensure!(text.contains("stub: somebody says"), "attach: {text:?}");
    end(containerd, cri, &pod)
}

/// What comes over an attach. It shows nothing of what was before, so somebody says something until it has come.
fn attached(containerd: &Containerd, cri: &Cri, id: &str) -> Result<String> {
    let mut attach = Stream::open(&cri.attach_url(id)?)?;
    let came = AtomicBool::new(false);
    let says = |cri: Cri| {
        while !came.load(Ordering::Relaxed) {
            cri.exec_sync(id, &["say"])?;
            thread::sleep(Duration::from_millis(50));
        }
        anyhow::Ok(())
    };
    let other = Cri::connect(containerd)?;
    thread::scope(|scope| {
        let saying = scope.spawn(|| says(other));
        let text = attach.read_until(stream::STDOUT, "something\n", limit::COMMAND);
        came.store(true, Ordering::Relaxed);
        saying
            .join()
            .map_err(|_| anyhow::anyhow!("it panicked"))??;
        text
    })
}

fn forwarded_port(containerd: &mut Containerd, cri: &Cri) -> Result<()> {
    let (_, pod, _) = started(containerd, cri, "ports")?;
    for port in [80, 40_000] {
        let mut forward = Stream::open(&cri.port_forward_url(&pod, port)?)?;
        // Each channel begins with the port's number.
        let greeting = format!("port {port}\n");
        let text = forward.read_until(stream::STDIN, &greeting, limit::COMMAND)?;
        ensure!(text.ends_with(&greeting), "port {port}: {text:?}");
        forward.send(stream::STDIN, b"to and fro\n")?;
        let text = forward.read_until(stream::STDIN, "fro\n", limit::COMMAND)?;
        ensure!(text == "to and fro\n", "port {port}: {text:?}");
    }
    // Nobody is there: the stream ends, and nothing came.
    let mut none = Stream::open(&cri.port_forward_url(&pod, 9)?)?;
    let text = none.read_until(stream::STDIN, "port", limit::COMMAND)?;
    ensure!(!text.contains("port"), "port 9: {text:?}");
    end(containerd, cri, &pod)
}

fn init_containers(containerd: &mut Containerd, cri: &Cri) -> Result<()> {
    let config = sandbox(containerd, "inits")?;
    let pod = cri.run_pod(&config, "seed")?;
    for name in ["first", "second", "app"] {
        let id = cri.create(&pod, &container(name), &config)?;
        cri.start(&id)?;
        ensure!(
            state(cri, &id)? == ContainerState::RUNNING,
            "{name} does not run"
        );
        cri.stop(&id, 20)?;
    }
    let kept = containerd.state_dir().join("tpm/k8s.io");
    for name in ["test_inits_first", "test_inits_second", "test_inits_app"] {
        ensure!(kept.join(name).is_dir(), "no identity {name}");
    }
    end(containerd, cri, &pod)
}

fn second_container(containerd: &mut Containerd, cri: &Cri) -> Result<()> {
    let (config, pod, id) = started(containerd, cri, "two")?;
    let second = cri.create(&pod, &container("sidecar"), &config)?;
    let refused = cri.start(&second).map(|()| String::new());
    let said = format!(
        "{:#}",
        refused.err().context("a second container was started")?
    );
    in_order(
        &said,
        &[id.as_str(), "a machine of its own", "init container"],
    )?;
    ensure!(
        state(cri, &id)? == ContainerState::RUNNING,
        "the first one ended"
    );
    end(containerd, cri, &pod)
}

const MIB: i64 = 1 << 20;

pub(crate) fn resources(cpus: i64, mib: i64) -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: cpus * 100_000,
        memory_limit_in_bytes: mib * MIB,
        ..Default::default()
    }
}

fn limits(containerd: &mut Containerd, cri: &Cri) -> Result<()> {
    let mut config = sandbox(containerd, "limits")?;
    let linux = config.linux.mut_or_insert_default();
    linux.resources = Some(resources(3, 640)).into();
    let pod = cri.run_pod(&config, "seed")?;
    // The pod says three processors; of memory the container says more itself.
    let mut app = container("app");
    let own = app
        .linux
        .mut_or_insert_default()
        .resources
        .mut_or_insert_default();
    own.memory_limit_in_bytes = 768 * MIB;
    let id = cri.create(&pod, &app, &config)?;
    cri.start(&id)?;
    ensure!(
        bench::size(containerd, "k8s.io", &id)? == (3, 768),
        "at the start: {:?}",
        bench::size(containerd, "k8s.io", &id)?
    );
    cri.update(&id, &resources(4, 1024))?;
    ensure!(
        bench::size(containerd, "k8s.io", &id)? == (4, 1024),
        "after the update: {:?}",
        bench::size(containerd, "k8s.io", &id)?
    );
    let refused = cri.update(&id, &resources(4, 512));
    let said = format!("{:#}", refused.err().context("it shrank")?);
    ensure!(said.contains("does not shrink"), "{said}");

    // `kubectl top` is made of these.
    let [stats] = &cri.pod_stats(&pod)?[..] else {
        anyhow::bail!("stats: {:?}", cri.pod_stats(&pod)?);
    };
    ensure!(
        stats.memory.working_set_bytes.value > 0 && stats.cpu.usage_core_nano_seconds.value > 0,
        "{stats:?}"
    );
    end(containerd, cri, &pod)
}

fn killed_for_memory(containerd: &mut Containerd, cri: &Cri) -> Result<()> {
    let (_, pod, id) = started(containerd, cri, "hungry")?;
    let killed = cri.exec_sync(&id, &["hog"])?;
    ensure!(killed.exit_code == 137, "{killed:?}");
    limit::until("the reason", limit::COMMAND, || {
        Ok((cri.status(&id)?.reason == "OOMKilled").then_some(()))
    })?;
    // It goes on, and the reason stays with its end.
    ensure!(state(cri, &id)? == ContainerState::RUNNING, "it ended");
    cri.stop(&id, 20)?;
    let status = cri.status(&id)?;
    ensure!(status.reason == "OOMKilled", "{status:?}");
    end(containerd, cri, &pod)
}

/// Starts a containerd that was killed, and waits until it knows the pod.
pub(crate) fn run_again(containerd: &mut Containerd, pod: &str) -> Result<Cri> {
    containerd.run()?;
    // CRI answers a little later than containerd.
    limit::until("CRI after the restart", limit::COMMAND, || {
        let cri = Cri::connect(containerd)?;
        Ok(cri.pod_status(pod).is_ok().then_some(cri))
    })
}

fn restart(containerd: &mut Containerd, cri: &Cri) -> Result<()> {
    let (_, pod, id) = started(containerd, cri, "stays")?;
    let shims = containerd.shims()?;
    containerd.kill()?;
    let cri = run_again(containerd, &pod)?;
    ensure!(
        containerd.shims()? == shims,
        "another shim after the restart"
    );
    ensure!(cri.pod_status(&pod)?.state == 0, "the pod is not ready");
    ensure!(
        state(&cri, &id)? == ContainerState::RUNNING,
        "the container does not run"
    );
    ensure!(cri.exec_sync(&id, &["false"])?.exit_code == 3, "exec");
    end(containerd, &cri, &pod)
}

/// Kills the shim of a pod with a running container, and waits until CRI knows the end of both.
pub(crate) fn kill_shim(containerd: &Containerd, cri: &Cri, pod: &str, id: &str) -> Result<()> {
    for pid in containerd.shims()? {
        signal(pid, "KILL")?;
    }
    limit::until("the end of both", limit::COMMAND, || {
        let gone = state(cri, id)? == ContainerState::EXITED && cri.pod_status(pod)?.state == 1;
        Ok(gone.then_some(()))
    })
}

fn killed_shim(containerd: &mut Containerd, cri: &Cri) -> Result<()> {
    let (_, pod, id) = started(containerd, cri, "orphan")?;
    kill_shim(containerd, cri, &pod, &id)?;
    ensure!(
        cri.status(&id)?.exit_code != 0,
        "a killed shim is no success"
    );
    end(containerd, cri, &pod)
}
