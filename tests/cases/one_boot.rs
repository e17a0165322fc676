//! One instance through its life: every case below sees what the one before left, and the order is
//! part of the test. When the boot itself fails, the cases that need it are skipped and the boot's own
//! case has failed.

use seed_tests::{Instance, Lab, Runner, Spec};

use crate::{env, exec, identity, journal, lifecycle, secrets, smoke, storage, trust};

/// A case that needs the running instance.
type Case = fn(&Instance<'_>) -> anyhow::Result<()>;

/// In the order of the instance's life.
const CASES: [(&str, Case); 20] = [
    (
        "smoke: the boot names every stage in order",
        smoke::the_boot_names_every_stage,
    ),
    (
        "env: values reach a unit unchanged",
        env::values_reach_a_unit_unchanged,
    ),
    (
        "env: values reach a shell unchanged",
        env::values_reach_a_shell_unchanged,
    ),
    ("env: values are in no log", env::values_are_in_no_log),
    (
        "storage: a new volume is made and owned",
        storage::a_new_volume_is_made_and_owned,
    ),
    (
        "exec: exit status and streams are kept apart",
        exec::status_and_streams,
    ),
    (
        "exec: a missing command fails at once",
        exec::a_missing_command_fails_at_once,
    ),
    (
        "exec: sixteen megabytes arrive whole",
        exec::sixteen_megabytes_arrive_whole,
    ),
    (
        "exec: standard input reaches its end",
        exec::standard_input_reaches_its_end,
    ),
    (
        "exec: a command outlives the agent",
        exec::a_command_outlives_the_agent,
    ),
    (
        "trust: the guest may not talk to its own agent",
        trust::the_guest_may_not_talk_to_its_agent,
    ),
    (
        "journal: the log holds what the guest's journal holds",
        journal::equals_the_guests,
    ),
    (
        "journal: a new line arrives while following",
        journal::follows,
    ),
    (
        "journal: following goes over an end that loses nothing",
        journal::goes_over_a_restart,
    ),
    (
        "secrets: twenty are sealed to the instance",
        secrets::are_sealed,
    ),
    (
        "identity: a secret is opened at the next boot",
        identity::a_secret_is_opened_at_boot,
    ),
    (
        "secrets: twenty are opened at that boot",
        secrets::are_opened_at_boot,
    ),
    (
        "lifecycle: a killed VMM is named and loses no volume",
        lifecycle::a_killed_vmm,
    ),
    (
        "lifecycle: a killed shim leaves nothing that blocks a restart",
        lifecycle::a_killed_shim,
    ),
    (
        "lifecycle: stop leaves only volumes, TPM state and logs",
        lifecycle::stop_leaves_nothing,
    ),
];

/// For the skip list.
pub(crate) const NAMES: [&str; CASES.len() + 1] = {
    let mut names = [BOOT; CASES.len() + 1];
    let mut index = 0;
    while index < CASES.len() {
        names[index + 1] = CASES[index].0;
        index += 1;
    }
    names
};

const BOOT: &str = "smoke: an instance boots";

/// Boots once, runs all.
pub(crate) fn run(runner: &mut Runner, lab: &Lab) {
    if !runner.wants(&NAMES) {
        return;
    }
    let mut booted = None;
    let spec = env::NASTY
        .iter()
        .fold(Spec::default(), |spec, (name, value)| {
            spec.with(["--env", &format!("{name}={value}")])
        });
    runner.always(BOOT, || {
        booted = Some(Instance::run(lab, &spec)?);
        Ok(())
    });
    for (name, case) in CASES {
        match &booted {
            None => runner.skip(name, "the instance did not boot"),
            Some(instance) => {
                if !runner.case(name, || case(instance)) {
                    instance.evidence();
                }
            }
        }
    }
}
