//! `bench agent`: what the guest's agent costs. Its size and its tree of crates as it ships; memory, threads, calls and
//! provisioning at native speed, in a guest's systemd in namespaces with loop devices and a swtpm; then the boot with
//! and without it, in VMs ([`super::boot`]).
//!
//! The stock agent does not run beside ours, since nobody packages it alone, and so there is nothing of it here.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use seed_container::{Container, Loop, Spec, Swtpm};
use serde_json::Value;

use super::{Options, Results, Row, boot, figure, judge, machine, median};
use crate::{
    test,
    util::{self, Places, say},
};

/// The most that each row may be.
const TARGETS: [(&str, f64); 7] = [
    (SIZE, 4.0),
    (CRATES, 150.0),
    (RESIDENT, 8.0),
    (PRIVATE, 2.0),
    (THREADS, 4.0),
    (CHECK, 100.0),
    (PROVISION, 50.0),
];
/// And a boot with the agent, as a multiple of one without.
const TARGET_OF_BOOT: f64 = 1.03;
const SIZE: &str = "release program, stripped";
const CRATES: &str = "crates in the normal tree";
const RESIDENT: &str = "idle: resident";
const PRIVATE: &str = "idle: private";
const THREADS: &str = "idle: threads";
const CHECK: &str = "Check on one connection";
const CHECKS_TOGETHER: &str = "Check on one connection, 16 at a time";
const FIRST: &str = "provisioning, first boot";
const PROVISION: &str = "provisioning, later boots";
const BOOT: &str = "boot over boot without";
/// Where the processor is emulated, and so the wall clock's ratio is QEMU's ([`super::boot`]).
const BOOT_BY_INSTRUCTIONS: &str = "boot over boot without, by instructions (no KVM)";

/// Calls that are timed, and calls before them.
const CALLS: &str = "20000";
const WARM_CALLS: &str = "2000";
/// Boots after the first one, of which provisioning is the median.
const PROVISIONINGS: usize = 15;
/// How long the agent rests before its memory is read: its threads for work that blocks go after ten seconds.
const REST: Duration = Duration::from_secs(12);
/// How long a daemon may take to listen, on a busy machine.
const LISTEN_LIMIT: Duration = Duration::from_secs(20);
/// Of each of the two volumes.
const VOLUME_BYTES: u64 = 256 << 20;

const UNIT: &str = "bench-agent.service";
const SOCKET: &str = "/run/seed/bench.sock";
/// As the guest's own unit, as far as it matters here, with a TPM that is a socket.
const SERVICE: &str = "\
[Service]
ExecStart=/opt/release/seed-agent --listen unix:/run/seed/bench.sock
Environment=AGE_TPM_TCTI=swtpm:path=/opt/tpm/tpm
RuntimeDirectory=seed
KillMode=process
";

/// Builds the agent as it ships, and the program that asks it.
pub(super) fn build(places: &Places) -> Result<()> {
    for args in [
        "build --locked --release --package seed-agent",
        "build --locked --profile lab --package seed-kata-client --example agent_figures",
    ] {
        let mut cargo = Command::new("cargo");
        cargo.args(args.split(' ')).current_dir(&places.root);
        util::step(places, "cargo build (bench agent)", &mut cargo)?;
    }
    Ok(())
}

pub(super) fn measure(places: &Places, guest: PathBuf, options: &Options) -> Result<Results> {
    let mut rows = vec![
        row(SIZE, "MB", size(places)?),
        row(CRATES, "count", crates(places)?),
    ];
    rows.extend(native(places, &guest)?);
    let boots = boot::measure(places, &guest, options)?;
    let (last, judged) = boot_rows(boots.rows)?;
    rows.extend(last);
    let targets = [&TARGETS[..], &[(judged, TARGET_OF_BOOT)]].concat();
    judge(&rows, &targets, options)?;
    let mut machine = machine();
    machine.extend(boots.machine);
    Ok(Results { machine, rows })
}

