//! Every path on the host that the shim and the command line use. Nothing here touches the disk.
//!
//! Two roots: `run_dir` is gone after a reboot of the host, `state_dir` is not. Everything that belongs
//! to one running VM is under one directory, so that a clean-up after a crash has one place to look at.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{
    config::Config,
    names::{ContainerId, Namespace, VolumeName},
    text::hex,
};

/// What `sockaddr_un.sun_path` holds, less the final zero byte (unix(7)).
pub const MAX_SOCKET_PATH_BYTES: usize = 107;

/// The folder of the Task API's sockets, beside those of the namespaces. No namespace begins with a dot.
const SOCKETS: &str = ".s";

/// Sockets of the vsock device, in its folder. Short: with the longest id that containerd makes they must fit into
/// [`MAX_SOCKET_PATH_BYTES`].
pub(crate) const VSOCK: &str = "sock";
pub(crate) const VHOST: &str = "vhost";

/// The folder of locks on users' numbers below the run directory.
const USERS: &str = ".u";

/// The lock in a folder of TPM state.
pub(crate) const TPM_LOCK: &str = "lock";

/// The machine id in a folder of TPM state.
pub(crate) const TPM_MACHINE_ID: &str = "machine-id";

/// A socket's path is longer than the kernel takes.
#[derive(Debug, Error)]
#[error("socket path {} has {length} bytes, more than the {MAX_SOCKET_PATH_BYTES} that Linux takes: use a shorter run_dir, namespace or id", path.display())]
pub struct SocketPathError {
    /// The path.
    pub path: PathBuf,
    /// Its length.
    pub length: usize,
}

/// The two roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    run_dir: PathBuf,
    state_dir: PathBuf,
}

impl Paths {
    /// The roots that the configuration names.
    pub fn new(config: &Config) -> Self {
        Self {
            run_dir: config.run_dir.clone(),
            state_dir: config.state_dir.clone(),
        }
    }

    /// `<run>`.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// `<state>`.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// `<state>/tpm`, `<state>/volumes`, `<state>/logs`: a folder per namespace in each, with one per instance in that.
    pub fn kept_roots(&self) -> [PathBuf; 3] {
        ["tpm", "volumes", "logs"].map(|name| self.state_dir.join(name))
    }

    /// `<run>/<ns>`: one folder per instance in it.
    pub fn namespace_dir(&self, namespace: &Namespace) -> PathBuf {
        self.run_dir.join(namespace)
    }

    /// The socket of the Task API. It must be a pure function of its arguments, so that every `start`
    /// for the same group finds the same shim.
    pub fn task_socket(
        &self,
        namespace: &Namespace,
        group: &ContainerId,
        address: &str,
    ) -> PathBuf {
        let mut hash = Sha256::new();
        for part in [namespace.as_str(), group.as_str(), address] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        let name = hex(&hash.finalize()[..16]);
        self.run_dir.join(SOCKETS).join(name)
    }

    /// The paths of one instance.
    pub fn instance(&self, namespace: &Namespace, id: &ContainerId) -> InstancePaths {
        let name = Path::new(namespace.as_str()).join(id);
        InstancePaths {
            users: self.run_dir.join(USERS),
            run: self.run_dir.join(&name),
            tpm: self.state_dir.join("tpm").join(&name),
            volumes: self.state_dir.join("volumes").join(&name),
            logs: self.state_dir.join("logs").join(&name),
            layers: self.state_dir.join("layers").join(&name),
        }
    }
}

/// The paths of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstancePaths {
    users: PathBuf,
    run: PathBuf,
    tpm: PathBuf,
    volumes: PathBuf,
    logs: PathBuf,
    layers: PathBuf,
}

impl InstancePaths {
    /// The same, but what stays is kept under another name than the id.
    #[must_use]
    pub fn kept_as(mut self, name: &str) -> Self {
        for path in [
            &mut self.tpm,
            &mut self.volumes,
            &mut self.logs,
            &mut self.layers,
        ] {
            path.set_file_name(name);
        }
        self
    }

