//! Cloud Hypervisor from its launch to its end, over a stand-in that takes its command line, serves its API as
//! its OpenAPI document says, and tells its events ([`stand_in`]); and over the real program where there is one
//! ([`real`]).

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]
#![allow(clippy::exit, reason = "a stand-in ends as its program does")]

mod machine;
mod real;
mod stand_in;

use std::{io::Read, os::unix::net::UnixStream, sync::Arc, time::Duration};

use machine::{Lab, next_end};
use seed_shim::{
    config::Limits,
    net::Nic,
    spec::Network,
    vmm::{
        Control, Machine, MachineSize, VmEnd, VmEvent, Vmm, VmmError,
        cloud_hypervisor::{
            CloudHypervisor,
            api::{Api, ApiError},
        },
    },
};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

async fn grow(machine: &Machine, vcpus: u32, memory_mib: u32) -> Result<(), VmmError> {
    let (answer, answered) = oneshot::channel();
    let size = MachineSize { vcpus, memory_mib };
    machine.control.send(Control::Grow(size, answer)).unwrap();
    answered.await.unwrap()
}

#[tokio::test]
async fn a_machine_lives_from_its_launch_to_its_poweroff() {
    let lab = Lab::new("");
    let mut machine = lab.launch().await.unwrap();
    let names: Vec<_> = machine.processes.iter().map(|one| one.name).collect();
    assert_eq!(names, ["cloud-hypervisor", "swtpm", "virtiofsd"]);
    let version = Api::at(lab.spec.paths.api_socket()).ping().await.unwrap();
    assert_eq!(version, "52.0.0");

    machine.control.send(Control::Pause).unwrap();
    loop {
        match machine.events.recv().await.unwrap() {
            VmEvent::ConsoleSpoke => {}
            VmEvent::Paused => break,
            other => panic!("{other:?}"),
        }
    }
    machine.control.send(Control::Resume).unwrap();
    assert_eq!(machine.events.recv().await, Some(VmEvent::Resumed));

    grow(&machine, 2, 640).await.unwrap();
    let error = grow(&machine, 9, 640).await.unwrap_err();
    let VmmError::Api(error) = error else {
        panic!("{error:?}");
    };
    assert_eq!(
        error.to_string(),
        "API call vm.resize was refused (500): The VM could not be resized: 9 vCPUs are too many"
    );

    machine.control.send(Control::PowerButton).unwrap();
    assert_eq!(next_end(&mut machine).await, VmEnd::Poweroff);
    lab.assert_nothing_runs(&machine);
}

#[tokio::test]
async fn each_card_is_given_the_tap_of_its_link() {
    let mut lab = Lab::new("");
    let mut others = Vec::new();
    for number in 0..2 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        others.push(ours);
        lab.spec.nics.push(Nic {
            name: format!("eth{number}"),
            mac: format!("02:00:00:00:00:0{number}"),
            mtu: 1500,
            addresses: Vec::new(),
            routes: Vec::new(),
            neighbours: Vec::new(),
            tap: Arc::new(theirs.into()),
        });
    }
    let mut machine = lab.launch().await.unwrap();
    for (nic, other) in lab.spec.nics.iter().zip(&mut others) {
        let mut said = [0; 17];
        other.read_exact(&mut said).unwrap();
        assert_eq!(said, nic.mac.as_bytes());
    }
    machine.control.send(Control::Kill).unwrap();
    assert_eq!(next_end(&mut machine).await, VmEnd::Killed);
    lab.assert_nothing_runs(&machine);
}

#[tokio::test]
async fn calls_at_the_wrong_time_are_told_apart_from_refusals() {
    let lab = Lab::new("");
    let machine = lab.launch().await.unwrap();
    let api = Api::at(lab.spec.paths.api_socket());
    let error = api.resume().await.unwrap_err();
    let ApiError::State { status: 405, .. } = error else {
        panic!("{error:?}");
    };
    let nobody = Api::at(lab.dir.path().join("nobody.sock"));
    let error = nobody.pause().await.unwrap_err().to_string();
    assert_eq!(error, "API call vm.pause failed");
    drop(machine);
}

#[tokio::test]
async fn each_end_has_its_name() {
    for (how, wanted) in [("reboot", VmEnd::Reboot), ("panic", VmEnd::Panic)] {
        let lab = Lab::new(how);
        let mut machine = lab.launch().await.unwrap();
        assert_eq!(next_end(&mut machine).await, wanted, "{how}");
        lab.assert_nothing_runs(&machine);
    }
    let lab = Lab::new("");
    let mut machine = lab.launch().await.unwrap();
    machine.control.send(Control::Kill).unwrap();
    assert_eq!(next_end(&mut machine).await, VmEnd::Killed);
}

#[tokio::test]
async fn what_others_kill_is_a_failure_with_its_name() {
    for (victim, signal, said) in [
        (
            "cloud-hypervisor",
            "KILL",
            "cloud-hypervisor ended (signal 9)",
        ),
        (
            "cloud-hypervisor",
            "TERM",
            "cloud-hypervisor ended (it was told to end from outside)",
        ),
        ("virtiofsd", "KILL", "virtiofsd ended (signal 9)"),
        ("swtpm", "KILL", "swtpm ended (signal 9)"),
    ] {
        let lab = Lab::new("");
        let mut machine = lab.launch().await.unwrap();
        machine::kill(&machine, victim, signal);
        let end = next_end(&mut machine).await;
        assert_eq!(
            (end.to_string().as_str(), end.exit_status()),
            (said, 137),
            "{victim} {signal}"
        );
        lab.assert_nothing_runs(&machine);
    }
}

#[tokio::test]
async fn a_machine_that_does_not_boot_says_why_and_leaves_nothing() {
    let lab = Lab::new("no-boot");
    let error = lab.launch().await.unwrap_err().to_string();
    assert!(
        error.starts_with("cloud-hypervisor ended at its start (exit status 1: ")
            && error.contains("cannot load the kernel"),
        "{error}"
    );
    // The daemons, which do start, have no more than that either.
    let lab = Lab::with("silent", |limits: &mut Limits| limits.daemon_seconds = 10);
    let error = lab.launch().await.unwrap_err().to_string();
    assert_eq!(
        error,
        "cloud-hypervisor did not boot its machine within 10 s"
    );
}

#[tokio::test]
async fn a_launch_that_is_given_up_leaves_nothing() {
    let lab = Lab::new("silent");
    let mut launch = Box::pin(lab.launch());
    while lab.runs() < 3 {
        let short = Duration::from_millis(20);
        timeout(short, &mut launch).await.unwrap_err();
    }
    drop(launch);
    timeout(machine::END_LIMIT, async {
        while lab.runs() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("nothing runs");
}

#[tokio::test]
async fn what_it_cannot_run_is_refused_before_anything_starts() {
    let mut lab = Lab::new("");
    let vmm = CloudHypervisor::new(lab.programs.clone(), Limits::default());
    vmm.check(&lab.spec).unwrap();
    lab.spec.network = Network::User;
    let error = vmm.check(&lab.spec).unwrap_err().to_string();
    assert_eq!(
        error,
        "cloud-hypervisor has no user-mode network: set annotation network to none, or use vmm qemu"
    );
    let tcg = lab.without_kvm();
    let error = vmm.check(&tcg).unwrap_err().to_string();
    assert_eq!(
        error,
        "cloud-hypervisor runs with KVM alone, and this host has none for it: use vmm qemu"
    );
}
