//! The base of the guest root: Debian trixie by mmdebstrap, its cloud kernel, the modules that a Seed
//! VM needs, and a small initrd that mounts the root by virtiofs.
//!
//! In the folder: `root/`, `kernel`, `initrd`. Load order of modules comes from depmod's `modules.dep`
//! (see modules.dep(5): what a module needs stands behind it, to be loaded from right to left).

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::util::{self, Fingerprint, Places, read};

/// The release that stands in for a closure: systemd 257, kernel 6.12.
const SUITE: &str = "trixie";
/// What a guest needs beyond the essential packages. A closure has the programs of the file systems that it uses;
/// this one stands in for all closures.
const PACKAGES: &str =
    "age,btrfs-progs,dbus,e2fsprogs,erofs-utils,iproute2,kmod,systemd,systemd-sysv,udev,xfsprogs";
/// Where Debian is when the host's apt does not say.
const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";
/// Settings of the host's apt that say how to reach a mirror and what to accept.
const APT_SETTINGS: &[&str] = &[
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
    "Acquire::Check-Valid-Until",
    "Acquire::Retries",
];
/// Nobody reads manuals in this guest.
const EXCLUDED: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
];
/// Run by mmdebstrap with the new root as `$1`: kernel and busybox are unpacked beside it, by the same
/// verified package lists, but never installed (the kernel package would build an initrd of its own).
const KERNEL_HOOK: &str = r#"set -e
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
kernel=$(apt-cache show linux-image-cloud-amd64 | sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p' | head -n 1)
mkdir -p "$1/../packages"
cd "$1/../packages"
apt-get -o APT::Sandbox::User=root download "$kernel" busybox-static
for package in *.deb; do dpkg-deb -x "$package" unpacked; done
"#;
/// Loaded by the initrd, so that devices and vsock are there before systemd starts.
const EARLY_MODULES: &[&str] = &[
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "vmw_vsock_virtio_transport",
];
/// Also in the root, for udev to load when the device is there, and for the kernel when it is to be mounted.
/// The last ones are for a guest that is itself a host, with pods in it.
const ROOT_MODULES: &[&str] = &[
    "virtio_net",
    "vsock_loopback",
    "xfs",
    "btrfs",
    "erofs",
    "overlay",
    "tun",
    "veth",
    "bridge",
    "sch_ingress",
    "cls_u32",
    "act_mirred",
];
/// What the initrd's shell script calls.
const APPLETS: &[&str] = &["sh", "mount", "insmod", "switch_root", "cat", "sleep"];
const INITRD_INIT: &str = include_str!("../../guest-initrd/init");

/// Of everything that the base is made from.
pub(super) fn fingerprint() -> String {
    let mut print = Fingerprint::new();
    for piece in [
        SUITE,
        PACKAGES,
        KERNEL_HOOK,
        INITRD_INIT,
        include_str!("base.rs"),
    ] {
        print.add(piece.as_bytes());
    }
    print.hex()
}

/// Makes `root/`, `kernel` and `initrd` in `folder`.
pub(super) fn build(places: &Places, folder: &Path) -> Result<()> {
    let root = folder.join("root");
    bootstrap(places, &root)?;
    let packages = folder.join("packages");
    let unpacked = packages.join("unpacked");
    let versions = unpacked.join("usr/lib/modules");
    let version = fs::read_dir(&versions)
        .with_context(|| format!("read {}", versions.display()))?
        .flatten()
        .next()
        .context("the kernel package has no modules")?
        .file_name();
    let version = version.to_string_lossy();
    let kernel = unpacked.join(format!("boot/vmlinuz-{version}"));
    fs::copy(&kernel, folder.join("kernel"))
        .with_context(|| format!("copy {}", kernel.display()))?;
    let modules = Modules::new(versions.join(&*version), &root, &version)?;
    let early = modules.load_order(EARLY_MODULES)?;
    initrd(folder, &unpacked.join("usr/bin/busybox"), &modules, &early)?;
    modules.install(&early)?;
    modules.install(&modules.load_order(ROOT_MODULES)?)?;
    depmod(&root, &version)?;
    fs::remove_dir_all(&packages).context("remove the unpacked packages")
}

fn bootstrap(places: &Places, root: &Path) -> Result<()> {
    let mut command = Command::new("mmdebstrap");
    command.args(["--variant=minbase", "--mode=root"]);
    command.arg(format!("--include={PACKAGES}"));
    command.arg("--aptopt=APT::Install-Recommends \"false\"");
    for setting in host_apt_settings()? {
        command.arg(format!("--aptopt={setting}"));
    }
    for path in EXCLUDED {
        command.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    command.arg(format!("--customize-hook={KERNEL_HOOK}"));
    command.arg(SUITE).arg(root).arg(mirror()?);
    command.env("PATH", places.path_variable());
    util::step(places, "guest base (mmdebstrap)", &mut command)
}

/// The host's own Debian mirror.
pub(crate) fn mirror() -> Result<String> {
    let format = "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)";
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", format, "Created-By: Packages"]);
    // Not every host has apt (`nix develop`).
    let text = read(&mut command).unwrap_or_default();
    let uri = text
        .lines()
        .find_map(|line| line.strip_prefix("Debian|Debian|main|"));
    Ok(uri
        .unwrap_or(DEFAULT_MIRROR)
        .trim_end_matches('/')
        .to_owned())
}

fn host_apt_settings() -> Result<Vec<String>> {
    let text = read(Command::new("apt-config").arg("dump")).unwrap_or_default();
    let known = |line: &&str| {
        let name = line.split_whitespace().next().unwrap_or_default();
        APT_SETTINGS.contains(&name)
    };
    Ok(text.lines().filter(known).map(str::to_owned).collect())
}

fn depmod(root: &Path, version: &str) -> Result<()> {
    read(Command::new("chroot").arg(root).args(["depmod", version])).map(drop)
}

/// The kernel package's modules, and those that the root keeps.
struct Modules {
    from: PathBuf,
    to: PathBuf,
    /// Each module's path, then the paths of what it needs.
    dependencies: Vec<Vec<String>>,
}

impl Modules {
    fn new(from: PathBuf, root: &Path, version: &str) -> Result<Self> {
        let to = root.join("usr/lib/modules").join(version);
        // depmod is in the guest, not always on the host: it looks at a copy there.
        copy_tree(&from, &to)?;
        depmod(root, version)?;
        let text = fs::read_to_string(to.join("modules.dep")).context("read modules.dep")?;
        let dependencies = text
            .lines()
            .map(|line| line.replacen(':', "", 1))
            .map(|line| line.split_whitespace().map(str::to_owned).collect())
            .collect();
        fs::remove_dir_all(&to).context("empty the module folder")?;
        fs::create_dir_all(&to)?;
        for list in [
            "modules.builtin",
            "modules.builtin.modinfo",
            "modules.order",
        ] {
            fs::copy(from.join(list), to.join(list)).with_context(|| format!("copy {list}"))?;
        }
        Ok(Self {
            from,
            to,
            dependencies,
        })
    }

    /// Paths of these modules and all that they need, first things first.
    fn load_order(&self, names: &[&str]) -> Result<Vec<String>> {
        let mut order: Vec<String> = Vec::new();
        for name in names {
            let entry = self
                .dependencies
                .iter()
                .find(|entry| entry.first().is_some_and(|path| module_name(path) == *name));
            let Some(entry) = entry else {
                bail!("the kernel has no module {name}");
            };
            for path in entry.iter().rev() {
                if !order.contains(path) {
                    order.push(path.clone());
                }
            }
        }
        Ok(order)
    }

    /// Puts modules into the root.
    fn install(&self, paths: &[String]) -> Result<()> {
        for path in paths {
            let target = self.to.join(path);
            if let Some(folder) = target.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::copy(self.from.join(path), &target).with_context(|| format!("copy {path}"))?;
        }
        Ok(())
    }
}

/// `kernel/drivers/char/hw_random/virtio-rng.ko.xz` is `virtio_rng`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let name = file.split(".ko").next().unwrap_or(file);
    name.replace('-', "_")
}

/// A cpio of busybox, the early modules (unpacked: emulated guests are slow at it) and `init`.
fn initrd(folder: &Path, busybox: &Path, modules: &Modules, early: &[String]) -> Result<()> {
    let tree = folder.join("packages/initrd");
    for name in ["bin", "dev", "proc", "sys", "root", "modules"] {
        fs::create_dir_all(tree.join(name))?;
    }
    fs::copy(busybox, tree.join("bin/busybox")).context("copy busybox")?;
    for applet in APPLETS {
        symlink("busybox", tree.join("bin").join(applet))?;
    }
    let mut list = String::new();
    for path in early {
        let name = format!("{}.ko", module_name(path));
        let target = File::create(tree.join("modules").join(&name))?;
        let mut unpack = Command::new("xz");
        unpack
            .args(["--decompress", "--stdout"])
            .arg(modules.from.join(path));
        let ended = unpack.stdout(target).status().context("start xz")?;
        ensure!(ended.success(), "xz on {path}: {ended}");
        list.push_str(&format!("/modules/{name}\n"));
    }
    fs::write(tree.join("modules/list"), list)?;
    let init = tree.join("init");
    fs::write(&init, INITRD_INIT)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&init, mode)?;
    let archive = File::create(folder.join("initrd"))?;
    let ended = Command::new("sh")
        .args([
            "-c",
            "find . | LC_ALL=C sort | cpio --create --format=newc --quiet",
        ])
        .current_dir(&tree)
        .stdin(Stdio::null())
        .stdout(archive)
        .status()
        .context("start cpio")?;
    ensure!(ended.success(), "cpio: {ended}");
    Ok(())
}

/// Copies a tree with owners, modes and times.
pub(super) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut command = Command::new("cp");
    command.args(["--archive", "--reflink=auto", "--no-target-directory"]);
    read(command.arg(from).arg(to)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_is_loaded_before_it() {
        let modules = Modules {
            from: PathBuf::new(),
            to: PathBuf::new(),
            dependencies: vec![
                vec!["k/c.ko.xz".into(), "k/b.ko.xz".into(), "k/a-a.ko.xz".into()],
                vec!["k/d.ko.xz".into(), "k/a-a.ko.xz".into()],
            ],
        };
        let order = modules.load_order(&["c", "d"]).expect("known");
        assert_eq!(
            order,
            ["k/a-a.ko.xz", "k/b.ko.xz", "k/c.ko.xz", "k/d.ko.xz"]
        );
        assert!(modules.load_order(&["e"]).is_err());
    }

    #[test]
    fn module_names_are_the_kernels() {
        assert_eq!(module_name("kernel/x/virtio-rng.ko.xz"), "virtio_rng");
        assert_eq!(module_name("vsock.ko"), "vsock");
    }
}
