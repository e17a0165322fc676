//! The Go plugin of the same name and age 1.3, as real programs beside ours on one TPM.
//!
//! `tests/fetch-peers.sh` fetches them; `SEED_GO_AGE_PLUGIN_TPM` and `SEED_AGE13` name them.
#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is a failure with a place"
)]

#[path = "common/mod.rs"]
mod common;
#[path = "common/device.rs"]
mod device;
#[path = "common/legacy.rs"]
mod legacy;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use age_tpm::identity::read_identities;
use age_tpm::provision::{self, Note, Origin};
use age_tpm::tpm::lockout::Lockout;
use age_tpm::{Identity, Pin};

use common::{Swtpm, command, peer, plugin, program, run, run_ok};
use device::Device;

/// Both peers, one emulator, one device.
struct Rig {
    swtpm: Swtpm,
    device: Device,
    go: PathBuf,
    age13: PathBuf,
    dir: PathBuf,
}

impl Rig {
    fn start(test: &str) -> Option<Self> {
        let go = peer(
            test,
            "SEED_GO_AGE_PLUGIN_TPM",
            "root/usr/bin/age-plugin-tpm",
        )?;
        let age13 = peer(test, "SEED_AGE13", "root/usr/bin/age")?;
        let swtpm = Swtpm::start(test)?;
        let device = Device::bridge(test, &swtpm)?;
        let dir = swtpm.scratch();
        // A folder of their own, so that the PATH finds the Go plugin and nothing else of its kind.
        for (name, target) in [("go/age-plugin-tpm", &go), ("go/age", &age13)] {
            let link = dir.join(name);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(target, link).unwrap();
        }
        Some(Self {
            swtpm,
            device,
            go,
            age13,
            dir,
        })
    }

    /// A program that finds the Go plugin in its path, and the device.
    fn with_go(&self, program: &Path) -> Command {
        let mut command = self.device.command(program);
        let mut dirs = vec![self.dir.join("go")];
        dirs.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        command
            .env("PATH", std::env::join_paths(dirs).unwrap())
            .env_remove("AGE_TPM_PIN");
        command
    }

    /// A program that finds our plugin, and the emulator's socket.
    fn with_ours(&self, program: &Path) -> Command {
        command(program, Some(&self.swtpm.tcti()))
    }

    fn go_identity(&self, name: &str, arguments: &[&str], pin: Option<&str>) -> PathBuf {
        let path = self.dir.join(name);
        let mut command = self.with_go(&self.go);
        command
            .arg("--generate")
            .args(arguments)
            .arg("-o")
            .arg(&path);
        if let Some(pin) = pin {
            command.env("AGE_TPM_PIN", pin);
        }
        run_ok(&mut command, b"");
        path
    }

    fn our_identity(&self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        run_ok(
            plugin(Some(&self.swtpm.tcti()))
                .args(["-g", "-o"])
                .arg(&path),
            b"",
        );
        path
    }
}

fn read(path: &Path) -> Identity {
    read_identities(fs::File::open(path).unwrap())
        .unwrap()
        .remove(0)
}

#[test]
fn a_go_identity_works_with_our_plugin_and_ours_works_with_gos() {
    let Some(rig) = Rig::start("go both ways") else {
        return;
    };
    let mut clients = vec![rig.age13.clone()];
    clients.extend(program("age"));
    for (name, file) in [
        ("go", rig.go_identity("go-id", &[], None)),
        ("ours", rig.our_identity("our-id")),
    ] {
        let recipient = read(&file).recipient();
        for client in &clients {
            for to in [recipient.to_tpm_text(), recipient.to_tag_text()] {
                // age before 1.3 has no native age1tag1 and no age-plugin-tag beside it here.
                if to.starts_with("age1tag") && client != &rig.age13 {
                    continue;
                }
                let secret = format!("{name} {to}");
                for mut encrypt in [rig.with_ours(client), rig.with_go(client)] {
                    let sealed = run_ok(encrypt.args(["-r", &to]), secret.as_bytes());
                    for mut decrypt in [rig.with_ours(client), rig.with_go(client)] {
                        let opened = run_ok(decrypt.arg("-d").arg("-i").arg(&file), &sealed);
                        assert_eq!(String::from_utf8(opened).unwrap(), secret);
                    }
                }
            }
        }
    }
}

