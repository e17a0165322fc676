//! From a bundle on disk to QEMU's command line, the whole way.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{fs, path::Path};

use seed_shim::{
    config::{Accel, Config},
    names::{ContainerId, Namespace},
    paths::Paths,
    spec::{self, Annotations, Bundle, Cpu, Inputs, SpecError, VmSpec},
    vmm::qemu::args::{self, Numbers},
};
use serde_json::{Value, json};

fn bundle(dir: &Path, boot: &Value, annotations: &Value) {
    let system = dir.join("rootfs/nix/store/x");
    fs::create_dir_all(&system).unwrap();
    fs::write(system.join("vmlinux"), b"\x7fELF and more").unwrap();
    fs::write(system.join("boot.json"), boot.to_string()).unwrap();
    let config = json!({
        "process": {"args": ["/nix/store/x/init"], "env": []},
        "root": {"path": "rootfs"},
        "annotations": annotations,
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
}

fn boot(params: &[&str]) -> Value {
    json!({
        "org.nixos.bootspec.v1": {
            "init": "/nix/store/x/init", "kernel": "/nix/store/x/vmlinux", "kernelParams": params,
        },
        "farm.loom.seed.v1": {"size": "s"},
    })
}

fn build(dir: &Path) -> Result<VmSpec, SpecError> {
    let namespace = Namespace::try_from("default").unwrap();
    let id = ContainerId::try_from("demo").unwrap();
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
            accel: Accel::Auto,
            ..Config::default()
        },
        cpu: Cpu {
            has_flag: true,
            has_device: true,
        },
        host_address: None,
        nics: &[],
    })
}

fn line(spec: &VmSpec) -> String {
    let args = args::args(spec, &"a".repeat(32), &Numbers::counted(spec, 3));
    args.iter()
        .map(|arg| arg.to_str().unwrap())
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn the_closure_says_how_to_boot_and_the_host_has_the_last_word() {
    let dir = tempfile::tempdir().unwrap();
    let params = ["init=/evil", "root=/dev/sda", "quiet"];
    bundle(
        dir.path(),
        &boot(&params),
        &json!({"seed.loom.farm/kernel_params": "debug"}),
    );
    let line = line(&build(dir.path()).unwrap());
    let wanted = "-append init=/evil root=/dev/sda quiet debug init=/nix/store/x/init root=seedroot \
                  rootfstype=virtiofs rw console=ttyS0 panic=-1 seed.beacon_port=1030 \
                  systemd.machine_id=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    assert!(line.contains(wanted), "{line}");
    assert!(
        line.contains("-bios qboot.rom") && line.contains("-accel kvm"),
        "{line}"
    );
    assert!(
        line.contains("-smp 1") && line.contains("size=1024M"),
        "{line}"
    );
}

#[test]
fn settings_of_the_kernel_are_its_parameters() {
    let dir = tempfile::tempdir().unwrap();
    bundle(dir.path(), &boot(&[]), &json!({}));
    let file = dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let set = |config: &mut Value, name: &str, value: &str| {
        config["linux"]["sysctl"][name] = value.into();
        fs::write(&file, config.to_string()).unwrap();
    };
    set(&mut config, "net.ipv4.ping_group_range", "0 2147483647");
    set(&mut config, "net.ipv4.ip_unprivileged_port_start", "0");
    let line = line(&build(dir.path()).unwrap());
    let wanted = "sysctl.net.ipv4.ip_unprivileged_port_start=0 \
                  sysctl.net.ipv4.ping_group_range=\"0 2147483647\" systemd.machine_id=";
    assert!(line.contains(wanted), "{line}");
    set(&mut config, "kernel.core_pattern", "|/bin/sh init=/bin/sh");
    let error = build(dir.path()).unwrap_err().to_string();
    assert!(error.starts_with("sysctl kernel.core_pattern: "), "{error}");
}

#[test]
fn a_closure_that_mounts_its_root_by_its_fstab_is_left_to_it() {
    let dir = tempfile::tempdir().unwrap();
    bundle(dir.path(), &boot(&["root=fstab"]), &json!({}));
    let line = line(&build(dir.path()).unwrap());
    let wanted = "-append root=fstab init=/nix/store/x/init rw console=ttyS0";
    assert!(line.contains(wanted), "{line}");
}

#[test]
fn annotations_override_the_closure() {
    let dir = tempfile::tempdir().unwrap();
    let annotations = json!({
        "seed.loom.farm/size": "m", "seed.loom.farm/memory_mib": "768",
        "seed.loom.farm/accel": "tcg", "seed.loom.farm/network": "user",
    });
    bundle(dir.path(), &boot(&[]), &annotations);
    let line = line(&build(dir.path()).unwrap());
    assert!(
        line.contains("-smp 2") && line.contains("-m 768M"),
        "{line}"
    );
    assert!(
        line.contains("-accel tcg,tb-size=128 ") && line.contains("-netdev user,id=net0"),
        "{line}"
    );
}

#[test]
fn each_size_is_so_many_processors_and_so_much_memory() {
    for (size, vcpus, memory_mib) in [
        ("xs", 1, 512),
        ("s", 1, 1024),
        ("m", 2, 2048),
        ("l", 4, 4096),
        ("xl", 8, 8192),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let annotation = json!({"seed.loom.farm/size": size});
        bundle(dir.path(), &boot(&[]), &annotation);
        let line = line(&build(dir.path()).unwrap());
        for wanted in [
            format!(" -smp {vcpus} -m {memory_mib}M "),
            format!(" memory-backend-memfd,id=mem,size={memory_mib}M,share=on "),
        ] {
            assert!(line.contains(&wanted), "{size}: {wanted} in {line}");
        }
    }
}

#[test]
fn a_command_line_that_the_kernel_would_cut_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(2048);
    bundle(dir.path(), &boot(&[long.as_str()]), &json!({}));
    let error = build(dir.path()).unwrap_err();
    assert!(matches!(error, SpecError::Cmdline(_)), "{error}");
}
