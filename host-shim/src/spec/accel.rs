//! Whether KVM works here. A `/dev/kvm` alone does not say so: on some hosts it is there without the
//! processor's flags, and stock kernels hang in it.

use std::{fs, path::Path};

use thiserror::Error;

use super::VmAccel;
use crate::config::Accel;

/// KVM was asked for and is not to be had.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AccelUnavailable {
    /// Neither `vmx` nor `svm`.
    #[error("KVM was asked for, but the processor shows neither vmx nor svm")]
    NoFlag,
    /// No device, or no right to open it.
    #[error("KVM was asked for, but /dev/kvm is not there or not writable")]
    NoDevice,
}

/// What the host says about KVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    /// `vmx` or `svm` is among the processor's flags.
    pub has_flag: bool,
    /// `/dev/kvm` opens for writing.
    pub has_device: bool,
}

impl Cpu {
    /// Looks at this host.
    pub fn look() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            has_flag: has_flag(&cpuinfo),
            has_device: writable(Path::new("/dev/kvm")),
        }
    }
}

fn writable(device: &Path) -> bool {
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(device)
        .is_ok()
}

fn has_flag(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .flat_map(str::split_whitespace)
        .any(|word| word == "vmx" || word == "svm")
}

/// Decides `auto`, and refuses a `kvm` that cannot work.
pub fn resolve(asked: Accel, cpu: Cpu) -> Result<VmAccel, AccelUnavailable> {
    match asked {
        Accel::Tcg => Ok(VmAccel::Tcg),
        Accel::Auto if cpu.has_flag && cpu.has_device => Ok(VmAccel::Kvm),
        Accel::Auto => Ok(VmAccel::Tcg),
        Accel::Kvm if !cpu.has_flag => Err(AccelUnavailable::NoFlag),
        Accel::Kvm if !cpu.has_device => Err(AccelUnavailable::NoDevice),
        Accel::Kvm => Ok(VmAccel::Kvm),
    }
}

/// What `auto` means on this host.
pub fn host_accel() -> VmAccel {
    match resolve(Accel::Auto, Cpu::look()) {
        Ok(accel) => accel,
        Err(_) => VmAccel::Tcg,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kvm_device_without_the_flag_is_not_used() {
        let pvm = Cpu {
            has_flag: false,
            has_device: true,
        };
        assert_eq!(resolve(Accel::Auto, pvm), Ok(VmAccel::Tcg));
        assert_eq!(resolve(Accel::Kvm, pvm), Err(AccelUnavailable::NoFlag));
        let both = Cpu {
            has_flag: true,
            has_device: true,
        };
        assert_eq!(resolve(Accel::Auto, both), Ok(VmAccel::Kvm));
        assert_eq!(resolve(Accel::Tcg, both), Ok(VmAccel::Tcg));
        let locked = Cpu {
            has_flag: true,
            has_device: false,
        };
        assert_eq!(resolve(Accel::Kvm, locked), Err(AccelUnavailable::NoDevice));
    }

    #[test]
    fn only_a_whole_word_on_a_flags_line_counts() {
        assert!(has_flag("model\nflags\t\t: fpu vmx sse\n"));
        assert!(!has_flag("model name: vmx\nflags : fpu svmx\n"));
    }
}
