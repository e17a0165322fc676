//! Names of control groups and lists of processors, as OCI documents write them. Nothing here touches the tree.
//!
//! A name is a path below each hierarchy (`/kubepods/burstable/pod1/id`) or, of engines that leave the tree to systemd,
//! `slice:prefix:name`: the scope `prefix-name.scope` below that slice. The scope is made as a folder of this name and no
//! unit: a unit has to begin with a process, so that it could not be there before a machine's first program, and each shim
//! would have to speak D-Bus, for limits that are the slice's anyway. systemd leaves groups alone that it did not make.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use thiserror::Error;

/// Where systemd puts what names no slice.
const DEFAULT_SLICE: &str = "system.slice";

/// The longest name of a folder (`NAME_MAX` of limits.h).
const MAX_COMPONENT_BYTES: usize = 255;

/// More processors than Linux can have (`NR_CPUS` of arch/x86/Kconfig) are a typing error.
const MAX_CPU: u32 = 8191;

/// Why a name is none.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// It leads elsewhere.
    #[error("control group {0:?}: no part may be '..', or longer than {MAX_COMPONENT_BYTES} bytes")]
    Component(String),
    /// The slice.
    #[error("control group {0:?}: write slice:prefix:name with a slice like a-b.slice")]
    Slice(String),
    /// A list of processors.
    #[error("{0:?} is no list of processors or memory nodes: write numbers and ranges, like 0-3,8")]
    List(String),
}

/// A control group, as a path without a first slash. It has at least one part and none that leads out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupName(PathBuf);

impl GroupName {
    /// What `linux.cgroupsPath` says; nothing where it names no group of its own.
    pub fn parse(text: &str) -> Result<Option<Self>, NameError> {
        let parts: Vec<_> = text.split(':').collect();
        let path = match parts.as_slice() {
            [slice, prefix, name] if !text.starts_with('/') => {
                scope(slice, prefix, name).ok_or_else(|| NameError::Slice(text.to_owned()))?
            }
            _ => text
                .split('/')
                .filter(|part| !matches!(*part, "" | "."))
                .collect(),
        };
        if !path
            .iter()
            .all(|part| is_component(part.as_encoded_bytes()))
        {
            return Err(NameError::Component(text.to_owned()));
        }
        Ok((!path.as_os_str().is_empty()).then_some(Self(path)))
    }

    /// The group of a CRI engine's container below this parent of its pod.
    pub fn below(parent: &str, id: &str) -> Result<Option<Self>, NameError> {
        let slice = parent
            .rsplit('/')
            .next()
            .filter(|last| last.ends_with(".slice"));
        match (parent, slice) {
            ("", _) => Ok(None),
            // As containerd names the scopes of its containers.
            (_, Some(slice)) => Self::parse(&format!("{slice}:cri-containerd:{id}")),
            (parent, None) => Self::parse(&format!("/{parent}/{id}")),
        }
    }

    /// Below a hierarchy's root.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

fn is_component(part: &[u8]) -> bool {
    !part.is_empty()
        && part != b"."
        && part != b".."
        && part.len() <= MAX_COMPONENT_BYTES
        && !part.contains(&0)
}

/// The folder of a scope. A slice's name has those that it is in: `a-b.slice` is in `a.slice` (systemd.slice(5)).
fn scope(slice: &str, prefix: &str, name: &str) -> Option<PathBuf> {
    let slice = if slice.is_empty() {
        DEFAULT_SLICE
    } else {
        slice
    };
    let stem = slice.strip_suffix(".slice")?;
    let plain = |text: &str| !text.contains('/');
    if stem.is_empty() || name.is_empty() || ![stem, prefix, name].into_iter().all(plain) {
        return None;
    }
    let mut path = PathBuf::new();
    // `-.slice` is the root of all.
    if stem != "-" {
        let parts: Vec<_> = stem.split('-').collect();
        if parts.contains(&"") {
            return None;
        }
        for depth in 1..=parts.len() {
            path.push(format!("{}.slice", parts.get(..depth)?.join("-")));
        }
    }
    path.push(match (prefix, name.ends_with(".slice")) {
        (_, true) => name.to_owned(),
        ("", false) => format!("{name}.scope"),
        (prefix, false) => format!("{prefix}-{name}.scope"),
    });
    Some(path)
}

/// A list of numbers as the kernel reads it: `0-3,8`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct List(String);

impl FromStr for List {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let number = |text: &str| text.parse::<u32>().ok().filter(|one| *one <= MAX_CPU);
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let valid = |part: &str| match part.split_once('-') {
            Some((from, to)) if digits(from) && digits(to) => {
                matches!((number(from), number(to)), (Some(from), Some(to)) if from <= to)
            }
            None if digits(part) => number(part).is_some(),
            _ => false,
        };
        if text.split(',').all(valid) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::List(text.to_owned()))
        }
    }
}

