//! Kata Containers' annotations, understood as its shims do (`docs/how-to/how-to-set-sandbox-config-kata.md`): only those
//! that the configuration allows by name, since whoever writes a pod may write them. One that we know and that
//! is not allowed is refused, so that nobody takes a smaller VM for the one that he asked for; all others are
//! left alone.

use std::{collections::BTreeMap, path::PathBuf};

use super::{AnnotationError, MemoryMib, Vcpus};
use crate::vmm::VmmKind;

/// The prefix of theirs.
pub const PREFIX: &str = "io.katacontainers.config.hypervisor.";

/// The prefix of the one that chooses the VMM (their `libs/kata-types`, `annotations/mod.rs`).
const RUNTIME_PREFIX: &str = "io.katacontainers.config.runtime.";
const VMM: &str = "hypervisor_name";

/// Those that we know.
pub const KNOWN: [&str; 6] = [
    "default_vcpus",
    "default_memory",
    "default_max_vcpus",
    "kernel_params",
    "tpm_socket",
    VMM,
];

/// What they say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Kata {
    /// `default_vcpus`, where a part of one counts as one.
    pub vcpus: Option<Vcpus>,
    /// `default_max_vcpus`; 0 means nothing there, and here.
    pub max_vcpus: Option<Vcpus>,
    /// `default_memory` in MiB.
    pub memory: Option<MemoryMib>,
    /// `kernel_params`.
    pub kernel_params: Vec<String>,
    /// `tpm_socket`: the control socket of a swtpm that somebody else runs.
    pub tpm_socket: Option<PathBuf>,
    /// `hypervisor_name`.
    pub vmm: Option<VmmKind>,
}

/// Reads theirs out of all.
pub(super) fn parse(
    all: &BTreeMap<String, String>,
    allowed: &[String],
) -> Result<Kata, AnnotationError> {
    let mut kata = Kata::default();
    for (name, value) in all {
        let of = |prefix: &'static str| Some((prefix, name.strip_prefix(prefix)?));
        let known = |(prefix, key): &(&str, &str)| {
            KNOWN.contains(key) && (*key == VMM) == (*prefix == RUNTIME_PREFIX)
        };
        let Some((prefix, key)) = of(PREFIX).or_else(|| of(RUNTIME_PREFIX)).filter(known) else {
            continue;
        };
        let taken = if allowed.iter().any(|allowed| allowed == key) {
            take(&mut kata, key, value)
        } else {
            Err("is not allowed: name it in enable_annotations of the configuration".to_owned())
        };
        taken.map_err(|problem| AnnotationError::new(prefix, key, value, problem))?;
    }
    Ok(kata)
}

fn take(kata: &mut Kata, key: &str, value: &str) -> Result<(), String> {
    match key {
        "default_vcpus" => kata.vcpus = Some(Vcpus::try_from(whole(value)?)?),
        "default_max_vcpus" => {
            kata.max_vcpus = match whole(value)? {
                0 => None,
                count => Some(Vcpus::try_from(count)?),
            }
        }
        "default_memory" => kata.memory = Some(MemoryMib::try_from(whole(value)?)?),
        VMM => {
            let vmm = value
                .parse::<VmmKind>()
                .map_err(|error| error.to_string())?;
            kata.vmm = Some(vmm);
        }
        "kernel_params" => kata.kernel_params = super::annotations::words(value)?,
        _ => {
            let path = PathBuf::from(value);
            if !path.is_absolute() || value.chars().any(char::is_control) {
                return Err("is no absolute path".to_owned());
            }
            kata.tpm_socket = Some(path);
        }
    }
    Ok(())
}

/// A number; what is behind a point makes it one more.
fn whole(text: &str) -> Result<u32, String> {
    let (number, part) = text.split_once('.').unwrap_or((text, "0"));
    let wrong = || "is no number".to_owned();
    if part.is_empty() || !part.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u32 = number.parse().map_err(|_| wrong())?;
    let more = u32::from(part.bytes().any(|digit| digit != b'0'));
    number.checked_add(more).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)], allowed: &[&str]) -> Result<Kata, String> {
        let all = pairs
            .iter()
            .map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned()))
            .collect();
        let allowed: Vec<String> = allowed.iter().map(|key| (*key).to_owned()).collect();
        parse(&all, &allowed).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_allowed_is_understood_as_kata_does() {
        let kata = read(
            &[
                ("default_vcpus", "1.5"),
                ("default_memory", "700"),
                ("default_max_vcpus", "0"),
                ("kernel_params", "quiet  debug"),
                ("tpm_socket", "/run/tpm/a.sock"),
                ("machine_type", "virt"),
            ],
            &KNOWN,
        )
        .unwrap();
        assert_eq!(kata.vcpus.map(Vcpus::get), Some(2));
        assert_eq!(kata.memory.map(MemoryMib::get), Some(700));
        assert_eq!(kata.max_vcpus, None);
        assert_eq!(kata.kernel_params, ["quiet", "debug"]);
        assert_eq!(kata.tpm_socket, Some("/run/tpm/a.sock".into()));
    }

    #[test]
    fn the_vmm_is_chosen_under_a_prefix_of_its_own() {
        let named = |name: &str, value: &str, allowed: &[&str]| {
            let all = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            let allowed: Vec<String> = allowed.iter().map(|key| (*key).to_owned()).collect();
            let kata = parse(&all, &allowed).map_err(|error| error.to_string())?;
            Ok::<_, String>(kata.vmm)
        };
        let name = "io.katacontainers.config.runtime.hypervisor_name";
        let chosen = named(name, "cloud-hypervisor", &KNOWN);
        assert_eq!(chosen, Ok(Some(VmmKind::CloudHypervisor)));
        let elsewhere = "io.katacontainers.config.hypervisor.hypervisor_name";
        assert_eq!(named(elsewhere, "qemu", &KNOWN), Ok(None));
        assert!(
            named(name, "qemu", &[])
                .unwrap_err()
                .contains("enable_annotations")
        );
        assert!(
            named(name, "dragonball", &KNOWN)
                .unwrap_err()
                .contains("dragonball")
        );
    }

    #[test]
    fn what_is_not_allowed_or_cannot_be_meant_is_refused_by_name() {
        let error = read(&[("kernel_params", "x")], &["default_vcpus"]).unwrap_err();
        assert_eq!(
            error,
            "annotation io.katacontainers.config.hypervisor.kernel_params=\"x\": is not allowed: name it in \
             enable_annotations of the configuration"
        );
        for (key, value) in [
            ("default_vcpus", "0"),
            ("default_vcpus", "1."),
            ("default_vcpus", "-1"),
            ("default_memory", "12"),
            ("tpm_socket", "a.sock"),
        ] {
            assert!(read(&[(key, value)], &KNOWN).unwrap_err().contains(key));
        }
    }
}
