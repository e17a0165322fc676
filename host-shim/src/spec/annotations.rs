//! Our annotations, `seed.loom.farm/*`: parsed, an unknown one refused, so that a spelling mistake is not
//! a silently smaller VM. Annotations of others are left alone.

use std::collections::BTreeMap;

use thiserror::Error;

use super::{Forward, MemoryMib, Network, Size, Vcpus};
use crate::{config::Accel, writes::WritesMib};

/// The prefix of ours.
pub const PREFIX: &str = "seed.loom.farm/";

const UNKNOWN: &str = "unknown: use size, vcpus, memory_mib, max_vcpus, max_memory_mib, accel, network, publish, kernel_params or root_writes_mib";

/// What an annotation may say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    /// `size`: one of the named sizes.
    pub size: Option<Size>,
    /// `vcpus`: overrides the size's.
    pub vcpus: Option<Vcpus>,
    /// `memory_mib`: overrides the size's.
    pub memory: Option<MemoryMib>,
    /// `max_vcpus`: how far it may grow while it runs; overrides the configuration's.
    pub max_vcpus: Option<Vcpus>,
    /// `max_memory_mib`: the same of its memory.
    pub max_memory: Option<MemoryMib>,
    /// `accel`: overrides the configuration's.
    pub accel: Option<Accel>,
    /// `network`: `none` or `user`.
    pub network: Option<Network>,
    /// `publish`: ports of the host that lead into the guest, separated by commas. Only with network `user`.
    pub publish: Vec<Forward>,
    /// `kernel_params`: more kernel parameters, separated by spaces. The host's own still win.
    pub kernel_params: Vec<String>,
    /// `root_writes_mib`: what is written to the root is kept in memory, at most so much; 0: not in memory. Overrides the
    /// configuration's.
    pub root_writes: Option<Option<WritesMib>>,
}

/// An annotation that cannot be meant.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("annotation {prefix}{key}={value:?}: {problem}")]
pub struct AnnotationError {
    prefix: &'static str,
    key: String,
    value: String,
    problem: String,
}

impl AnnotationError {
    pub(super) fn new(prefix: &'static str, key: &str, value: &str, problem: String) -> Self {
        Self {
            prefix,
            key: key.to_owned(),
            value: value.to_owned(),
            problem,
        }
    }
}

impl Annotations {
    /// Reads ours out of all.
    pub fn parse(all: &BTreeMap<String, String>) -> Result<Self, AnnotationError> {
        let mut ours = Self::default();
        for (name, value) in all {
            let Some(key) = name.strip_prefix(PREFIX) else {
                continue;
            };
            ours.take(key, value)
                .map_err(|problem| AnnotationError::new(PREFIX, key, value, problem))?;
        }
        Ok(ours)
    }

    /// Whether the guest has the cards of its pod: unless another network is named, or none.
    pub fn has_cards_of_pod(&self) -> bool {
        self.network.is_none()
    }

    fn take(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "size" => self.size = Some(value.parse()?),
            "vcpus" => self.vcpus = Some(Vcpus::try_from(number(value)?)?),
            "memory_mib" => self.memory = Some(MemoryMib::try_from(number(value)?)?),
            "max_vcpus" => self.max_vcpus = Some(Vcpus::try_from(number(value)?)?),
            "max_memory_mib" => self.max_memory = Some(MemoryMib::try_from(number(value)?)?),
            "accel" => {
                let accel = value.parse::<Accel>().map_err(|error| error.to_string())?;
                self.accel = Some(accel);
            }
            "network" => {
                self.network = Some(match value {
                    "none" => Network::None,
                    "user" => Network::User,
                    _ => return Err("use none or user".into()),
                });
            }
            "publish" => {
                let parsed = value.split(',').map(str::parse).collect::<Result<_, _>>();
                self.publish = parsed?;
            }
            "kernel_params" => self.kernel_params = words(value)?,
            "root_writes_mib" => self.root_writes = Some(WritesMib::parse(number(value)?)?),
            _ => return Err(UNKNOWN.into()),
        }
        Ok(())
    }
}

/// Whether as much may be asked for as one annotation of all asks; `limit` is the configuration's `key` in `[annotations]`, and 0
/// none.
pub(super) fn within(
    all: &BTreeMap<String, String>,
    (prefix, name): (&'static str, &str),
    asked: Option<u32>,
    key: &str,
    limit: u32,
) -> Result<(), AnnotationError> {
    match asked {
        Some(asked) if limit > 0 && asked > limit => {
            let problem = format!(
                "at most {limit} may be asked for (annotations.{key} in the shim's configuration)"
            );
            // As it was written: a size has a name, and a part of a processor counts as one.
            let written = all.get(&format!("{prefix}{name}"));
            let written = written.map_or("", String::as_str);
            Err(AnnotationError::new(prefix, name, written, problem))
        }
        _ => Ok(()),
    }
}

/// Kernel parameters, separated by spaces.
pub(super) fn words(text: &str) -> Result<Vec<String>, String> {
    if text.chars().any(char::is_control) {
        return Err("has a control character".into());
    }
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "is no number".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Annotations, AnnotationError> {
        Annotations::parse(
            &pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn ours_are_read_and_those_of_others_left_alone() {
        let read = parse(&[
            ("seed.loom.farm/size", "m"),
            ("seed.loom.farm/accel", "tcg"),
            ("io.kubernetes.cri.container-type", "container"),
        ]);
        let wanted = Annotations {
            size: Some(Size::M),
            accel: Some(Accel::Tcg),
            ..Default::default()
        };
        assert_eq!(read, Ok(wanted));
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        for (key, value) in [
            ("seed.loom.farm/sise", "m"),
            ("seed.loom.farm/size", "huge"),
            ("seed.loom.farm/vcpus", "0"),
            ("seed.loom.farm/vcpus", "two"),
            ("seed.loom.farm/memory_mib", "1"),
            ("seed.loom.farm/network", "bridge"),
            ("seed.loom.farm/kernel_params", "quiet\nx"),
            ("seed.loom.farm/root_writes_mib", "1048577"),
        ] {
            let error = parse(&[(key, value)]).unwrap_err().to_string();
            assert!(error.contains(&format!("{key}={value:?}")), "{error}");
        }
    }
}
