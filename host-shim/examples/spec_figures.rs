//! What the host's side of many volumes takes, without a machine: `spec_figures VOLUMES RUNS` prints the median, in
//! milliseconds, of reading bundles with so many volumes, checking them, and making QEMU's command lines of them, and the most
//! memory that it had (`VmHWM`, proc_pid_status(5)), in KiB. An instance has at most 16 volumes, so more are those of several. For
//! `cargo xtask bench growth`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "figures go to the standard output")]

use std::{env, error::Error, fs, path::Path, time::Instant};

use seed_shim::{
    config::Config,
    names::{ContainerId, Namespace},
    paths::Paths,
    spec::{self, Annotations, Bundle, Cpu, Inputs},
    vmm::qemu::args::{self, Numbers},
};
use serde_json::json;

/// What one instance can have.
const EACH: usize = 16;

/// A closure with a kernel of this format, and a volume for each number.
fn bundle(dir: &Path, volumes: usize) -> Result<(), Box<dyn Error>> {
    let system = dir.join("rootfs/system");
    fs::create_dir_all(&system)?;
    fs::write(system.join("vmlinux"), b"\x7fELF and more")?;
    let boot = json!({
        "org.nixos.bootspec.v1": { "init": "/system/init", "kernel": "/system/vmlinux", "kernelParams": [] },
    });
    fs::write(system.join("boot.json"), boot.to_string())?;
    let mount = |number: usize| -> Result<_, Box<dyn Error>> {
        let image = dir.join(format!("{number}.img"));
        fs::File::create(&image)?.set_len(1 << 20)?;
        let options = [
            "rw".to_owned(),
            format!("x-seed.name=v{number}"),
            "x-seed.user=app".to_owned(),
            "x-seed.mode=0750".to_owned(),
        ];
        let place = format!("/seed/storage/v{number}");
        Ok(json!({ "type": "ext4", "source": image, "destination": place, "options": options }))
    };
    let mounts = (0..volumes).map(mount).collect::<Result<Vec<_>, _>>()?;
    let config = json!({
        "process": { "args": ["/system/init"], "env": ["A=1"] },
        "root": { "path": "rootfs" },
        "mounts": mounts,
    });
    fs::write(dir.join("config.json"), config.to_string())?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = env::args().skip(1);
    let mut number = || words.next().ok_or("VOLUMES RUNS").map(|word| word.parse());
    let (volumes, runs): (usize, usize) = (number()??, number()??);
    let dir = tempfile::tempdir()?;
    let bundles: Vec<_> = (0..volumes.div_ceil(EACH))
        .map(|number| {
            let path = dir.path().join(number.to_string());
            bundle(&path, EACH.min(volumes - number * EACH)).map(|()| path)
        })
        .collect::<Result<_, _>>()?;
    let mut took = Vec::new();
    for _ in 0..runs.max(1) {
        let begin = Instant::now();
        let mut disks = 0;
        for bundle in &bundles {
            disks += prepare(bundle)?;
        }
        took.push(begin.elapsed().as_secs_f64() * 1e3);
        if disks != volumes {
            return Err(format!("{disks} disks of {volumes}").into());
        }
    }
    took.sort_by(f64::total_cmp);
    println!(
        "{}",
        json!({ "ms": took[took.len() / 2], "kib": most_memory()?, "volumes": volumes })
    );
    Ok(())
}

fn most_memory() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let most = most.and_then(|rest| rest.split_whitespace().next());
    Ok(most.ok_or("no VmHWM")?.parse()?)
}

/// From a bundle to a command line; how many disks stand on it.
fn prepare(path: &Path) -> Result<usize, Box<dyn Error>> {
    let namespace = Namespace::try_from("default")?;
    let id = ContainerId::try_from("figures")?;
    let config = Config::default();
    let bundle = Bundle::read(path)?;
    let spec = spec::build(&Inputs {
        namespace: &namespace,
        id: &id,
        paths: &Paths::new(&config).instance(&namespace, &id),
        rootfs: &bundle.root,
        annotations: &Annotations::parse(&bundle.annotations)?,
        bundle: &bundle,
        pod: &Default::default(),
        config: &config,
        cpu: Cpu {
            has_flag: false,
            has_device: false,
        },
        host_address: None,
        nics: &[],
    })?;
    let line = args::args(&spec, &"a".repeat(32), &Numbers::counted(&spec, 3));
    let disks = line
        .iter()
        .filter(|word| word.to_string_lossy().starts_with("virtio-blk-pci"));
    Ok(disks.count())
}
