//! The NixOS module and the shim mean the same: `seed.meta` as the module makes it (golden files that its own
//! tests compare with) is read from a `boot.json`, sizes are the same on both sides, the host module's settings are
//! a configuration, and its runtime is the one of the operator's page.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails here fails the test"
)]

use std::{fs, path::Path};

use seed_shim::{
    config::Config,
    names::{ContainerId, VolumeName},
    spec::{ANNOTATION_PREFIX, BootSpec, KATA_PREFIX, Size, parse_size},
};
use serde_json::{Value, json};

fn golden(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nixos-guest-module/tests/golden");
    serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap()
}

/// A closure's `boot.json` with this extension.
fn boot_spec(extension: &Value) -> BootSpec {
    let toplevel = "/nix/store/00000000000000000000000000000000-nixos-system-web";
    let document = json!({
        "org.nixos.bootspec.v1": {
            "system": "x86_64-linux",
            "label": "NixOS",
            "toplevel": toplevel,
            "init": format!("{toplevel}/init"),
            "kernel": "/nix/store/11111111111111111111111111111111-linux/bzImage",
            "kernelParams": ["panic=-1", "root=fstab"],
            "initrd": "/nix/store/22222222222222222222222222222222-initrd/initrd",
            "initrdSecrets": format!("{toplevel}/append-initrd-secrets"),
        },
        "org.nixos.specialisation.v1": {},
        "farm.loom.seed.v1": extension,
    });
    BootSpec::parse(&document.to_string()).unwrap()
}

#[test]
fn the_shim_reads_what_the_options_say() {
    let small = boot_spec(&golden("small.meta.json")).seed;
    assert_eq!(small.name.as_deref(), Some("small"));
    assert_eq!(small.size, Some(Size::Xs));
    assert!(small.storage.is_empty());

    let full = boot_spec(&golden("full.meta.json")).seed;
    assert_eq!(full.size, Some(Size::M));
    let volume = |name| &full.storage[&VolumeName::try_from(name).unwrap()];
    assert_eq!(volume("data").size_bytes, Some(1 << 30));
    assert_eq!(volume("data").mount_point, Path::new("/seed/storage/data"));
    assert_eq!(volume("data").user, None);
    assert_eq!(volume("db").size_bytes, Some(10 << 30));
    assert_eq!(volume("db").mount_point, Path::new("/var/lib/db"));
    assert_eq!(volume("db").user.as_deref(), Some("app"));
    assert_eq!(volume("db").group.as_deref(), Some("app"));
    assert_eq!(volume("db").mode.as_deref(), Some("0750"));
}

#[test]
fn an_instances_name_is_a_container_id() {
    for file in ["small.meta.json", "full.meta.json"] {
        let name = golden(file)["name"].as_str().unwrap().to_owned();
        assert!(ContainerId::try_from(name.as_str()).is_ok(), "{name}");
    }
}

#[test]
fn sizes_of_instances_are_the_modules() {
    let sizes = golden("rules.json")["sizes"].clone();
    for (name, tier) in sizes.as_object().unwrap() {
        let size: Size = name.parse().unwrap();
        let ours = json!({ "vcpus": size.vcpus().get(), "memoryMiB": size.memory().get() });
        assert_eq!(&ours, tier, "{name}");
    }
}

#[test]
fn sizes_of_volumes_are_the_modules() {
    let quantities = golden("rules.json")["quantities"].clone();
    for (text, bytes) in quantities.as_object().unwrap() {
        assert_eq!(parse_size(text).ok(), bytes.as_u64(), "{text:?}");
    }
}

/// An annotation that containerd keeps back is a wish that nobody hears.
#[test]
fn the_operators_page_tells_the_runtime_of_the_host_module_which_passes_on_what_the_shim_takes() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operator.md");
    let page = fs::read_to_string(page).unwrap();
    let begin = "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.seed]";
    let from = page.find(begin).unwrap();
    let (sample, _) = page[from..].split_once("```").unwrap();
    let sample: Value = toml::from_str(sample).unwrap();
    let runtimes = &sample["plugins"]["io.containerd.grpc.v1.cri"]["containerd"]["runtimes"];
    let runtime = golden("runtime.json");
    assert_eq!(runtimes["seed"], runtime);

    let kata = Config::default().enable_annotations;
    let kata = kata.iter().map(|name| format!("{KATA_PREFIX}{name}"));
    let passed: Vec<_> = [format!("{ANNOTATION_PREFIX}*")]
        .into_iter()
        .chain(kata)
        .collect();
    assert_eq!(runtime["pod_annotations"], json!(passed));
    assert_eq!(runtime["container_annotations"], json!(passed));
}

#[test]
fn the_host_modules_settings_are_a_configuration() {
    let config: Config = serde_json::from_value(golden("shim.json")).unwrap();
    let ours = Config::default();
    assert_eq!(config.vmm, ours.vmm);
    assert_eq!(config.programs, ours.programs);
    assert_eq!(config.enable_annotations, ours.enable_annotations);
}
