//! The real program, where `SEED_CLOUD_HYPERVISOR` names one: it takes the command line, boots the machine and
//! answers the API. What its guest does is the guest's affair: any kernel will do.

use std::{env, fs, io::Write};

use seed_shim::{
    config::Programs,
    vmm::{Control, VmEnd, VmEvent, cloud_hypervisor::api::Api},
};

use crate::{
    grow,
    machine::{Lab, next_end},
};

const PROGRAM: &str = "SEED_CLOUD_HYPERVISOR";
const KERNEL: &str = "SEED_CLOUD_HYPERVISOR_KERNEL";

#[tokio::test]
async fn the_real_program_takes_all_of_it() {
    let (Some(program), Some(kernel)) = (env::var_os(PROGRAM), env::var_os(KERNEL)) else {
        let text = format!(
            "SKIPPED the_real_program_takes_all_of_it: {PROGRAM} and {KERNEL} name no Cloud Hypervisor and kernel\n"
        );
        std::io::stderr().write_all(text.as_bytes()).unwrap();
        return;
    };
    let programs = Programs {
        cloud_hypervisor: program.into(),
        ..Programs::default()
    };
    let kernel = fs::read(kernel).unwrap();
    let lab = Lab::over(tempfile::tempdir().unwrap(), programs, &kernel, |_| {});
    let mut machine = lab.launch().await.unwrap();
    let version = Api::at(lab.spec.paths.api_socket()).ping().await.unwrap();
    assert!(
        version.starts_with(|c: char| c.is_ascii_digit()),
        "{version}"
    );
    for (order, wanted) in [
        (Control::Pause, VmEvent::Paused),
        (Control::Resume, VmEvent::Resumed),
    ] {
        machine.control.send(order).unwrap();
        while machine.events.recv().await.unwrap() != wanted {}
    }
    grow(&machine, 2, 640).await.unwrap();
    machine.control.send(Control::Kill).unwrap();
    assert_eq!(next_end(&mut machine).await, VmEnd::Killed);
    lab.assert_nothing_runs(&machine);
}
