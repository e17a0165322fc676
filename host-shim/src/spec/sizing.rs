//! How large a machine is: who may say it, who wins, and how far it may grow while it runs.
//!
//! The first that says something wins: our annotations one by one, Kata's where the configuration allows them,
//! our annotation `size`, the container's own limits (`linux.resources`), its pod's, the closure, `xs`.

use std::collections::BTreeMap;

use super::{
    Annotations, MemoryMib, Resources, Size, SpecError, Vcpus,
    annotations::{PREFIX, within},
    kata::{self, Kata},
};
use crate::config::Config;

/// Memory is added to a running machine in pieces of this: a block of Linux's on x86 with less than 64 GiB
/// (arch/x86/mm/init_64.c).
pub const MEMORY_STEP_MIB: u32 = 128;

/// A machine's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizing {
    /// Processors at the start.
    pub vcpus: Vcpus,
    /// Memory at the start.
    pub memory: MemoryMib,
    /// As many processors as there may ever be.
    pub max_vcpus: Vcpus,
    /// As much memory as there may ever be.
    pub max_memory: MemoryMib,
}

/// Decides.
pub(super) fn decide(
    ours: &Annotations,
    kata: &Kata,
    limits: &Resources,
    closure: Option<Size>,
    config: &Config,
) -> Result<Sizing, SpecError> {
    let limit = |what| move |problem| SpecError::Limit { what, problem };
    let size = closure.unwrap_or(Size::Xs);
    let vcpus = ours
        .vcpus
        .or(kata.vcpus)
        .or(ours.size.map(Size::vcpus))
        .or(limits.vcpus().map_err(limit("CPU"))?)
        .unwrap_or_else(|| size.vcpus());
    let memory = ours
        .memory
        .or(kata.memory)
        .or(ours.size.map(Size::memory))
        .or(limits.memory().map_err(limit("memory"))?)
        .unwrap_or_else(|| size.memory());
    let growth = |problem| SpecError::Growth(problem);
    let number = |asked, named: u32, started: u32| match asked {
        Some(asked) => asked,
        // What the configuration gives to all is no promise to those that start beyond it.
        None => named.max(started),
    };
    let max_vcpus = ours.max_vcpus.or(kata.max_vcpus).map(Vcpus::get);
    let max_vcpus = number(max_vcpus, config.growth.max_vcpus, vcpus.get());
    let max_memory = ours.max_memory.map(MemoryMib::get);
    let max_memory = number(max_memory, config.growth.max_memory_mib, memory.get());
    if max_vcpus < vcpus.get() || max_memory < memory.get() {
        return Err(growth(format!(
            "it would start with {} vCPUs and {} MiB and may have at most {max_vcpus} and {max_memory}",
            vcpus.get(),
            memory.get()
        )));
    }
    let room = max_memory - memory.get();
    let whole = memory
        .get()
        .saturating_add(room.next_multiple_of(MEMORY_STEP_MIB));
    let limit = config.annotations.max_memory_mib;
    // Who asks has what was asked for, unless the last step would lead beyond what may be asked for.
    let max_memory = if ours.max_memory.is_some() && limit > 0 && whole > limit {
        max_memory - room % MEMORY_STEP_MIB
    } else {
        whole
    };
    Ok(Sizing {
        vcpus,
        memory,
        max_vcpus: Vcpus::try_from(max_vcpus).map_err(growth)?,
        max_memory: MemoryMib::try_from(max_memory).map_err(growth)?,
    })
}

/// Refuses what is more than annotations may ask for. `ours` and `kata` are what `all` of them say.
pub(super) fn check_asked(
    all: &BTreeMap<String, String>,
    ours: &Annotations,
    kata: &Kata,
    config: &Config,
) -> Result<(), SpecError> {
    let limits = &config.annotations;
    let vcpus = |asked: Option<Vcpus>| asked.map(Vcpus::get);
    let memory = |asked: Option<MemoryMib>| asked.map(MemoryMib::get);
    for (name, asked) in [
        ((PREFIX, "size"), ours.size.map(|size| size.vcpus().get())),
        ((PREFIX, "vcpus"), vcpus(ours.vcpus)),
        ((PREFIX, "max_vcpus"), vcpus(ours.max_vcpus)),
        ((kata::PREFIX, "default_vcpus"), vcpus(kata.vcpus)),
        ((kata::PREFIX, "default_max_vcpus"), vcpus(kata.max_vcpus)),
    ] {
        within(all, name, asked, "max_vcpus", limits.max_vcpus)?;
    }
    for (name, asked) in [
        ((PREFIX, "size"), ours.size.map(|size| size.memory().get())),
        ((PREFIX, "memory_mib"), memory(ours.memory)),
        ((PREFIX, "max_memory_mib"), memory(ours.max_memory)),
        ((kata::PREFIX, "default_memory"), memory(kata.memory)),
    ] {
        within(all, name, asked, "max_memory_mib", limits.max_memory_mib)?;
    }
    Ok(())
}