    /// The name that what stays is kept under.
    pub fn kept_under(&self) -> &OsStr {
        // It ends with the name that it was made of.
        self.tpm.file_name().unwrap_or_default()
    }

    /// `<run>/<ns>/<id>`.
    pub fn run_dir(&self) -> &Path {
        &self.run
    }

    /// The bundle that `seed run` makes. Under containerd the bundle is containerd's and elsewhere.
    pub fn bundle(&self) -> PathBuf {
        self.run.join("bundle")
    }

    /// The command line's record of how the instance was started.
    pub fn record(&self) -> PathBuf {
        self.run.join("instance.json")
    }

    /// Says under which name the instance keeps what stays, where that is not its id: for who knows the id alone.
    pub fn kept_name(&self) -> PathBuf {
        self.run.join("kept-as")
    }

    /// The management socket.
    pub fn management_socket(&self) -> PathBuf {
        self.run.join("management.sock")
    }

    /// What belongs to the running VM alone. Removed when it ends.
    pub fn vm_dir(&self) -> PathBuf {
        self.run.join("vm")
    }

    /// Says which users' numbers are taken. All instances of the run directory share it.
    pub fn users_dir(&self) -> &Path {
        &self.users
    }

    /// The folder of the vsock device: its user's own, and so with what only that one makes.
    pub fn vsock_dir(&self) -> PathBuf {
        self.vm_dir().join("vsock")
    }

    /// Where the host dials the guest (`CONNECT <port>`).
    pub fn vsock_socket(&self) -> PathBuf {
        self.vsock_dir().join(VSOCK)
    }

    /// Where connections from the guest to a host port arrive: `sock_<port>`.
    pub fn vsock_listener(&self, port: u32) -> PathBuf {
        self.vsock_dir().join(format!("{VSOCK}_{port}"))
    }

    /// vhost-user socket between the vsock device and the VMM.
    pub fn vhost_socket(&self) -> PathBuf {
        self.vsock_dir().join(VHOST)
    }

    /// swtpm's control socket.
    pub fn tpm_socket(&self) -> PathBuf {
        self.vm_dir().join("tpm.sock")
    }

    /// vhost-user socket between virtiofsd and the VMM, for the root.
    pub fn virtiofs_socket(&self) -> PathBuf {
        self.vm_dir().join("virtiofs.sock")
    }

    /// The same, for what the host shares beside the root.
    pub fn share_socket(&self) -> PathBuf {
        self.vm_dir().join("share.sock")
    }

    /// Where that is put together. Not below [`InstancePaths::vm_dir`]: that is removed with its content.
    pub fn share_dir(&self) -> PathBuf {
        self.run.join("share")
    }

    /// Cloud Hypervisor's API.
    pub fn api_socket(&self) -> PathBuf {
        self.vm_dir().join("api.sock")
    }

    /// What the guest's serial console printed, bounded.
    pub fn console_log(&self) -> PathBuf {
        self.vm_dir().join("console.log")
    }

    /// What a helper program printed: `<name>.log`.
    pub fn helper_log(&self, name: &str) -> PathBuf {
        self.vm_dir().join(format!("{name}.log"))
    }

    /// Pids of the shim and its children, for a clean-up after a crash.
    pub fn pids(&self) -> PathBuf {
        self.vm_dir().join("pids.json")
    }

    /// The control groups of the running VM, for the same.
    pub fn cgroups(&self) -> PathBuf {
        self.vm_dir().join("cgroups.json")
    }

    /// Kept after a failed start: the console log moves here when `vm_dir` is removed.
    pub fn failed_console_log(&self) -> PathBuf {
        self.logs.join("console.log")
    }

    /// The instance's TPM state: its identity. 0700. Outlives everything but `seed rm`.
    pub fn tpm_dir(&self) -> &Path {
        &self.tpm
    }

