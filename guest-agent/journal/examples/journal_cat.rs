//! Prints a journal the way `journalctl -o export` does, through the batch encoder and decoder: what the
//! differential tests and the curious compare with. `journal_cat PARENT MACHINE_ID [-f SECONDS]`.
#![forbid(unsafe_code)]

use std::{
    env,
    error::Error,
    io::{self, BufWriter, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use seed_journal::{Journal, Mark, Position, parse_id};
use seed_protocol::journal::{BatchDecoder, BatchEncoder, Entry};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (parents, id, follow) = match arguments.as_slice() {
        [parents, id] => (parents, id, 0),
        [parents, id, flag, seconds] if flag == "-f" => (parents, id, seconds.parse()?),
        _ => return Err("usage: journal_cat PARENT[:PARENT] MACHINE_ID [-f SECONDS]".into()),
    };
    let parents: Vec<PathBuf> = parents.split(':').map(PathBuf::from).collect();
    let id = parse_id(id).ok_or("a machine id has 32 digits")?;
    let end = Instant::now() + Duration::from_secs(follow);
    let mut journal = Journal::open(&parents, id);
    let mut out = BufWriter::new(io::stdout().lock());
    let mut position = Position::START;
    loop {
        let mut batch = BatchEncoder::new(128 * 1024);
        let outcome = journal.read_after(&position, &mut batch)?;
        if outcome.gap.is_some() || outcome.reset || !outcome.skipped.is_nothing() {
            writeln!(io::stderr(), "{outcome:?}")?;
        }
        let block = batch.finish();
        for entry in BatchDecoder::new(&block)? {
            let entry = entry?;
            print_entry(&mut out, &outcome.seqnum_id, &entry)?;
            position.mark = Some(Mark::from(&entry.head));
        }
        position.seqnum_id = outcome.seqnum_id;
        position.seqnum = outcome.last;
        if outcome.caught_up {
            out.flush()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            journal.wait_for_change(left);
        }
    }
    for problem in journal.problems() {
        writeln!(
            io::stderr(),
            "{}: {:?}",
            problem.path.display(),
            problem.error
        )?;
    }
    Ok(())
}

fn print_entry(out: &mut impl Write, stream: &[u8; 16], entry: &Entry<'_>) -> io::Result<()> {
    let head = &entry.head;
    let (stream, boot) = (hexadecimal(stream), hexadecimal(&head.boot_id));
    writeln!(
        out,
        "__CURSOR=s={stream};i={:x};b={boot};m={:x};t={:x};x={:x}",
        head.seqnum, head.monotonic_us, head.realtime_us, head.xor_hash
    )?;
    writeln!(out, "__REALTIME_TIMESTAMP={}", head.realtime_us)?;
    writeln!(out, "__MONOTONIC_TIMESTAMP={}", head.monotonic_us)?;
    writeln!(
        out,
        "__SEQNUM={}\n__SEQNUM_ID={stream}\n_BOOT_ID={boot}",
        head.seqnum
    )?;
    for field in &entry.fields {
        let Some((name, value)) = field.split() else {
            continue;
        };
        if name == b"_BOOT_ID" {
            continue;
        }
        let is_text = std::str::from_utf8(value)
            .is_ok_and(|text| !text.chars().any(|c| c.is_control() && c != '\t'));
        out.write_all(name)?;
        if is_text {
            out.write_all(b"=")?;
        } else {
            out.write_all(b"\n")?;
            out.write_all(&(value.len() as u64).to_le_bytes())?;
        }
        out.write_all(value)?;
        out.write_all(b"\n")?;
    }
    out.write_all(b"\n")
}

fn hexadecimal(id: &[u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