/// Processors and memory nodes of the host; nothing leaves them as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuSet {
    cpus: Option<List>,
    mems: Option<List>,
}

impl CpuSet {
    /// Of `linux.resources.cpu.cpus` and `.mems`: empty is as not said.
    pub fn parse(cpus: &str, mems: &str) -> Result<Self, NameError> {
        let list = |text: &str| (!text.is_empty()).then(|| text.parse()).transpose();
        Ok(Self {
            cpus: list(cpus)?,
            mems: list(mems)?,
        })
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.cpus.is_none() && self.mems.is_none()
    }

    /// Files of the group, and what they shall say.
    pub(super) fn files(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let files = [("cpuset.cpus", &self.cpus), ("cpuset.mems", &self.mems)];
        files
            .into_iter()
            .filter_map(|(file, list)| Some((file, list.as_ref()?.0.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Option<String> {
        let name = GroupName::parse(text).unwrap();
        name.map(|name| name.as_path().to_str().unwrap().to_owned())
    }

    #[test]
    fn both_forms_are_one_path() {
        for (text, path) in [
            ("/kubepods/burstable/pod1/id", "kubepods/burstable/pod1/id"),
            ("default/demo", "default/demo"),
            ("//a/./b/", "a/b"),
            ("/a:b:c", "a:b:c"),
            (
                "kubepods-besteffort-pod1_2.slice:cri-containerd:id",
                "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice/cri-containerd-id.scope",
            ),
            ("-.slice:crio:id", "crio-id.scope"),
            (":runc:id", "system.slice/runc-id.scope"),
            ("a.slice::id", "a.slice/id.scope"),
            ("a.slice:x:b.slice", "a.slice/b.slice"),
        ] {
            assert_eq!(parsed(text).as_deref(), Some(path), "{text}");
        }
        for none in ["", "/", "/.//"] {
            assert_eq!(parsed(none), None, "{none}");
        }
    }

    #[test]
    fn what_leads_elsewhere_or_is_no_slice_is_refused() {
        let long = format!("/a/{}", "x".repeat(256));
        for text in ["/a/../b", "..", "a\0b", &long] {
            let error = GroupName::parse(text).unwrap_err();
            assert_eq!(error, NameError::Component(text.to_owned()));
        }
        for text in [
            "a:b:c",
            "a--b.slice:x:y",
            ".slice:x:y",
            "a.slice:x:",
            "a/b.slice:x:y",
            "a.slice:x:../y",
        ] {
            let error = GroupName::parse(text).unwrap_err().to_string();
            assert!(error.contains("like a-b.slice"), "{text}: {error}");
        }
    }

    #[test]
    fn a_pods_parent_gives_its_sandbox_a_group() {
        let below = |parent| {
            let name = GroupName::below(parent, "id").unwrap();
            name.map(|name| name.as_path().to_str().unwrap().to_owned())
        };
        assert_eq!(below("/kubepods/pod1").as_deref(), Some("kubepods/pod1/id"));
        assert_eq!(
            below("/kubepods.slice/kubepods-pod1.slice").as_deref(),
            Some("kubepods.slice/kubepods-pod1.slice/cri-containerd-id.scope")
        );
        assert_eq!(below(""), None);
    }

    #[test]
    fn lists_are_numbers_and_ranges() {
        let files = |cpus, mems| {
            let set = CpuSet::parse(cpus, mems).unwrap();
            set.files()
                .map(|(file, text)| format!("{file}={text}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(files("0-3,8", "0"), ["cpuset.cpus=0-3,8", "cpuset.mems=0"]);
        assert!(CpuSet::parse("", "").unwrap().is_empty());
        for wrong in ["a", "3-1", "0,", "-1", "0-", "+1", "1-+2", "99999", "0 1"] {
            let error = CpuSet::parse(wrong, "").unwrap_err().to_string();
            assert!(error.contains("like 0-3,8"), "{wrong}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_name_leads_out_of_the_tree(text in "[a-c:/.\\-]{0,24}|([a-z.\\-]{0,9}slice)?:[a-z.:/\\-]{0,9}:[a-z./]{0,9}") {
            if let Ok(Some(name)) = GroupName::parse(&text) {
                prop_assert!(name.as_path().is_relative());
                let plain = |part| matches!(part, std::path::Component::Normal(_));
                prop_assert!(name.as_path().components().count() > 0);
                prop_assert!(name.as_path().components().all(plain), "{:?}", name);
            }
        }

        #[test]
        fn a_path_is_taken_as_it_is(parts in prop::collection::vec("[a-zA-Z0-9_-]{1,12}", 1..6)) {
            let path = parts.join("/");
            prop_assert_eq!(parsed(&format!("/{path}")), Some(path));
        }
    }
}