#[test]
fn rage_encrypts_to_each_form_and_decrypts_with_our_plugin() {
    let Some(rig) = Rig::start("rage") else {
        return;
    };
    let Some(rage) = peer("rage", "SEED_RAGE", "bin/rage") else {
        return;
    };
    let file = rig.our_identity("our-id");
    let recipient = read(&file).recipient();
    let mut sealed = vec![run_ok(
        rig.with_ours(&rage).args(["-e", "-i"]).arg(&file),
        b"rage",
    )];
    for to in [recipient.to_tag_text(), recipient.to_tpm_text()] {
        sealed.push(run_ok(rig.with_ours(&rage).args(["-r", &to]), b"rage"));
        sealed.push(run_ok(rig.with_ours(&rig.age13).args(["-r", &to]), b"rage"));
    }
    for sealed in sealed {
        for client in [&rage, &rig.age13] {
            let opened = run_ok(
                rig.with_ours(client).arg("-d").arg("-i").arg(&file),
                &sealed,
            );
            assert_eq!(opened, b"rage");
        }
        let opened = run_ok(rig.with_go(&rage).arg("-d").arg("-i").arg(&file), &sealed);
        assert_eq!(opened, b"rage");
    }
}

#[test]
fn both_plugins_print_the_same_recipients_for_the_same_identity() {
    let Some(rig) = Rig::start("go convert") else {
        return;
    };
    for file in [
        rig.go_identity("go-id", &[], None),
        rig.our_identity("our-id"),
    ] {
        for flags in [&["-y"][..], &["-y", "--tpm-recipient"]] {
            let theirs = run_ok(rig.with_go(&rig.go).args(flags).arg(&file), b"");
            let ours = run_ok(plugin(None).args(flags).arg(&file), b"");
            assert_eq!(
                String::from_utf8_lossy(&ours),
                String::from_utf8_lossy(&theirs)
            );
        }
    }
}

#[test]
fn a_pin_set_with_one_plugin_is_asked_for_by_the_other() {
    let Some(rig) = Rig::start("go PIN") else {
        return;
    };
    let theirs = rig.go_identity("go-pin", &["--pin"], Some("1234"));
    assert_eq!(read(&theirs).pin(), Pin::Required);
    let ours = rig.dir.join("our-pin");
    run_ok(
        plugin(Some(&rig.swtpm.tcti()))
            .env("AGE_TPM_PIN", "1234")
            .args(["-g", "-p", "-o"])
            .arg(&ours),
        b"",
    );
    for file in [theirs, ours] {
        let to = read(&file).recipient().to_tag_text();
        let sealed = run_ok(rig.with_ours(&rig.age13).args(["-r", &to]), b"with PIN");
        for mut decrypt in [rig.with_ours(&rig.age13), rig.with_go(&rig.age13)] {
            let opened = run_ok(
                decrypt
                    .env("AGE_TPM_PIN", "1234")
                    .arg("-d")
                    .arg("-i")
                    .arg(&file),
                &sealed,
            );
            assert_eq!(opened, b"with PIN");
        }
    }
}

