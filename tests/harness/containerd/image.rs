//! The images of the cases, packed by [`Image`] and imported by `ctr`.

use std::{fs, os::unix::fs::PermissionsExt};

use anyhow::{Context, Result};
pub use seed_container::Image;

use super::Containerd;

/// The image of pause containers: busybox asleep. Under the runtime `seed` nothing of it runs.
pub const PAUSE: &str = "localhost/pause:1";

/// A busybox with a shell.
pub const BUSYBOX: &str = "localhost/busybox:1";

impl Containerd {
    /// Imports an image into the namespaces of `ctr` and of CRI.
    pub fn import(&self, image: &Image<'_>) -> Result<()> {
        let work = tempfile::tempdir_in(self.dir())?;
        let archive = image.pack(work.path())?;
        let archive = archive.to_string_lossy();
        for namespace in ["default", "k8s.io"] {
            self.ctr_ok(&["-n", namespace, "images", "import", &archive])?;
        }
        Ok(())
    }

    /// Imports [`PAUSE`] and [`BUSYBOX`].
    pub fn import_busybox(&self) -> Result<()> {
        let root = tempfile::tempdir_in(self.dir())?;
        let bin = root.path().join("bin");
        fs::create_dir(&bin)?;
        let from = self.programs.busybox();
        fs::copy(&from, bin.join("busybox")).with_context(|| format!("copy {}", from.display()))?;
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755))?;
        for applet in ["sh", "sleep", "echo", "cat"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet))?;
        }
        for (name, entrypoint) in [
            (PAUSE, ["/bin/sleep", "1000000"]),
            (BUSYBOX, ["/bin/sh", "-c"]),
        ] {
            self.import(&Image {
                name,
                root: root.path(),
                entrypoint: &entrypoint,
            })?;
        }
        Ok(())
    }
}
