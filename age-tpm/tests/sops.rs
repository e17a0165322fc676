//! A sops file with twenty secrets, opened the way sops-nix does at boot: once for each secret.
#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is a failure with a place"
)]

mod common;
#[path = "common/sops.rs"]
mod sops;

use std::time::Instant;

use age_tpm::provision;

use sops::LAST_MODIFIED;

use common::{Swtpm, command, program, run, run_ok, skip};

#[test]
fn twenty_secrets_open_one_by_one_behind_a_strangers_entry() {
    let Some(swtpm) = Swtpm::start("sops") else {
        return;
    };
    let (Some(age), Some(keygen)) = (program("age"), program("age-keygen")) else {
        return skip("sops", "age is not installed");
    };
    let tcti = swtpm.tcti();
    let identity_file = swtpm.scratch().join("age-identity");
    let identity = provision::ensure(&mut swtpm.open(), &identity_file)
        .unwrap()
        .identity;
    let admin = run_ok(&mut command(keygen, None), b"");
    let admin = String::from_utf8(admin).unwrap();
    let admin = admin
        .lines()
        .find_map(|line| line.strip_prefix("# public key: "))
        .unwrap();

    let data_key: Vec<u8> = (0..32).map(|i| i * 7 + 1).collect();
    let secrets: Vec<_> = (1..=20)
        .map(|i| (format!("secret-{i:02}"), format!("value {i} ü $\"'")))
        .collect();
    let keys: Vec<_> = [admin.to_owned(), identity.recipient().to_tpm_text()]
        .into_iter()
        .map(|to| {
            let enc = run_ok(command(&age, None).args(["-a", "-r", &to]), &data_key);
            (to, String::from_utf8(enc).unwrap())
        })
        .collect();
    let file = sops::write(&data_key, &secrets, &keys);
    assert!(!file.contains("value 1 "));

    let begin = Instant::now();
    for (name, value) in &secrets {
        // sops tries the entries in their order until one opens.
        let opened = sops::encrypted_keys(&file).iter().find_map(|enc| {
            let mut open = command(&age, Some(&tcti));
            let output = run(open.arg("-d").arg("-i").arg(&identity_file), enc.as_bytes());
            output.status.success().then_some(output.stdout)
        });
        let read = sops::read(&file, &opened.unwrap()).unwrap();
        assert!(read.contains(&(name.clone(), value.clone())));
    }
    let took = begin.elapsed();
    println!("20 secrets, our entry second: {} ms", took.as_millis());

    for (what, by) in [
        ("data:", "data:A"),
        ("tag:", "tag:AAAA"),
        (LAST_MODIFIED, "2027"),
    ] {
        let tampered = file.replacen(what, by, 1);
        assert_ne!(tampered, file);
        assert_eq!(sops::read(&tampered, &data_key), None, "{what}");
    }
    let swapped = {
        let line = |n: usize| file.lines().nth(n).unwrap().split_once(": ").unwrap().1;
        file.replace(line(1), "@")
            .replace(line(2), line(1))
            .replace('@', line(2))
    };
    assert_ne!(swapped, file);
    assert_eq!(
        sops::read(&swapped, &data_key),
        None,
        "a value under another name"
    );
}