fn row(name: &str, unit: &'static str, ours: f64) -> Row {
    Row {
        name: name.to_owned(),
        unit,
        ours,
        peers: BTreeMap::new(),
    }
}

fn release(places: &Places) -> PathBuf {
    places.target.join("release")
}

fn size(places: &Places) -> Result<f64> {
    let path = release(places).join("seed-agent");
    let bytes = fs::metadata(&path).with_context(|| format!("look at {}", path.display()))?;
    Ok(f64::from(u32::try_from(bytes.len())?) / 1e6)
}

fn crates(places: &Places) -> Result<f64> {
    Ok(f64::from(u32::try_from(test::agents_crates(places)?)?))
}

/// Everything that needs no VM.
fn native(places: &Places, guest: &Path) -> Result<Vec<Row>> {
    let scratch = places
        .cache
        .join(format!("bench-agent-{}", std::process::id()));
    fs::create_dir_all(&scratch).with_context(|| format!("make {}", scratch.display()))?;
    let measured = in_container(places, guest, &scratch);
    // Best effort: what stays is in the cache.
    let _ = fs::remove_dir_all(&scratch);
    measured
}

fn in_container(places: &Places, guest: &Path, scratch: &Path) -> Result<Vec<Row>> {
    let tpm = Swtpm::start(&scratch.join("tpm"))?;
    let disks = [
        Loop::make(&scratch.join("a"), VOLUME_BYTES)?,
        Loop::make(&scratch.join("b"), VOLUME_BYTES)?,
    ];
    let nodes = disks.each_ref().map(Loop::node);
    let container = container(places, guest, &tpm, &nodes)?;
    let ask = |words: &[&str]| ask(places, &container, words);
    say(&format!("  provisioning, 1 + {PROVISIONINGS} boots"));
    let (mut first, mut later) = (0.0, Vec::new());
    for round in 0..=PROVISIONINGS {
        let made = if round == 0 { nodes.len() } else { 0 };
        let ms = provision(places, &container, &nodes, made)?;
        if round == 0 {
            first = ms;
        } else {
            later.push(ms);
        }
        if round < PROVISIONINGS {
            end_boot(&container, nodes.len())?;
        }
    }
    std::thread::sleep(REST);
    let idle = Idle::of(&container)?;
    say("  calls");
    ask(&["checks", WARM_CALLS])?;
    let calls = ask(&["checks", CALLS])?;
    let per_call = |name: &str| -> Result<f64> {
        let total = calls[name].as_f64().with_context(|| format!("no {name}"))?;
        Ok(total / calls["count"].as_f64().context("no count")?)
    };
    let later = median(&later).context("no boots")?;
    Ok(vec![
        row(RESIDENT, "MB", idle.resident_mb),
        row(PRIVATE, "MB", idle.private_mb),
        row(THREADS, "count", idle.threads),
        row(CHECK, "us", per_call("one_by_one_us")?),
        row(CHECKS_TOGETHER, "us", per_call("together_us")?),
        row(FIRST, "ms", first),
        row(PROVISION, "ms", later),
    ])
}

/// A guest's systemd with the agent as it ships, this TPM and these disks.
pub(super) fn container(
    places: &Places,
    guest: &Path,
    tpm: &Swtpm,
    nodes: &[&str],
) -> Result<Container> {
    let spec = Spec::new(guest)?
        .file(&format!("/etc/systemd/system/{UNIT}"), SERVICE)?
        // The volumes are the bench's, not the closure's.
        .file("/etc/seed/instance.json", "{}")?
        .show(&release(places), "/opt/release")
        .bind(tpm.folder(), "/opt/tpm");
    let disks = nodes
        .iter()
        .fold(spec, |spec, node| spec.bind(Path::new(node), node));
    disks.boot()
}

fn ask(places: &Places, container: &Container, words: &[&str]) -> Result<Value> {
    let mut command = Command::new(places.programs().join("examples/agent_figures"));
    command.arg(words[0]).arg(container.inside(SOCKET));
    let text = util::read(command.args(&words[1..]))?;
    serde_json::from_str(&text).context("read what agent_figures printed")
}

