//! Two virtual machines that write to one image destroy what is in it. One test in a program of its own: locks
//! are a process's, so it is its own second process.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{
    fs::{self, OpenOptions},
    io::{self, BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use rustix::fs::{FlockOperation, fcntl_lock};
use seed_shim::{
    config::{Accel, Config},
    paths::Paths,
    spec::{self, Annotations, Bundle, Cpu, Inputs, SpecError, VmSpec, VolumeError},
};
use serde_json::json;

/// Names the image to lock, in the second process.
const HELD: &str = "SEED_TEST_HELD_IMAGE";

const NAME: &str = "an_image_that_another_process_writes_to_is_refused_and_may_be_read";

fn build(dir: &Path, image: &Path, option: &str) -> Result<VmSpec, SpecError> {
    let system = dir.join("rootfs/x");
    fs::create_dir_all(&system).unwrap();
    fs::write(system.join("vmlinux"), b"\x7fELF and more").unwrap();
    let boot = json!({"init": "/x/init", "kernel": "/x/vmlinux", "kernelParams": []});
    let boot = json!({"org.nixos.bootspec.v1": boot});
    fs::write(system.join("boot.json"), boot.to_string()).unwrap();
    let config = json!({
        "process": {"args": ["/x/init"], "env": []},
        "root": {"path": "rootfs"},
        "mounts": [{"type": "ext4", "source": image, "destination": "/data", "options": [option]}],
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let (namespace, id) = ("default".parse().unwrap(), "demo".parse().unwrap());
    let bundle = Bundle::read(dir).unwrap();
    spec::build(&Inputs {
        namespace: &namespace,
        id: &id,
        paths: &Paths::new(&Config::default()).instance(&namespace, &id),
        rootfs: &bundle.root,
        annotations: &Annotations::parse(&bundle.annotations)?,
        bundle: &bundle,
        pod: &Default::default(),
        config: &Config {
            accel: Accel::Tcg,
            ..Config::default()
        },
        cpu: Cpu {
            has_flag: false,
            has_device: false,
        },
        host_address: None,
        nics: &[],
    })
}

#[test]
fn an_image_that_another_process_writes_to_is_refused_and_may_be_read() {
    if let Some(image) = std::env::var_os(HELD) {
        let file = OpenOptions::new().write(true).open(image).unwrap();
        fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        println!("held");
        io::stdin().read_line(&mut String::new()).unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("data.img");
    fs::write(&image, [0; 512]).unwrap();
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args([NAME, "--exact", "--nocapture"])
        .env(HELD, &image)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(other.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("held")));
    let error = build(dir.path(), &image, "rw").unwrap_err();
    assert!(
        matches!(error, SpecError::Volume(VolumeError::InUse { .. })),
        "{error}"
    );
    build(dir.path(), &image, "ro").unwrap();
    other.kill().unwrap();
    other.wait().unwrap();
    build(dir.path(), &image, "rw").unwrap();
}
