//! What the fuzz targets do (`fuzz/bodies.rs`), over the inputs that are kept in `fuzz/corpus`: whatever a fuzzer has
//! found once is looked at at every run, with the stable compiler. An input called `good-*` must be taken and one called
//! `bad-*` refused, so that the corpus is known to reach both ends of each target.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails here fails the test"
)]

#[path = "../fuzz/bodies.rs"]
mod bodies;

use std::{fs, path::Path};

#[test]
fn every_input_of_the_corpus_is_taken_or_refused_as_it_is_known_to_be() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, _) in bodies::TARGETS {
        let (mut taken, mut refused) = (0, 0);
        for entry in fs::read_dir(corpus.join(name)).unwrap() {
            let path = entry.unwrap().path();
            let file = path.file_name().unwrap().to_str().unwrap();
            let is_taken = bodies::run(name, &fs::read(&path).unwrap());
            if file.starts_with("good-") {
                assert!(is_taken, "{name}: {file} is refused");
                taken += 1;
            } else if file.starts_with("bad-") {
                assert!(!is_taken, "{name}: {file} is taken");
                refused += 1;
            }
        }
        assert!(
            taken > 0 && refused > 0,
            "{name}: {taken} taken, {refused} refused"
        );
    }
}

#[test]
fn every_target_has_its_program_and_no_program_is_without_a_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut programs: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    programs.sort();
    let mut targets: Vec<_> = bodies::TARGETS.map(|(name, _)| format!("{name}.rs")).into();
    targets.sort();
    assert_eq!(programs, targets);
}