/// Starts the agent and provisions a volume on each disk, of which so many are blank; milliseconds.
pub(super) fn provision(
    places: &Places,
    container: &Container,
    nodes: &[&str],
    blank: usize,
) -> Result<f64> {
    container.serve(UNIT, SOCKET, LISTEN_LIMIT)?;
    let words: Vec<_> = [&["provision"], nodes].concat();
    let found = ask(places, container, &words)?;
    ensure!(found["made"] == blank, "{blank} blank volumes: {found}");
    found["ms"].as_f64().context("no ms")
}

/// What the end of a boot with so many volumes does; the identity stays in the TPM alone.
pub(super) fn end_boot(container: &Container, volumes: usize) -> Result<()> {
    container.run(&["systemctl", "stop", UNIT])?;
    for volume in 0..volumes {
        container.run(&["umount", &format!("/seed/storage/v{volume}")])?;
    }
    container.run(&["rm", "-rf", "/run/seed", "/seed/tpm/age-identity"])?;
    Ok(())
}

/// The last mark of a boot, and how many times as long it takes with the agent: by the wall clock, and by instructions where
/// they were counted. And the ratio to judge: the last.
fn boot_rows(rows: Vec<Row>) -> Result<(Vec<Row>, &'static str)> {
    let clocks = [
        (boot::LAST, BOOT),
        (boot::LAST_BY_INSTRUCTIONS, BOOT_BY_INSTRUCTIONS),
    ];
    let mut judged = None;
    let (mut lasts, mut ratios) = (Vec::new(), Vec::new());
    for last in rows {
        let Some((_, name)) = clocks.iter().find(|(mark, _)| *mark == last.name) else {
            continue;
        };
        let ratio = last.ratio().context("no boot without the agent")?;
        ratios.push(row(name, "times", ratio));
        lasts.push(last);
        judged = Some(*name);
    }
    let judged = judged.context("the boots have no last row")?;
    lasts.extend(ratios);
    Ok((lasts, judged))
}

/// What the agent has while nobody asks anything of it.
struct Idle {
    resident_mb: f64,
    /// Pages that only this process has and that no file backs.
    private_mb: f64,
    threads: f64,
}

impl Idle {
    fn of(container: &Container) -> Result<Self> {
        let pid = container.main_pid(UNIT)?;
        let text = fs::read_to_string(container.inside(&format!("/proc/{pid}/smaps_rollup")))?;
        let mb = |name: &str| figure(&text, name).map(|kib| kib * 1024.0 / 1e6);
        let threads = fs::read_dir(container.inside(&format!("/proc/{pid}/task")))?.count();
        Ok(Self {
            resident_mb: mb("Rss:")?,
            private_mb: mb("Anonymous:")?,
            threads: f64::from(u32::try_from(threads)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_of_two_boots_is_a_row_that_says_what_it_is_by() {
        let boots = |name, ours| {
            let mut last = row(name, "s", ours);
            last.peers.insert("without", 10.0);
            last
        };
        let wall = || boots(boot::LAST, 10.5);
        let found =
            |rows: &[Row], name| rows.iter().find(|row| row.name == name).map(|row| row.ours);
        let (rows, judged) = boot_rows(vec![row("other", "s", 1.0), wall()]).expect("both");
        assert_eq!((rows.len(), judged), (2, BOOT));
        assert_eq!(found(&rows, BOOT), Some(1.05));
        let counted = boots(boot::LAST_BY_INSTRUCTIONS, 10.2);
        let (rows, judged) = boot_rows(vec![wall(), counted]).expect("both, twice");
        assert_eq!((rows.len(), judged), (4, BOOT_BY_INSTRUCTIONS));
        assert_eq!(found(&rows, BOOT_BY_INSTRUCTIONS), Some(1.02));
        assert_eq!(found(&rows, BOOT), Some(1.05));
        assert!(boot_rows(Vec::new()).is_err());
    }
}
