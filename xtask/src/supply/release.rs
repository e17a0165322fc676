//! `cargo xtask release [--twice]`: the programs as they ship, into `target/dist/`, with their checksums, what each is made of, and
//! which libraries it wants; each names the commit when it is asked for its version.
//!
//! The same commit gives the same bytes: the compiler is pinned, `Cargo.lock` is obeyed, and every path that the compiler would
//! write into a program is given a name that is the same everywhere. `--twice` proves it: it builds once more from a copy of the
//! checkout in another folder, with another target folder, and compares.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{PROGRAMS, libraries, sbom};
use crate::{
    table,
    util::{self, Places, print, read, say},
};

/// From the rest of the command line.
pub(crate) fn run(places: &Places, parser: &mut lexopt::Parser) -> Result<ExitCode> {
    let mut twice = false;
    while let Some(arg) = parser.next()? {
        match arg {
            lexopt::Arg::Long("twice") => twice = true,
            other => return Err(other.unexpected().into()),
        }
    }
    let commit = util::commit(&places.root, &[]).context("a release is of a commit")?;
    let dist = places.target.join("dist");
    let first = build(
        places,
        &places.root,
        &places.target.join("reproducible"),
        &commit,
    )?;
    fs::create_dir_all(&dist).with_context(|| format!("make {}", dist.display()))?;
    let metadata = metadata(places)?;
    let lock = fs::read_to_string(places.root.join("Cargo.lock")).context("read Cargo.lock")?;
    let mut cells = vec![
        ["program", "bytes", "libraries", "SHA-256"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let mut sums = String::new();
    for (program, package) in PROGRAMS {
        let (from, to) = (first.join(program), dist.join(program));
        let wants = libraries::check(&from)?;
        names_commit(&from, &commit)?;
        let bytes = fs::copy(&from, &to).with_context(|| format!("copy to {}", to.display()))?;
        let list = sbom::of(&metadata, &lock, program, package)?;
        let list = serde_json::to_string_pretty(&list)? + "\n";
        fs::write(dist.join(format!("{program}.cdx.json")), list).context("write the list")?;
        let sum = sha256(&to)?;
        sums.push_str(&format!("{sum}  {program}\n"));
        cells.push(vec![
            program.to_owned(),
            bytes.to_string(),
            wants.join(" "),
            sum,
        ]);
    }
    fs::write(dist.join("SHA256SUMS"), &sums).context("write SHA256SUMS")?;
    print(&format!("commit {commit}, in {}", dist.display()))?;
    table::aligned(&cells)
        .iter()
        .try_for_each(|line| print(line))?;
    if twice {
        again(places, &commit, &dist)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks a program for its version, which names the commit that it was built from.
fn names_commit(program: &Path, commit: &str) -> Result<()> {
    let said = read(Command::new(program).arg("--version"))?;
    ensure!(
        said.contains(commit),
        "{} does not name commit {commit}: {said:?}",
        program.display()
    );
    Ok(())
}

/// Builds the programs of the checkout in `root`; the folder that they are in.
fn build(places: &Places, root: &Path, target: &Path, commit: &str) -> Result<PathBuf> {
    let sysroot = read(
        Command::new("rustc")
            .args(["--print", "sysroot"])
            .current_dir(root),
    )?;
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    // The last one that fits wins, and a target folder may be inside a checkout.
    let names = [
        (root, "/seed"),
        (target, "/build"),
        (&home, "/cargo"),
        (Path::new(sysroot.trim()), "/rust"),
    ];
    let flags = names.map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display()));
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--locked", "--release", "--bins", "--target-dir"])
        .arg(target);
    let mut packages: Vec<_> = PROGRAMS.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    for package in packages {
        cargo.args(["--package", package]);
    }
    cargo
        .current_dir(root)
        .env("SEED_COMMIT", commit)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        // Not part of what is built, and it would differ.
        .env("CARGO_INCREMENTAL", "0");
    let label = format!("cargo build --release in {}", root.display());
    util::step(places, &label, &mut cargo)?;
    Ok(target.join("release"))
}

/// From another folder, into another folder.
fn again(places: &Places, commit: &str, dist: &Path) -> Result<()> {
    let copy = places.target.join("dist-again");
    if copy.exists() {
        fs::remove_dir_all(&copy).with_context(|| format!("remove {}", copy.display()))?;
    }
    fs::create_dir_all(copy.join("source")).with_context(|| format!("make {}", copy.display()))?;
    let script = "git ls-files -z --cached --others --exclude-standard | cpio -0pdm --quiet \"$1\"";
    let source = copy.join("source");
    read(
        Command::new("sh")
            .args(["-c", script, "copy"])
            .arg(&source)
            .current_dir(&places.root),
    )?;
    let second = build(places, &source, &copy.join("target"), commit)?;
    let mut different = Vec::new();
    for (program, _) in PROGRAMS {
        if sha256(&dist.join(program))? != sha256(&second.join(program))? {
            different.push(program);
        }
    }
    if !different.is_empty() {
        bail!(
            "built twice, and not the same bytes: {different:?}; the second are in {}",
            second.display()
        );
    }
    print("built twice in different folders: the same bytes")?;
    fs::remove_dir_all(&copy).with_context(|| format!("remove {}", copy.display()))
}

fn metadata(places: &Places) -> Result<Value> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["metadata", "--format-version=1", "--locked"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(&places.root);
    serde_json::from_str(&read(&mut cargo)?).context("cargo metadata")
}

/// By coreutils: no security of ours rests on another implementation.
fn sha256(path: &Path) -> Result<String> {
    let text = read(Command::new("sha256sum").arg("--binary").arg(path))?;
    let sum = text.split(' ').next().unwrap_or_default();
    ensure!(sum.len() == 64, "sha256sum printed {text:?}");
    say(&format!("  {sum}  {}", path.display()));
    Ok(sum.to_owned())
}
