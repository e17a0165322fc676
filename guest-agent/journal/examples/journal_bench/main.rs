//! Reads and encodes a whole journal and prints one JSON object with what it cost, and the same for
//! `sdjournal` and `journalctl` on the same files, whether they gave the same entries (`content`), then what a few searches
//! take: `journal_bench PARENT MACHINE_ID [--peers]`. CPU seconds are the process's own (user and system), entries per CPU
//! second follow from them.
#![forbid(unsafe_code)]

mod content;

use std::{
    env,
    error::Error,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use seed_journal::{Journal, Mark, Position, Query, parse_id};
use seed_protocol::journal::{BatchDecoder, BatchEncoder};

const BATCH_BYTES: usize = 128 * 1024;
/// So many entries are read at least, to have a figure.
const AT_LEAST: u64 = 200_000;
/// What a string table that begins anew with each block costs shows beside the largest block that the protocol has.
const LARGE_BATCH_BYTES: usize = 1024 * 1024;

struct Row {
    name: String,
    entries: u64,
    cpu_seconds: f64,
    wall_seconds: f64,
    bytes: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (parent, id, peers) = match arguments.as_slice() {
        [parent, id] => (parent, id, false),
        [parent, id, flag] if flag == "--peers" => (parent, id, true),
        _ => return Err("usage: journal_bench PARENT MACHINE_ID [--peers]".into()),
    };
    // Whoever reads first brings the files into memory, for all that come after: it shall be none of them.
    let entries = encode(parent, id, BATCH_BYTES, false)?.entries;
    let large = encode(parent, id, LARGE_BATCH_BYTES, false)?;
    // A small journal is read in less than the kernel's clock of a process is late.
    let times = u32::try_from(AT_LEAST / entries.max(1))?.max(1);
    let mut rows = vec![
        median_of_three(|| mean(times, || encode(parent, id, BATCH_BYTES, false)))?,
        mean(times, || encode(parent, id, BATCH_BYTES, true))?,
        Row {
            name: "encode, blocks of 1 MiB".to_owned(),
            ..large
        },
    ];
    let entries = rows[0].entries;
    let private = private_kib()?;
    if peers {
        rows.push(sdjournal(&PathBuf::from(parent).join(id))?);
        for form in ["cat", "export", "json"] {
            rows.extend(journalctl(&PathBuf::from(parent).join(id), form, entries));
        }
    }
    let mut out = io::stdout().lock();
    write!(out, "{{\"private_kib\": {private}, \"rows\": [")?;
    for (index, row) in rows.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        write!(
            out,
            "{comma}{{\"name\": \"{}\", \"entries\": {}, \"cpu_s\": {:.6}, \"wall_s\": {:.6}, \"bytes\": {}}}",
            row.name, row.entries, row.cpu_seconds, row.wall_seconds, row.bytes,
        )?;
    }
    write!(out, "], ")?;
    if peers {
        let directory = PathBuf::from(parent).join(id);
        let ours = content::ours(parent, machine_id(id)?)?;
        let (ours_alone, theirs_alone) =
            content::unlike(ours.clone(), content::journalctl(&directory)?);
        let journalctl = ours_alone + theirs_alone;
        // It leaves out whole files; what it does give has to be ours.
        let (_, sdjournal) = content::unlike(ours, content::sdjournal(&directory)?);
        write!(
            out,
            "\"unlike\": {{\"journalctl\": {journalctl}, \"sdjournal\": {sdjournal}}}, "
        )?;
    }
    write!(out, "\"searches\": [")?;
    let unit = field_of_corpus(parent, id, b"_SYSTEMD_UNIT=", b"corpus@")?;
    let request = field_of_corpus(parent, id, b"REQUEST_ID=", b"")?;
    for (index, (name, query, lines)) in searches(&unit, &request).into_iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let (found, milliseconds) = search(parent, id, &query, lines)?;
        write!(
            out,
            "{comma}{{\"name\": \"{name}\", \"found\": {found}, \"wall_ms\": {milliseconds:.1}}}"
        )?;
    }
    writeln!(out, "]}}")?;
    Ok(())
}

