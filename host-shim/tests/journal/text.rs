//! What the host holds, and what it prints for people, against what the guest's journalctl prints of the same journal.

use jiff::Zoned;
use seed_shim::logs::render::Human;

use super::{
    boot, boot_with,
    container::Container,
    forms::{send_long, strange_entries},
    held::{exported, held, records},
    host::{Host, wait_for_entries},
};

/// Writes one unit's part of the bench's corpus.
const WRITER: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../xtask/src/bench/journal/writer.pl"
));

/// Entries of each of the corpus's units.
const OF_A_UNIT: u32 = 300;

/// Eight units, half of them with fields of their own, as in the bench.
fn write_corpus(container: &Container) {
    for unit in 1..=8 {
        let (name, what) = (
            format!("--unit=corpus{unit}"),
            format!("{unit}-{OF_A_UNIT}"),
        );
        let words = [
            "systemd-run",
            "--quiet",
            "--wait",
            "--expand-environment=no",
            &name,
            "perl",
            "-e",
            WRITER,
            &what,
        ];
        container.run(&words);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_form_for_people_is_journalctls_short_byte_for_byte() {
    let Some(container) = boot("1G") else { return };
    let mut host = Host::begin(&container);
    write_corpus(&container);
    let guest = exported(&container);
    assert!(guest.len() > 8 * 300);
    wait_for_entries(&host, guest.len() as u64).await;
    // The same wall clock on both sides: journalctl's zone is the guest's, which knows no names of zones.
    let seconds = Zoned::now().offset().seconds();
    let (sign, seconds) = (if seconds > 0 { '-' } else { '+' }, seconds.unsigned_abs());
    let zone = format!("TZ=ZONE{sign}{}:{:02}", seconds / 3600, seconds / 60 % 60);
    let words = [
        "env",
        &zone,
        "journalctl",
        "-q",
        "--no-pager",
        "-o",
        "short",
    ];
    let theirs = container.output(&words);
    host.drain().await;

    let mut human = Human::new(false);
    let mut ours = Vec::new();
    records(&host.logs(), |record| human.render(record, &mut ours));
    let lines = |text: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(text);
        text.lines().map(str::to_owned).collect()
    };
    for (number, (ours, theirs)) in lines(&ours).iter().zip(lines(&theirs)).enumerate() {
        assert_eq!(*ours, theirs, "line {number}");
    }
    // What was logged after the export is only here.
    assert!(theirs.len() > 8 * 300 * 40 && ours.starts_with(&theirs));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_lines_nul_0xff_repeated_fields_and_ten_mebibytes_are_what_journalctl_has() {
    let Some(container) = boot_with("1G", "SystemMaxFileSize=128M") else {
        return;
    };
    let mut host = Host::begin(&container);
    let socket = container.journal_socket();
    for entry in strange_entries() {
        socket.send(&entry).unwrap();
    }
    let every_byte: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let mut entry = b"MESSAGE\n".to_vec();
    entry.extend_from_slice(&5000_u64.to_le_bytes());
    entry.extend_from_slice(&every_byte);
    entry.extend_from_slice(b"\nSYSLOG_IDENTIFIER=strange\n");
    socket.send(&entry).unwrap();
    let repeated: String = (0..300).map(|n| format!("TAG=value {}\n", n % 7)).collect();
    socket
        .send(format!("MESSAGE=repeated\n{repeated}").as_bytes())
        .unwrap();
    let length = 10_u64 << 20;
    let mut entry = b"MESSAGE=ten mebibytes\nDATA\n".to_vec();
    entry.extend_from_slice(&length.to_le_bytes());
    entry.extend((0..length).map(|at| (at % 253).to_le_bytes()[0]));
    entry.push(b'\n');
    send_long(&socket, &entry);
    // journald breaks lines at 48 KiB: one just as long, one longer, one much longer.
    let script = "for n in 49152 49153 200000; do head -c $n /dev/zero | tr '\\0' x; echo; done";
    container.run(&[
        "systemd-run",
        "--quiet",
        "--wait",
        "--unit=lines",
        "sh",
        "-c",
        script,
    ]);
    let guest = exported(&container);
    wait_for_entries(&host, guest.len() as u64).await;
    host.drain().await;
    let held = held(&host.logs());
    held.check(&guest);
    assert_eq!((held.missing(), held.resets), (0, 0));
    let of_lines = ["-q", "-u", "lines", "-t", "sh", "-o", "cat"];
    let text = container.output(&[&["journalctl", "--no-pager"][..], &of_lines].concat());
    let x = text.iter().filter(|byte| **byte == b'x').count();
    assert_eq!(x, 49_152 + 49_153 + 200_000);
}
