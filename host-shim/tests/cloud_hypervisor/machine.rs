//! A spec and a TPM state in folders of their own, and the programs to launch it with.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use seed_shim::{
    config::{Accel, Config, Limits, Programs},
    names::{ContainerId, Namespace},
    paths::Paths,
    spec::{self, Annotations, Bundle, Cpu, Inputs, VmSpec},
    tpm::StateDir,
    vmm::{Machine, VmEnd, VmEvent, Vmm, VmmError, VmmKind, cloud_hypervisor::CloudHypervisor},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::timeout;

/// Far more than any end takes.
pub(crate) const END_LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Lab {
    pub(crate) dir: TempDir,
    pub(crate) spec: VmSpec,
    pub(crate) programs: Programs,
    config: Config,
    tpm: StateDir,
}

impl Lab {
    /// Over stand-ins, of which Cloud Hypervisor's does as `how` says.
    pub(crate) fn new(how: &str) -> Self {
        Self::with(how, |_| {})
    }

    pub(crate) fn with(how: &str, limits: impl FnOnce(&mut Limits)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = |name: &str| stand_in(dir.path(), name, how);
        let programs = Programs {
            cloud_hypervisor: program("cloud-hypervisor"),
            virtiofsd: program("virtiofsd"),
            swtpm: program("swtpm"),
            ..Programs::default()
        };
        let mut kernel = vec![0; 1024];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        Self::over(dir, programs, &kernel, limits)
    }

    /// Over these programs and this kernel.
    pub(crate) fn over(
        dir: TempDir,
        programs: Programs,
        kernel: &[u8],
        limits: impl FnOnce(&mut Limits),
    ) -> Self {
        let mut config = Config {
            run_dir: dir.path().join("run"),
            state_dir: dir.path().join("state"),
            vmm: VmmKind::CloudHypervisor,
            ..Config::default()
        };
        config.growth.max_vcpus = 2;
        config.growth.max_memory_mib = 640;
        limits(&mut config.limits);
        bundle(dir.path(), kernel);
        let spec = build(dir.path(), &config);
        fs::create_dir_all(spec.paths.vsock_dir()).unwrap();
        let tpm = StateDir::lock(&spec.paths).unwrap();
        Self {
            dir,
            spec,
            programs,
            config,
            tpm,
        }
    }

    pub(crate) async fn launch(&self) -> Result<Machine, VmmError> {
        let limits = self.config.limits.clone();
        let vmm = CloudHypervisor::new(self.programs.clone(), limits);
        vmm.launch(&self.spec, &self.tpm).await
    }

    /// The same for a host without KVM.
    pub(crate) fn without_kvm(&self) -> VmSpec {
        let config = Config {
            accel: Accel::Tcg,
            ..self.config.clone()
        };
        build(self.dir.path(), &config)
    }

    /// How many of its programs run.
    pub(crate) fn runs(&self) -> usize {
        let all = fs::read_dir("/proc").unwrap().flatten();
        let lines = all.filter_map(|one| fs::read_to_string(one.path().join("cmdline")).ok());
        let here = self.dir.path().to_str().unwrap();
        lines.filter(|line| line.contains(here)).count()
    }

    pub(crate) fn assert_nothing_runs(&self, machine: &Machine) {
        for one in &machine.processes {
            let stat = fs::read_to_string(format!("/proc/{}/cmdline", one.pid));
            let here = self.dir.path().to_str().unwrap();
            let runs = stat.is_ok_and(|line| line.contains(here));
            assert!(!runs, "{} still runs", one.name);
        }
    }
}

fn bundle(dir: &Path, kernel: &[u8]) {
    let system = dir.join("rootfs/system");
    fs::create_dir_all(&system).unwrap();
    fs::write(system.join("kernel"), kernel).unwrap();
    let boot = json!({
        "org.nixos.bootspec.v1": {
            "init": "/system/init", "kernel": "/system/kernel", "kernelParams": [],
        },
        "farm.loom.seed.v1": {"size": "xs"},
    });
    fs::write(system.join("boot.json"), boot.to_string()).unwrap();
    let image = dir.join("data,1.img");
    fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let config = json!({
        "process": {"args": ["/system/init"], "env": []},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/seed/storage/data", "type": "ext4", "source": image,
                    "options": ["x-seed.name=data"]}],
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
}

fn build(dir: &Path, config: &Config) -> VmSpec {
    let namespace = Namespace::try_from("default").unwrap();
    let id = ContainerId::try_from("demo").unwrap();
    let bundle = Bundle::read(dir).unwrap();
    spec::build(&Inputs {
        namespace: &namespace,
        id: &id,
        paths: &Paths::new(config).instance(&namespace, &id),
        rootfs: &bundle.root,
        annotations: &Annotations::parse(&bundle.annotations).unwrap(),
        bundle: &bundle,
        pod: &Default::default(),
        config,
        cpu: Cpu {
            has_flag: true,
            has_device: true,
        },
        host_address: None,
        nics: &[],
    })
    .unwrap()
}

/// A program of this name that is [`crate::stand_in`] in this test's own binary.
fn stand_in(dir: &Path, name: &str, how: &str) -> PathBuf {
    let path = dir.join(name);
    let this = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\nexport STAND_IN='{name}' STAND_IN_HOW='{how}'\nfor arg; do STAND_IN_ARGS=\"$STAND_IN_ARGS$arg\n\"; done\n\
         export STAND_IN_ARGS\nexec '{}' --exact stand_in::program --nocapture '{}'\n",
        this.display(),
        // A second filter that matches nothing: it names the folder for whoever looks at its command line.
        dir.display(),
    );
    seed_script::write(&path, &script);
    path
}

pub(crate) fn kill(machine: &Machine, name: &str, signal: &str) {
    let victim = machine.processes.iter().find(|one| one.name == name);
    let pid = victim.unwrap().pid.to_string();
    let done = Command::new("kill").args(["-s", signal, &pid]).status();
    assert!(done.unwrap().success());
}

/// The end, whatever is told before it.
pub(crate) async fn next_end(machine: &mut Machine) -> VmEnd {
    let ended = async {
        loop {
            if let VmEvent::Ended(end) = machine.events.recv().await.unwrap() {
                return end;
            }
        }
    };
    timeout(END_LIMIT, ended).await.unwrap()
}
