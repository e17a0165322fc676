//! The fuzz targets of the checkout: where they are, where their inputs are kept, and how they are built.
//!
//! Never runs one. A fuzz folder is what cargo-fuzz makes: `fuzz/Cargo.toml` with `package.metadata.cargo-fuzz`, one program
//! for each target.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::util::{self, Places};

/// How deep below the checkout a fuzz folder may be: `guest-agent/journal/fuzz`.
const DEPTH: usize = 3;
/// The only platform that the lab runs on.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// One program of one fuzz folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// The fuzzed crate's folder, from the checkout's root: `age-tpm`.
    pub(super) of: String,
    pub(super) name: String,
    /// The fuzz folder.
    folder: PathBuf,
    /// Where it is once built.
    pub(super) program: PathBuf,
    /// Inputs kept from run to run, those that crashed it, and what its runs came to.
    kept: PathBuf,
}

impl Target {
    /// `age-tpm/stanza`.
    pub(super) fn label(&self) -> String {
        format!("{}/{}", self.of, self.name)
    }

    /// Inputs that belong to the source.
    pub(super) fn committed(&self) -> PathBuf {
        self.folder.join("corpus").join(&self.name)
    }

    /// Inputs that runs on this machine have found.
    pub(super) fn corpus(&self) -> PathBuf {
        self.kept.join("corpus")
    }

    /// Inputs that made it fail.
    pub(super) fn crashes(&self) -> PathBuf {
        self.kept.join("crashes")
    }

    /// What its runs came to.
    pub(super) fn runs(&self) -> PathBuf {
        self.kept.join("runs.jsonl")
    }

    #[cfg(test)]
    pub(super) fn kept_in(of: &str, name: &str, kept: &Path) -> Self {
        Self {
            of: of.to_owned(),
            name: name.to_owned(),
            folder: PathBuf::new(),
            program: PathBuf::new(),
            kept: kept.to_owned(),
        }
    }
}

/// All of them, by crate and name.
pub(super) fn find(places: &Places) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for folder in folders(&places.root, DEPTH)? {
        let mut cargo = Command::new("cargo");
        cargo
            .args(["metadata", "--no-deps", "--format-version=1"])
            .current_dir(&folder);
        let metadata = serde_json::from_str(&util::read(&mut cargo)?)
            .with_context(|| format!("cargo metadata in {}", folder.display()))?;
        let parent = folder.parent().unwrap_or(&folder);
        let of = parent.strip_prefix(&places.root).unwrap_or(parent);
        let of = of.to_string_lossy().into_owned();
        let build = build_folder(places, &of);
        targets.extend(programs(&metadata).into_iter().map(|name| Target {
            program: build.join(TRIPLE).join("release").join(&name),
            kept: places.cache.join("fuzz").join(&of).join(&name),
            folder: folder.clone(),
            of: of.clone(),
            name,
        }));
    }
    targets.sort_by_key(Target::label);
    Ok(targets)
}

/// Folders named `fuzz` with a manifest for cargo-fuzz.
fn folders(below: &Path, depth: usize) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(below).with_context(|| format!("read {}", below.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", below.display()))?;
        let name = entry.file_name();
        let hidden = name.to_string_lossy().starts_with('.');
        if hidden || name == "target" || !entry.file_type()?.is_dir() {
            continue;
        }
        let path = entry.path();
        let manifest = fs::read_to_string(path.join("Cargo.toml")).unwrap_or_default();
        if name == "fuzz" && manifest.contains("cargo-fuzz = true") {
            found.push(path);
        } else if depth > 1 {
            found.extend(folders(&path, depth - 1)?);
        }
    }
    Ok(found)
}

/// The programs in what `cargo metadata` says of one fuzz folder.
fn programs(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .flat_map(|package| package["targets"].as_array().into_iter().flatten())
        .filter(|target| target["kind"][0] == "bin")
        .filter_map(|target| Some(target["name"].as_str()?.to_owned()))
        .collect()
}

fn build_folder(places: &Places, of: &str) -> PathBuf {
    // Each has its own lock file, so sharing one folder would build shared crates anew at each turn.
    places.target.join("fuzz").join(of.replace('/', "-"))
}

/// Builds the fuzz folders of these targets.
pub(super) fn build(places: &Places, targets: &[&Target]) -> Result<()> {
    let folders: BTreeSet<_> = targets.iter().map(|t| (&t.of, &t.folder)).collect();
    for (of, folder) in folders {
        let mut cargo = Command::new("cargo");
        cargo
            .args(["fuzz", "build", "--target", TRIPLE, "--fuzz-dir"])
            .arg(folder)
            .arg("--target-dir")
            .arg(build_folder(places, of))
            .env("RUSTC_BOOTSTRAP", "1")
            .env("PATH", places.path_variable())
            .current_dir(folder);
        util::step(places, &format!("cargo fuzz build ({of})"), &mut cargo)?;
    }
    for target in targets {
        let program = &target.program;
        ensure!(program.is_file(), "{} was not built", program.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkouts_targets_are_found() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let found = folders(&root, DEPTH).expect("a readable checkout");
        assert!(
            found.iter().any(|path| path.ends_with("age-tpm/fuzz")),
            "{found:?}"
        );
    }

    #[test]
    fn programs_are_told_from_libraries() {
        let metadata = serde_json::json!({ "packages": [{ "targets": [
            { "name": "helper", "kind": ["lib"] },
            { "name": "stanza", "kind": ["bin"] },
        ] }] });
        assert_eq!(programs(&metadata), ["stanza"]);
    }
}
