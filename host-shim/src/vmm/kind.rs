//! Which virtual machine monitor runs an instance: the configuration's word, and the annotation's.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The virtual machine monitors that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmmKind {
    /// QEMU: with KVM and without.
    #[default]
    Qemu,
    /// Cloud Hypervisor: with KVM alone.
    CloudHypervisor,
}

impl VmmKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Qemu, Self::CloudHypervisor];

    /// The word for it: in the configuration, in reports, and the name of its process there.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::CloudHypervisor => "cloud-hypervisor",
        }
    }

    /// Whether a process of this name is a virtual machine monitor.
    pub fn is_name(name: &str) -> bool {
        Self::ALL.iter().any(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for VmmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// None of them.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("VMM {0:?} is unknown: use qemu or cloud-hypervisor")]
pub struct VmmKindError(String);

impl FromStr for VmmKind {
    type Err = VmmKindError;
    fn from_str(text: &str) -> Result<Self, VmmKindError> {
        let named = |kind: &Self| kind.as_str() == text;
        let kind = Self::ALL.into_iter().find(named);
        kind.ok_or_else(|| VmmKindError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_of_the_configuration_is_the_word_of_all() {
        for kind in VmmKind::ALL {
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("\"{kind}\""));
            assert_eq!(kind.to_string().parse(), Ok(kind));
            assert!(VmmKind::is_name(kind.as_str()));
        }
        let error = "kvm".parse::<VmmKind>().unwrap_err().to_string();
        assert_eq!(
            error,
            "VMM \"kvm\" is unknown: use qemu or cloud-hypervisor"
        );
    }
}