/// The mean of several.
fn mean(
    times: u32,
    mut measure: impl FnMut() -> Result<Row, Box<dyn Error>>,
) -> Result<Row, Box<dyn Error>> {
    let mut sum = measure()?;
    for _ in 1..times {
        let row = measure()?;
        sum.cpu_seconds += row.cpu_seconds;
        sum.wall_seconds += row.wall_seconds;
    }
    sum.cpu_seconds /= f64::from(times);
    sum.wall_seconds /= f64::from(times);
    Ok(sum)
}

/// The one with neither the least nor the most CPU time.
fn median_of_three(
    mut measure: impl FnMut() -> Result<Row, Box<dyn Error>>,
) -> Result<Row, Box<dyn Error>> {
    let mut rows = [measure()?, measure()?, measure()?];
    rows.sort_by(|one, other| one.cpu_seconds.total_cmp(&other.cpu_seconds));
    let [_, median, _] = rows;
    Ok(median)
}

/// The first value in the journal of a field whose value begins so.
fn field_of_corpus(
    parent: &str,
    id: &str,
    name: &[u8],
    begin: &[u8],
) -> Result<String, Box<dyn Error>> {
    let mut journal = Journal::open(&[PathBuf::from(parent)], machine_id(id)?);
    let mut position = Position::START;
    loop {
        let mut batch = BatchEncoder::new(BATCH_BYTES);
        let outcome = journal.read_after(&position, &mut batch)?;
        position = journal.end().unwrap_or(position);
        let block = batch.finish();
        let mut fields = Vec::new();
        let mut decoder = BatchDecoder::new(&block)?;
        while decoder.read_into(&mut fields)?.is_some() {
            let value = |bytes: &[u8]| {
                let value = bytes.strip_prefix(name)?;
                value.starts_with(begin).then(|| value.to_vec())
            };
            if let Some(value) = fields.iter().find_map(|field| value(field.bytes)) {
                return Ok(String::from_utf8(value)?);
            }
        }
        if outcome.caught_up {
            return Err("the corpus has no such field".into());
        }
    }
}

fn searches(unit: &str, request: &str) -> Vec<(&'static str, Query, usize)> {
    let unit = || Query::new().units([unit]);
    // Of the journal's first entry that has one: no other has it.
    let rare = || Query::new().any_of([format!("REQUEST_ID={request}")]);
    vec![
        ("last 10", Query::new(), 10),
        ("last 10 of a unit", unit(), 10),
        ("last 10 with priority err", Query::new().priority(3), 10),
        (
            "last 10 of a unit that is not there",
            Query::new().units(["none.service"]),
            10,
        ),
        ("last 10 with a value of one entry", rare(), 10),
        ("all with a value of one entry", rare(), usize::MAX),
        ("all of a unit", unit(), usize::MAX),
        (
            "all with priority err",
            Query::new().priority(3),
            usize::MAX,
        ),
        (
            "all with a text",
            Query::new().text("module7.fn1 "),
            usize::MAX,
        ),
    ]
}

/// Opens, searches, reads; how many were found and how long it took in all.
fn search(
    parent: &str,
    id: &str,
    query: &Query,
    lines: usize,
) -> Result<(u64, f64), Box<dyn Error>> {
    let begin = Instant::now();
    let mut journal = Journal::open(&[PathBuf::from(parent)], machine_id(id)?);
    let mut position = if lines == usize::MAX {
        Position::START
    } else {
        journal.find_last(query, lines)
    };
    let mut batch = BatchEncoder::new(BATCH_BYTES);
    let mut found = 0;
    loop {
        let outcome = journal.read_matching(&position, query, &mut batch)?;
        position = Position {
            seqnum_id: outcome.seqnum_id,
            seqnum: outcome.last,
            mark: None,
        };
        found += u64::from(outcome.count);
        batch.take();
        if outcome.caught_up {
            return Ok((found, begin.elapsed().as_secs_f64() * 1e3));
        }
    }
}

