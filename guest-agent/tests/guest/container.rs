//! Takes the tests of this program to a systemd: into a container of namespaces ([`seed_container`]) on the root that
//! `SEED_TEST_GUEST` names, where the caller is root.

use std::{env, io::Write};

use seed_container::{Spec, guest_root};

/// Where this program is inside.
const PROGRAM: &str = "/opt/guest-tests";

#[test]
fn all_tests_of_this_program_pass_in_a_container() {
    let Some(root) = guest_root().ok().filter(|_| crate::missing().is_some()) else {
        // Inside already, or each test says that it is skipped.
        return;
    };
    let container = Spec::new(&root)
        .unwrap()
        .show(&env::current_exe().unwrap(), PROGRAM)
        .boot()
        .unwrap();
    let output = container
        .command(&[PROGRAM, "--test-threads=1"])
        .output()
        .unwrap();
    if !output.status.success() {
        std::io::stderr().write_all(&output.stdout).unwrap();
        std::io::stderr().write_all(&output.stderr).unwrap();
        panic!("tests failed in the container: {}", output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        !text.contains("SKIPPED") && text.contains("test result: ok"),
        "{text}"
    );
}
