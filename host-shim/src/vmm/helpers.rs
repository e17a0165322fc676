//! Command lines of the daemons beside the VMM: virtiofsd and the vsock device.

use std::{ffi::OsString, path::Path};

/// What a guest may keep of a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// Everything: nobody on the host changes the root while its guest runs. Measured: half the boot time of
    /// the other.
    Always,
    /// A second at most: Kubernetes changes the files of a ConfigMap while they are read.
    Auto,
}

/// virtiofsd (its README, version 1.13) for the root file system, and for what is shared beside it.
pub fn virtiofsd(socket: &Path, root: &Path, cache: Cache) -> Vec<OsString> {
    let cache = match cache {
        Cache::Always => "--cache=always",
        Cache::Auto => "--cache=auto",
    };
    vec![
        joined("--socket-path=", socket),
        joined("--shared-dir=", root),
        cache.into(),
        "--sandbox=namespace".into(),
        // user.* attributes work in the guest.
        "--xattr".into(),
        "--log-level=warn".into(),
    ]
}

/// The vsock device ([`crate::vsock`]), with its sockets in its working directory.
pub(super) fn vsock() -> Vec<OsString> {
    vec!["vsock".into()]
}

fn joined(prefix: &str, path: &Path) -> OsString {
    let mut joined = OsString::from(prefix);
    joined.push(path);
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(args: Vec<OsString>) -> String {
        args.iter()
            .map(|a| a.to_str().unwrap())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn the_command_lines_are_these() {
        assert_eq!(
            line(virtiofsd(
                Path::new("/vm/virtiofs.sock"),
                Path::new("/b/rootfs"),
                Cache::Always
            )),
            "--socket-path=/vm/virtiofs.sock --shared-dir=/b/rootfs --cache=always \
             --sandbox=namespace --xattr --log-level=warn"
        );
        assert_eq!(
            line(virtiofsd(
                Path::new("/vm/share.sock"),
                Path::new("/r/share"),
                Cache::Auto
            )),
            "--socket-path=/vm/share.sock --shared-dir=/r/share --cache=auto \
             --sandbox=namespace --xattr --log-level=warn"
        );
        assert_eq!(line(vsock()), "vsock");
    }
}