#[test]
fn a_go_key_in_lockout_after_power_cuts_is_revived_at_the_next_start() {
    let Some(mut rig) = Rig::start("go lockout") else {
        return;
    };
    let file = rig.go_identity("age-identity", &[], None);
    let to = read(&file).recipient().to_tpm_text();
    let sealed = run_ok(rig.with_ours(&rig.age13).args(["-r", &to]), b"still here");
    let decrypt = |rig: &Rig| {
        run(
            rig.with_ours(&rig.age13).arg("-d").arg("-i").arg(&file),
            &sealed,
        )
    };
    let mut locked = None;
    for boot in 0..6 {
        let output = decrypt(&rig);
        if !output.status.success() {
            locked = Some((boot, String::from_utf8_lossy(&output.stderr).into_owned()));
            break;
        }
        rig.swtpm.power_cut();
    }
    let (boot, said) = locked.expect("a key without noDA locks itself within a few power cuts");
    assert!(boot >= 1, "the first boot works");
    assert!(
        said.contains("locked after too many failed tries"),
        "{said}"
    );
    assert!(said.contains("tpm2_dictionarylockout"), "{said}");

    let done = provision::ensure(&mut rig.swtpm.open(), &file).unwrap();
    assert_eq!(done.origin, Origin::File);
    let cleared = done
        .notes
        .iter()
        .any(|n| matches!(n, Note::LockoutCleared { active: true, .. }));
    assert!(cleared, "{:?}", done.notes);
    let output = decrypt(&rig);
    assert_eq!(
        output.stdout,
        b"still here",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    // As at each start: twenty more power cuts, with the start's revival and a decryption each.
    for _ in 0..20 {
        rig.swtpm.power_cut();
        provision::ensure(&mut rig.swtpm.open(), &file).unwrap();
        assert_eq!(decrypt(&rig).stdout, b"still here");
    }
    assert!(!Lockout::read(&mut rig.swtpm.open()).unwrap().active);
}

#[test]
fn an_identity_of_version_1_still_opens_with_both_plugins() {
    let Some(rig) = Rig::start("go version 1") else {
        return;
    };
    let mut bytes = read(&rig.our_identity("v2")).to_bytes();
    bytes[0] = 1;
    bytes.truncate(220);
    let v1 = Identity::from_bytes(&bytes).unwrap();
    let file = rig.dir.join("v1");
    fs::write(&file, format!("{v1}\n")).unwrap();
    let to = v1.recipient().to_tag_text();
    let sealed = run_ok(rig.with_ours(&rig.age13).args(["-r", &to]), b"old key");
    for mut decrypt in [rig.with_ours(&rig.age13), rig.with_go(&rig.age13)] {
        assert_eq!(
            run_ok(decrypt.arg("-d").arg("-i").arg(&file), &sealed),
            b"old key"
        );
    }
}

#[test]
fn an_old_tpm_ecc_file_opens_with_both_plugins() {
    let Some(rig) = Rig::start("go tpm-ecc") else {
        return;
    };
    for file in [
        rig.go_identity("go-id", &[], None),
        rig.our_identity("our-id"),
    ] {
        let sealed = legacy::seal(&read(&file).recipient(), b"an old secret");
        for mut decrypt in [rig.with_ours(&rig.age13), rig.with_go(&rig.age13)] {
            let output = run(decrypt.arg("-d").arg("-i").arg(&file), &sealed);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.stdout, b"an old secret", "{said}");
        }
    }
}

#[test]
fn a_second_recipient_before_ours_and_a_strangers_identity_are_told_apart() {
    let Some(rig) = Rig::start("go two recipients") else {
        return;
    };
    let (first, second) = (rig.our_identity("first"), rig.our_identity("second"));
    let stranger = rig.our_identity("stranger");
    let mut encrypt = rig.with_ours(&rig.age13);
    encrypt.args(["-r", &read(&first).recipient().to_tag_text()]);
    encrypt.args(["-r", &read(&second).recipient().to_tag_text()]);
    let sealed = run_ok(&mut encrypt, b"for two");
    for file in [&first, &second] {
        let opened = run_ok(
            rig.with_ours(&rig.age13).arg("-d").arg("-i").arg(file),
            &sealed,
        );
        assert_eq!(opened, b"for two");
    }
    let output = run(
        rig.with_ours(&rig.age13).arg("-d").arg("-i").arg(&stranger),
        &sealed,
    );
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("no identity matched any of the recipients"),
        "{said}"
    );
}
