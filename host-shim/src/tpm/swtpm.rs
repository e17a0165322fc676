//! swtpm's command line (swtpm(8)): one process per start of the VM, it ends when QEMU does.

use std::{ffi::OsString, path::Path};

/// Arguments for a TPM 2.0 with its state in `state` and its control socket at `socket`.
pub fn args(state: &Path, socket: &Path) -> Vec<OsString> {
    let mut directory = OsString::from("dir=");
    directory.push(state);
    directory.push(",mode=0600");
    let mut control = OsString::from("type=unixio,path=");
    control.push(socket);
    control.push(",mode=0600");
    vec![
        "socket".into(),
        "--tpm2".into(),
        "--tpmstate".into(),
        directory,
        "--ctrl".into(),
        control,
        // No firmware starts the TPM on every path, so it comes up started (TPM2_Startup(CLEAR)).
        "--flags".into(),
        "startup-clear".into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_this() {
        let args = args(Path::new("/s/tpm"), Path::new("/r/tpm.sock"));
        let args: Vec<_> = args.iter().map(|a| a.to_str().unwrap()).collect();
        assert_eq!(
            args.join(" "),
            "socket --tpm2 --tpmstate dir=/s/tpm,mode=0600 \
             --ctrl type=unixio,path=/r/tpm.sock,mode=0600 --flags startup-clear"
        );
    }
}
