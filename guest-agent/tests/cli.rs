//! The program's flags and exit statuses, as the NixOS module and a person meet them.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails here fails the test"
)]

use std::{fs, process::Command};

fn agent(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_seed-agent"))
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn check(text: &str) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("instance.json");
    fs::write(&path, text).unwrap();
    let (status, _, words) = agent(&["--check-config", path.to_str().unwrap()]);
    (
        status,
        words.replace(directory.path().to_str().unwrap(), "DIR"),
    )
}

#[test]
fn a_good_instance_file_passes_without_a_word() {
    let good = r#"{"name":"demo","storage":{"data":{"mountPoint":"/seed/storage/data","user":"app","group":"app","mode":"0750"}}}"#;
    assert_eq!(check(good), (Some(0), String::new()));
}

#[test]
fn a_bad_instance_file_is_told_with_its_place() {
    let (status, words) = check(r#"{"storage":{"data":{"mountPoint":"/etc"}}}"#);
    assert_eq!(status, Some(3));
    assert_eq!(
        words,
        "seed-agent: DIR/instance.json: volume \"data\": a volume cannot be mounted at \"/etc\": \
         the place belongs to the system\n"
    );
    let (status, words) = check(r#"{"storage":{"data":{"mountPoint":"/a","users":"x"}}}"#);
    assert_eq!(status, Some(3));
    assert!(words.contains("unknown field `users`"), "{words}");
}

#[test]
fn usage_is_told_and_mistakes_in_it_are_too() {
    let (status, words, _) = agent(&["--help"]);
    assert_eq!(status, Some(0));
    assert!(words.starts_with("Usage: seed-agent"));
    assert!(agent(&["--version"]).1.starts_with("seed-agent "));
    let (status, _, words) = agent(&["--listen", "tcp:1"]);
    assert_eq!(status, Some(2));
    assert!(words.contains("--listen cannot be \"tcp:1\""), "{words}");
    assert_eq!(agent(&["--colour"]).0, Some(2));
    assert_eq!(agent(&["--check-config", "/no/such/file"]).0, Some(3));
}

#[test]
fn a_key_without_a_tpm_is_a_sentence() {
    let output = Command::new(env!("CARGO_BIN_EXE_seed-agent"))
        .arg("--tls-key")
        .env("AGE_TPM_TCTI", "swtpm:path=/nowhere/tpm")
        .output()
        .unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(
        words.starts_with("seed-agent: ") && words.contains("/nowhere/tpm"),
        "{words}"
    );
}