fn encode(parent: &str, id: &str, max_bytes: usize, decode: bool) -> Result<Row, Box<dyn Error>> {
    let begin = (Instant::now(), cpu_seconds("self")?);
    let mut journal = Journal::open(&[PathBuf::from(parent)], machine_id(id)?);
    let mut position = Position::START;
    let (mut entries, mut bytes, mut fields) = (0, 0, 0);
    let mut batch = BatchEncoder::new(max_bytes);
    loop {
        let outcome = journal.read_after(&position, &mut batch)?;
        let mark = batch.last().as_ref().map(Mark::from);
        position = Position {
            seqnum_id: outcome.seqnum_id,
            seqnum: outcome.last,
            mark,
        };
        entries += u64::from(outcome.count);
        let block = batch.take();
        bytes += block.len() as u64;
        if decode {
            let mut scratch = Vec::new();
            let mut decoder = BatchDecoder::new(&block)?;
            while decoder.read_into(&mut scratch)?.is_some() {
                fields += scratch.len();
            }
        }
        if outcome.caught_up {
            break;
        }
    }
    let name = if decode {
        format!("encode and decode {fields} fields")
    } else {
        "encode".to_owned()
    };
    Ok(Row {
        name,
        entries,
        cpu_seconds: cpu_seconds("self")? - begin.1,
        wall_seconds: begin.0.elapsed().as_secs_f64(),
        bytes,
    })
}

/// Another reader in Rust, which decodes every field of every entry and encodes nothing.
fn sdjournal(directory: &Path) -> Result<Row, Box<dyn Error>> {
    let begin = (Instant::now(), cpu_seconds("self")?);
    let journal = sdjournal::Journal::open_dir(directory)?;
    let (mut entries, mut bytes) = (0, 0);
    for entry in journal.query().iter()? {
        let fields = entry?;
        bytes += fields
            .iter_fields()
            .map(|(name, value)| (name.len() + value.len()) as u64)
            .sum::<u64>();
        entries += 1;
    }
    Ok(Row {
        name: "sdjournal".to_owned(),
        entries,
        cpu_seconds: cpu_seconds("self")? - begin.1,
        wall_seconds: begin.0.elapsed().as_secs_f64(),
        bytes,
    })
}

/// None when there is no journalctl, or it fails.
fn journalctl(directory: &PathBuf, form: &str, entries: u64) -> Option<Row> {
    let begin = Instant::now();
    let mut child = Command::new("journalctl")
        .args(["--quiet", "--no-pager", "--output", form, "--directory"])
        .arg(directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let bytes = io::copy(child.stdout.as_mut()?, &mut io::sink()).ok()?;
    // Its output is at its end, its process still there: its times can be read.
    let cpu_seconds = cpu_seconds(&child.id().to_string()).ok()?;
    let status = child.wait().ok()?;
    let wall_seconds = begin.elapsed().as_secs_f64();
    let name = format!("journalctl -o {form}");
    status.success().then_some(Row {
        name,
        entries,
        cpu_seconds,
        wall_seconds,
        bytes,
    })
}

/// The first field of schedstat is the time on a CPU in nanoseconds.
fn cpu_seconds(process: &str) -> Result<f64, Box<dyn Error>> {
    let text = fs::read_to_string(format!("/proc/{process}/schedstat"))?;
    let nanoseconds: f64 = text.split(' ').next().ok_or("empty schedstat")?.parse()?;
    Ok(nanoseconds / 1e9)
}

fn private_kib() -> Result<u64, Box<dyn Error>> {
    let text = fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text
        .lines()
        .find(|line| line.starts_with("Anonymous:"))
        .ok_or("no line")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
}

fn machine_id(text: &str) -> Result<[u8; 16], Box<dyn Error>> {
    Ok(parse_id(text).ok_or("a machine id has 32 digits")?)
}
