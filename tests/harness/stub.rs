//! Stand-ins for QEMU and its daemons, and the smallest closure that the shim takes: an instance over them starts
//! in a tenth of a second. The program behind all of them is `tests/stub/`, whose path a case knows.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::{Context, Result};
use serde_json::json;

/// Keys of the shim's configuration, and the names under which the stub is called.
const STUBS: [(&str, &str); 4] = [
    ("qemu", "stub-qemu"),
    ("virtiofsd", "stub-virtiofsd"),
    ("swtpm", "stub-swtpm"),
    ("vsock", "stub-vsock"),
];

/// The init program in [`root`].
pub const INIT: &str = "/seed-system/init";

/// Links to the stub `program` in a new folder; lines for the shim's configuration that name them.
pub fn programs(folder: &Path, program: &Path) -> Result<String> {
    fs::create_dir(folder).with_context(|| format!("make {}", folder.display()))?;
    // The stub for QEMU makes sockets in the shim's folders: it is no user of its own.
    let mut config = "[users]\ncount = 0\n[programs]\n".to_owned();
    for (key, name) in STUBS {
        let link = folder.join(name);
        symlink(program, &link).with_context(|| format!("make {}", link.display()))?;
        config.push_str(&format!("{key} = {link:?}\n"));
    }
    Ok(config)
}

/// The closure, in a new folder.
pub fn root(folder: &Path) -> Result<()> {
    let system = folder.join("seed-system");
    fs::create_dir_all(&system)?;
    let mut kernel = vec![0; 1024];
    // The magic of the Linux boot protocol.
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    fs::write(system.join("kernel"), kernel)?;
    for name in ["initrd", "init"] {
        fs::write(system.join(name), name)?;
    }
    let boot = json!({
        "org.nixos.bootspec.v1": {
            "init": INIT, "kernel": "/seed-system/kernel",
            "initrd": "/seed-system/initrd", "kernelParams": ["quiet"],
        },
        "farm.loom.seed.v1": {"name": "stub", "size": "xs"},
    });
    fs::write(system.join("boot.json"), boot.to_string()).context("write boot.json")
}
