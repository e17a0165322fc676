//! A umask of 077 is common for root. One test in a program of its own, because a umask is a process's.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use rustix::fs::Mode;
use seed_shim::{
    config::Config,
    containerd::{Record, bundle, record},
    paths::Paths,
};

fn mode(path: &Path) -> u32 {
    let metadata = fs::metadata(path).expect("it was just made");
    metadata.permissions().mode() & 0o7777
}

#[test]
fn the_guests_root_is_open_to_its_users_and_the_rest_to_nobody() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        run_dir: dir.path().join("run"),
        state_dir: dir.path().join("state"),
        ..Config::default()
    };
    let paths = Paths::new(&config).instance(&"default".parse().unwrap(), &"demo".parse().unwrap());
    let record = Record {
        version: record::VERSION,
        root: "/guest".into(),
        toplevel: "/seed-system".into(),
        size: None,
        accel: None,
        network: None,
        publish: Vec::new(),
        kernel_params: Vec::new(),
        env: Vec::new(),
        volumes: Vec::new(),
        config: None,
        shim: "/shim".into(),
        address: None,
    };
    bundle::root_mounts(&record, &paths).unwrap();
    assert_eq!(mode(&paths.layers_dir().join("upper")), 0o755);
    assert_eq!(mode(paths.layers_dir()), 0o700);
}