/// Kata's annotations among all, as far as the configuration allows them.
pub(super) fn kata_of(all: &BTreeMap<String, String>, config: &Config) -> Result<Kata, SpecError> {
    Ok(kata::parse(all, &config.enable_annotations)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AnnotationLimits, Growth};

    fn sizing(
        ours: &[(&str, &str)],
        limits: &str,
        growth: Growth,
    ) -> Result<(u32, u32, u32, u32), String> {
        let config = Config {
            growth,
            ..Config::default()
        };
        sizing_by(ours, limits, &config)
    }

    fn sizing_by(
        ours: &[(&str, &str)],
        limits: &str,
        config: &Config,
    ) -> Result<(u32, u32, u32, u32), String> {
        let all: BTreeMap<_, _> = ours
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let annotations = Annotations::parse(&all).unwrap();
        let kata = kata_of(&all, config).unwrap();
        let limits = serde_json::from_str(limits).unwrap();
        let decided = check_asked(&all, &annotations, &kata, config)
            .and_then(|()| decide(&annotations, &kata, &limits, Some(Size::S), config));
        decided
            .map(|size| {
                (
                    size.vcpus.get(),
                    size.memory.get(),
                    size.max_vcpus.get(),
                    size.max_memory.get(),
                )
            })
            .map_err(|error| error.to_string())
    }

    const LIMITS: &str = r#"{"cpu": {"quota": 300000}, "memory": {"limit": 805306368}}"#;

    #[test]
    fn the_first_that_says_something_wins() {
        let none = Growth::default();
        assert_eq!(sizing(&[], "{}", none.clone()), Ok((1, 1024, 1, 1024)));
        assert_eq!(sizing(&[], LIMITS, none.clone()), Ok((3, 768, 3, 768)));
        let m = ("seed.loom.farm/size", "m");
        assert_eq!(sizing(&[m], LIMITS, none.clone()), Ok((2, 2048, 2, 2048)));
        let kata = ("io.katacontainers.config.hypervisor.default_memory", "900");
        assert_eq!(
            sizing(&[m, kata], LIMITS, none.clone()),
            Ok((2, 900, 2, 900))
        );
        let ours = ("seed.loom.farm/memory_mib", "300");
        assert_eq!(sizing(&[m, kata, ours], LIMITS, none), Ok((2, 300, 2, 300)));
    }

    #[test]
    fn annotations_ask_for_no_more_than_the_configuration_lets_them() {
        let config = Config {
            annotations: AnnotationLimits {
                max_vcpus: 2,
                max_memory_mib: 2048,
                max_root_writes_mib: 0,
            },
            ..Config::default()
        };
        for (name, value, key) in [
            ("seed.loom.farm/size", "l", "max_vcpus"),
            ("seed.loom.farm/vcpus", "3", "max_vcpus"),
            ("seed.loom.farm/max_vcpus", "3", "max_vcpus"),
            ("seed.loom.farm/memory_mib", "2049", "max_memory_mib"),
            ("seed.loom.farm/max_memory_mib", "4096", "max_memory_mib"),
            (
                "io.katacontainers.config.hypervisor.default_vcpus",
                "2.5",
                "max_vcpus",
            ),
            (
                "io.katacontainers.config.hypervisor.default_memory",
                "3000",
                "max_memory_mib",
            ),
        ] {
            let error = sizing_by(&[(name, value)], "{}", &config).unwrap_err();
            let said = format!("(annotations.{key} in the shim's configuration)");
            let written = format!("{name}={value:?}: ");
            assert!(
                error.contains(&written) && error.ends_with(&said),
                "{error}"
            );
        }
        let m = ("seed.loom.farm/size", "m");
        assert_eq!(sizing_by(&[m], "{}", &config), Ok((2, 2048, 2, 2048)));
        // The last step of what is asked for does not lead beyond it either.
        let (start, most) = ("seed.loom.farm/memory_mib", "seed.loom.farm/max_memory_mib");
        let grows = |most_mib| sizing_by(&[(start, "1000"), (most, most_mib)], "{}", &config);
        assert_eq!(grows("2048"), Ok((1, 1000, 1, 2024)));
        assert_eq!(grows("1100"), Ok((1, 1000, 1, 1128)));
        assert_eq!(grows("2024"), Ok((1, 1000, 1, 2024)));
        // The engine's word is no annotation.
        let limits = r#"{"memory": {"limit": 4294967296}}"#;
        assert_eq!(sizing_by(&[], limits, &config), Ok((1, 4096, 1, 4096)));
    }

    #[test]
    fn room_to_grow_comes_in_whole_steps_and_never_below_the_start() {
        let growth = Growth {
            max_vcpus: 4,
            max_memory_mib: 1100,
            ..Growth::default()
        };
        assert_eq!(sizing(&[], "{}", growth.clone()), Ok((1, 1024, 4, 1152)));
        let xl = ("seed.loom.farm/size", "xl");
        assert_eq!(sizing(&[xl], "{}", growth.clone()), Ok((8, 8192, 8, 8192)));
        let less = ("seed.loom.farm/max_memory_mib", "512");
        let error = sizing(&[less], "{}", growth).unwrap_err();
        assert!(error.contains("start with 1 vCPUs and 1024 MiB"), "{error}");
    }
}