    /// The lock that keeps a second VM off the TPM state.
    pub fn tpm_lock(&self) -> PathBuf {
        self.tpm.join(TPM_LOCK)
    }

    /// The guest's machine id, the same at every boot.
    pub fn machine_id(&self) -> PathBuf {
        self.tpm.join(TPM_MACHINE_ID)
    }

    /// The folder of volume images.
    pub fn volumes_dir(&self) -> &Path {
        &self.volumes
    }

    /// The image of one volume.
    pub fn volume_image(&self, name: &VolumeName) -> PathBuf {
        self.volumes.join(format!("{name}.img"))
    }

    /// Journal segments.
    pub fn logs_dir(&self) -> &Path {
        &self.logs
    }

    /// Overlay upper and work folders of `seed run`.
    pub fn layers_dir(&self) -> &Path {
        &self.layers
    }

    /// Fails when one of the sockets would have a name that is too long for the kernel.
    pub fn check_sockets(&self, beacon_port: u32) -> Result<(), SocketPathError> {
        let sockets = [
            self.management_socket(),
            self.vsock_socket(),
            self.vsock_listener(beacon_port),
            self.vhost_socket(),
            self.tpm_socket(),
            self.virtiofs_socket(),
            self.api_socket(),
        ];
        sockets.into_iter().try_for_each(check_socket)
    }
}

/// Fails when a socket of this name could not be made.
pub fn check_socket(path: PathBuf) -> Result<(), SocketPathError> {
    let length = path.as_os_str().len();
    if length > MAX_SOCKET_PATH_BYTES {
        return Err(SocketPathError { path, length });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ContainerId {
        ContainerId::try_from(text).unwrap()
    }

    #[test]
    fn a_kubernetes_container_fits_under_the_default_run_dir() {
        let paths = Paths::new(&Config::default());
        let namespace = Namespace::try_from("k8s.io").unwrap();
        paths
            .instance(&namespace, &name(&"f".repeat(64)))
            .check_sockets(1030)
            .unwrap();
    }

    #[test]
    fn a_socket_path_that_is_too_long_is_named() {
        let config = Config {
            run_dir: "/run/".to_owned().repeat(16).into(),
            ..Config::default()
        };
        let namespace = Namespace::try_from("default").unwrap();
        let paths = Paths::new(&config).instance(&namespace, &name(&"f".repeat(64)));
        let error = paths.check_sockets(1030).unwrap_err();
        assert!(error.to_string().contains("management.sock"), "{error}");
    }

    #[test]
    fn what_stays_may_have_another_name_than_what_runs() {
        let namespace = Namespace::try_from("k8s.io").unwrap();
        let paths = Paths::new(&Config::default()).instance(&namespace, &name("0123"));
        let kept = paths.clone().kept_as("prod_web-0_app");
        assert_eq!(kept.run_dir(), paths.run_dir());
        assert_eq!(paths.kept_under(), "0123");
        assert_eq!(kept.kept_under(), "prod_web-0_app");
        let tpm = Path::new("/var/lib/seed/tpm/k8s.io/prod_web-0_app");
        assert_eq!(kept.tpm_dir(), tpm);
        assert!(kept.logs_dir().ends_with("logs/k8s.io/prod_web-0_app"));
    }

    #[test]
    fn task_sockets_differ_by_each_part() {
        let paths = Paths::new(&Config::default());
        let ns = |text| Namespace::try_from(text).unwrap();
        let all = [
            paths.task_socket(&ns("a"), &name("b"), "c"),
            paths.task_socket(&ns("a"), &name("bc"), ""),
            paths.task_socket(&ns("ab"), &name("c"), ""),
            paths.task_socket(&ns("a"), &name("b"), "d"),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(!all[i + 1..].contains(one));
        }
        assert_eq!(all[0], paths.task_socket(&ns("a"), &name("b"), "c"));
    }
}
