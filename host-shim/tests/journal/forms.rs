//! What a journal may hold: a field of 10 MiB, notices of dropped messages, a file in a form that nobody knows, and
//! whatever JSON has to say in another way.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{IoSlice, Write},
    mem::MaybeUninit,
    os::{fd::AsFd, unix::net::UnixDatagram},
    path::Path,
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use seed_protocol::journal::MAX_VALUE_BYTES;
use seed_shim::logs::{entry::Record, render::Json};

use super::{
    boot, boot_with,
    held::{exported, records},
    host::{Host, Writer, until, wait_for_entries},
};

/// Hands journald an entry that is too long for a datagram, as sd_journal_send(3) does: in a sealed memfd.
pub(crate) fn send_long(socket: &UnixDatagram, entry: &[u8]) {
    let memory = memfd_create("entry", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let mut file = File::from(memory);
    file.write_all(entry).unwrap();
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    fcntl_add_seals(&file, seals).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    let descriptors = [file.as_fd()];
    assert!(message.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(
        socket,
        &[IoSlice::new(&[])],
        &mut message,
        SendFlags::empty(),
    )
    .unwrap();
}

/// Every field, with its true length, of the entries that have this one.
fn entries_with(dir: &Path, wanted: &[u8]) -> Vec<Vec<(Vec<u8>, u64)>> {
    let mut found = Vec::new();
    records(dir, |record| {
        if let Record::Entry(entry) = record
            && entry.fields.iter().any(|field| field.bytes == wanted)
        {
            let fields = entry.fields.iter();
            found.push(fields.map(|f| (f.bytes.to_vec(), f.true_length)).collect());
        }
    });
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_of_ten_mebibytes_is_cut_and_measured_and_stops_nothing() {
    // journald takes no entry that is longer than a file may be.
    let Some(container) = boot_with("1G", "SystemMaxFileSize=128M") else {
        return;
    };
    let mut host = Host::begin(&container);
    let socket = container.journal_socket();
    let lengths: [u64; 2] = [10 << 20, 3 << 20];
    for length in lengths {
        socket
            .send(b"MESSAGE=before\nSYSLOG_IDENTIFIER=long\n")
            .unwrap();
        let mut entry = b"MESSAGE=long\nSYSLOG_IDENTIFIER=long\nDATA\n".to_vec();
        entry.extend_from_slice(&length.to_le_bytes());
        // The first packs well, the second does not.
        let mut state = 0x5eed_u64;
        entry.extend((0..length).map(|at| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let noise = (state >> 33).to_le_bytes()[0];
            if length == lengths[0] {
                (at % 251).to_le_bytes()[0]
            } else {
                noise
            }
        }));
        entry.extend_from_slice(b"\nTAIL=whole\n");
        send_long(&socket, &entry);
        socket
            .send(b"MESSAGE=after\nSYSLOG_IDENTIFIER=long\n")
            .unwrap();
    }
    let guest = exported(&container);
    wait_for_entries(&host, guest.len() as u64).await;
    host.drain().await;
    for text in ["before", "after"] {
        let found = entries_with(&host.logs(), format!("MESSAGE={text}").as_bytes());
        assert_eq!(found.len(), 2, "{text}");
    }
    let found = entries_with(&host.logs(), b"TAIL=whole");
    assert_eq!(found.len(), 2);
    for (fields, length) in found.iter().zip(lengths) {
        let data = fields.iter().find(|(bytes, _)| bytes.starts_with(b"DATA="));
        let (bytes, true_length) = data.unwrap();
        assert_eq!((bytes.len(), *true_length), (MAX_VALUE_BYTES, length + 5));
        assert!(fields.contains(&(b"MESSAGE=long".to_vec(), 12)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_the_rate_limit_dropped_are_counted_exactly() {
    let limit = "RateLimitIntervalSec=2s\nRateLimitBurst=100";
    let Some(container) = boot_with("1G", limit) else {
        return;
    };
    let mut host = Host::begin(&container);
    // The count of the dropped comes with the first message that is not. What is still in the socket when the loop ends may
    // begin another two seconds, on a busy machine much later.
    let flood =
        "i=0; while [ $i -lt 5000 ]; do echo flood $i; i=$((i + 1)); done; sleep 10; echo after it";
    container.run(&[
        "systemd-run",
        "--quiet",
        "--wait",
        "--unit=flood",
        "sh",
        "-c",
        flood,
    ]);
    let guest = exported(&container);
    wait_for_entries(&host, guest.len() as u64).await;
    let counters = host.puller.as_ref().unwrap().counters();
    let dropped = counters.dropped();
    host.drain().await;
    let lines = entries_with(&host.logs(), b"_SYSTEMD_UNIT=flood.service");
    let is_of_the_flood = |(bytes, _): &(Vec<u8>, u64)| bytes.starts_with(b"MESSAGE=flood ");
    let kept = lines
        .iter()
        .filter(|fields| fields.iter().any(is_of_the_flood))
        .count() as u64;
    eprintln!("{kept} of 5000 kept, {dropped} dropped");
    assert!(kept < 5000 && dropped > 0);
    assert_eq!(kept + dropped, 5000);
    assert_eq!(counters.missing(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_in_an_unknown_form_has_journalctl_read_until_it_is_gone() {
    let Some(container) = boot("1G") else { return };
    let host = Host::begin(&container);
    let writer = Writer::begin(&container, 2000);
    until("some entries", || writer.sent() > 1000).await;
    // A file of a later systemd: this machine's, with a flag that is not given out. While it is rotated there is none.
    let list = container.output(&["sh", "-c", "ls -d /var/log/journal/*"]);
    let folder = String::from_utf8(list).unwrap().trim().to_owned();
    let alien = format!("{folder}/system@alien.journal");
    let copy = format!(
        "until cp {folder}/system.journal /var/alien; do sleep 0.01; done && printf '\\200' | dd of=/var/alien bs=1 seek=13 conv=notrunc && mv /var/alien {alien}"
    );
    container.run(&["sh", "-c", &copy]);
    let logs = host.logs();
    let told = |text: &str| entries_with(&logs, format!("MESSAGE={text}").as_bytes()).len();
    let by_journalctl = "the journal is read by the guest's own journalctl, since this agent does not know the form of all files";
    let again = "all journal files are in a known form again";
    until("journalctl", || told(by_journalctl) > 0).await;
    let (sent, more) = (writer.sent(), 4000);
    until("more entries", || writer.sent() > sent + more).await;
    writer.end();
    let guest = exported(&container);
    wait_for_entries(&host, guest.len() as u64).await;

    container.run(&["rm", &alien]);
    let writer = Writer::begin(&container, 2000);
    until("the known form", || told(again) > 0).await;
    until("entries in it", || writer.sent() > more).await;
    writer.end();
    let guest = exported(&container);
    wait_for_entries(&host, guest.len() as u64).await;
    assert_eq!((told(by_journalctl), told(again)), (1, 1));
    let held = host.end().await;
    held.check(&guest);
    assert_eq!((held.missing(), held.resets), (0, 0));
}

/// Entries that a printer of JSON can get wrong.
pub(crate) fn strange_entries() -> Vec<Vec<u8>> {
    let plain = |text: &str| format!("{text}\nSYSLOG_IDENTIFIER=strange\n").into_bytes();
    let binary = |name: &str, value: &[u8]| {
        let mut entry = format!("SYSLOG_IDENTIFIER=strange\n{name}\n").into_bytes();
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
        entry.extend_from_slice(value);
        entry.push(b'\n');
        entry
    };
    vec![
        plain("MESSAGE=quotes \" and \\ and / and tab\tand é 漢 \u{1f600}"),
        plain("MESSAGE="),
        plain("MESSAGE=twice\nTAG=b\nTAG=a\nTAG=b\nTAG=c"),
        plain(&format!("MESSAGE=long {}", "x".repeat(9000))),
        plain(
            "MESSAGE=\u{7f} \u{85} \u{a0} \u{200b} \u{2028} \u{202e} \u{feff} \u{e000} \u{10ffff}",
        ),
        binary("MESSAGE", b"two\nlines"),
        binary("MESSAGE", b"NUL \0 in it"),
        binary("MESSAGE", b"\xff\xfe no UTF-8"),
        binary("MESSAGE", b"bell \x07 escape \x1b[31m"),
        binary("MESSAGE", "surrogate \u{d7ff} end".as_bytes()),
        binary("MESSAGE", b"overlong \xc0\x80 and half \xe2\x82"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hosts_json_has_field_by_field_what_journalctl_prints() {
    let Some(container) = boot("1G") else { return };
    let mut host = Host::begin(&container);
    let socket = container.journal_socket();
    for entry in strange_entries() {
        socket.send(&entry).unwrap();
    }
    container.run(&["journalctl", "--sync"]);
    let words = ["journalctl", "--quiet", "--no-pager", "--all", "-o", "json"];
    let text = container.output(&words);
    let by_cursor = |line: &[u8]| {
        let value: serde_json::Value = serde_json::from_slice(line).unwrap();
        (value["__CURSOR"].as_str().unwrap().to_owned(), value)
    };
    let lines = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let theirs: BTreeMap<String, serde_json::Value> = lines.map(by_cursor).collect();
    wait_for_entries(&host, theirs.len() as u64).await;
    host.drain().await;

    let mut json = Json::default();
    let mut ours = Vec::new();
    records(&host.logs(), |record| json.render(record, &mut ours));
    let lines = ours
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let ours: BTreeMap<String, serde_json::Value> = lines.map(by_cursor).collect();
    let mut strange = 0;
    for (cursor, theirs) in &theirs {
        assert_eq!(ours.get(cursor), Some(theirs), "{cursor}");
        strange += usize::from(theirs["SYSLOG_IDENTIFIER"] == "strange");
    }
    assert_eq!(strange, strange_entries().len());
}
