//! The kept inputs of a crate's fuzz targets, for its own tests: what a fuzzer has found once is looked at at every run, with
//! the stable compiler.
//!
//! A fuzzed crate has `fuzz/bodies.rs` (what each target does), `fuzz/fuzz_targets/NAME.rs` (its program) and
//! `fuzz/corpus/NAME/` (its inputs). An input called `good-*` must be taken and one called `bad-*` refused, so that the corpus
//! is known to reach both ends of each target; any other only must not fail. The functions are for tests: they panic with the
//! input's name.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Runs each target over its corpus: `run` gets a target's name and an input, and says whether it was taken; a panic is a
/// finding. `folder` is the crate's (`CARGO_MANIFEST_DIR`).
///
/// # Panics
/// When an input is not taken or refused as its name says, when a target has no input of either kind, and when targets and
/// programs are not the same.
pub fn check(folder: &str, targets: &[&str], run: impl Fn(&str, &[u8]) -> bool) {
    for name in targets {
        let (mut taken, mut refused) = (0, 0);
        for input in names(&inputs(folder).join(name)) {
            let bytes = fs::read(inputs(folder).join(name).join(&input));
            let bytes = bytes.unwrap_or_else(|error| panic!("{name}/{input}: {error}"));
            let is_taken = run(name, &bytes);
            if input.starts_with("good-") {
                assert!(is_taken, "{name}/{input} is refused");
                taken += 1;
            } else if input.starts_with("bad-") {
                assert!(!is_taken, "{name}/{input} is taken");
                refused += 1;
            }
        }
        assert!(
            taken > 0 && refused > 0,
            "{name}: {taken} taken, {refused} refused"
        );
    }
    let mut wanted: Vec<_> = targets.iter().map(|name| format!("{name}.rs")).collect();
    wanted.sort();
    assert_eq!(names(&Path::new(folder).join("fuzz/fuzz_targets")), wanted);
}

/// That the input `TARGET/NAME` is these bytes. With `UPDATE_CORPUS=1` in the environment it becomes them.
///
/// # Panics
/// When it is something else.
pub fn keep(folder: &str, input: &str, bytes: &[u8]) {
    let path = inputs(folder).join(input);
    if env::var_os("UPDATE_CORPUS").is_some() {
        fs::write(&path, bytes).unwrap_or_else(|error| panic!("{input}: {error}"));
    }
    let is_same = fs::read(&path).is_ok_and(|found| found == bytes);
    assert!(is_same, "{input}: UPDATE_CORPUS=1 writes it anew");
}

fn inputs(folder: &str) -> PathBuf {
    Path::new(folder).join("fuzz/corpus")
}

/// What a folder holds, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder);
    let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<_> = entries
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    names.sort();
    names
}
