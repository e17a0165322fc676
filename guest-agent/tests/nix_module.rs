//! The NixOS module and the agent mean the same: what the module writes (golden files that its own tests
//! compare with) is read by the agent's parser, and the rules that the module checks are the agent's.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails here fails the test"
)]

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use seed_agent::{
    config::Instance,
    storage::{MountPoint, VolumeName, owner::Mode},
};
use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    let folder =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../nixos-guest-module/tests/golden");
    folder.join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&fs::read(golden(name)).unwrap()).unwrap()
}

/// What the agent makes of each case, in the form of the golden file.
fn answers(rule: &str, accepts: impl Fn(&str) -> bool) -> (BTreeMap<String, bool>, Value) {
    let wanted = json("rules.json")[rule].clone();
    let cases = wanted.as_object().unwrap().keys();
    let given = cases.map(|case| (case.clone(), accepts(case))).collect();
    (given, wanted)
}

#[test]
fn the_modules_files_pass_check_config() {
    for name in ["small.instance.json", "full.instance.json"] {
        let mut agent = Command::new(env!("CARGO_BIN_EXE_seed-agent"));
        let ended = agent
            .arg("--check-config")
            .arg(golden(name))
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{name}: {words}");
    }
}

#[test]
fn the_agent_reads_what_the_options_say() {
    let small = Instance::read(&golden("small.instance.json")).unwrap();
    assert_eq!((small.name.as_str(), small.volumes.len()), ("small", 0));

    assert_eq!(small.key_group, None);

    let full = Instance::read(&golden("full.instance.json")).unwrap();
    assert_eq!(full.key_group.as_deref(), Some("app"));
    let volume = |name| &full.volumes[&VolumeName::try_from(name).unwrap()];
    let place = |name| {
        volume(name)
            .mount_point
            .as_path()
            .to_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(full.volumes.len(), 2);
    assert_eq!(place("data"), "/seed/storage/data");
    assert!(volume("data").owner.is_empty());
    assert_eq!(volume("data").mode, None);
    assert_eq!(place("db"), "/var/lib/db");
    assert_eq!(volume("db").owner.to_string(), "app:app");
    assert_eq!(volume("db").mode.unwrap().bits(), 0o750);
}

#[test]
fn the_module_has_the_agents_rules() {
    let (given, wanted) = answers("mountPoints", |path| MountPoint::try_from(path).is_ok());
    assert_eq!(serde_json::to_value(given).unwrap(), wanted);
    let (given, wanted) = answers("volumeNames", |name| VolumeName::try_from(name).is_ok());
    assert_eq!(serde_json::to_value(given).unwrap(), wanted);
    let (given, wanted) = answers("modes", |mode| Mode::try_from(mode).is_ok());
    assert_eq!(serde_json::to_value(given).unwrap(), wanted);
}
