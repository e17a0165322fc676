//! A small age client that speaks the plugin protocol, so that tests see each message.
//!
//! Owns one run of `identity-v1` or `recipient-v1`. Follows c2sp.org/age-plugin.
#![allow(
    dead_code,
    reason = "each test binary uses another part of this module"
)]
#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is a failure with a place"
)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use age_core::format::Stanza;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// What the plugin said, and how it ended.
pub(crate) struct Dialogue {
    /// Commands of the second phase, `done` excluded.
    pub(crate) said: Vec<Stanza>,
    /// Exit code.
    pub(crate) code: Option<i32>,
}

impl Dialogue {
    /// The messages with this tag.
    pub(crate) fn of<'a>(&'a self, tag: &'a str) -> impl Iterator<Item = &'a Stanza> {
        self.said.iter().filter(move |stanza| stanza.tag == tag)
    }

    /// All `error` bodies in one text.
    pub(crate) fn errors(&self) -> String {
        self.of("error")
            .map(|s| {
                format!(
                    "{}: {}\n",
                    s.args.join(" "),
                    String::from_utf8_lossy(&s.body)
                )
            })
            .collect()
    }
}

/// A stanza as it goes over the pipe.
pub(crate) fn encode(tag: &str, args: &[&str], body: &[u8]) -> String {
    let mut out = format!("-> {tag}");
    for arg in args {
        out.push(' ');
        out.push_str(arg);
    }
    out.push('\n');
    let body = STANDARD_NO_PAD.encode(body);
    for start in (0..=body.len()).step_by(64) {
        // A line of full length asks for another one, be it empty.
        out.push_str(&body[start..body.len().min(start + 64)]);
        out.push('\n');
    }
    out
}

/// Sends `first` and `done`, then answers each command with what `answer` returns.
pub(crate) fn talk(
    plugin: &mut Command,
    machine: &str,
    first: &str,
    mut answer: impl FnMut(&Stanza) -> String,
) -> Dialogue {
    talk_to(plugin, machine, first, |_, stanza| answer(stanza))
}

/// The same for who wants to know the plugin's process id, too, while it waits for the answer.
pub(crate) fn talk_to(
    plugin: &mut Command,
    machine: &str,
    first: &str,
    mut answer: impl FnMut(u32, &Stanza) -> String,
) -> Dialogue {
    let mut child = plugin
        .arg(format!("--age-plugin={machine}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut to = child.stdin.take().unwrap();
    let mut from = BufReader::new(child.stdout.take().unwrap());
    to.write_all(first.as_bytes()).unwrap();
    to.write_all(encode("done", &[], &[]).as_bytes()).unwrap();
    let mut said = Vec::new();
    while let Some(stanza) = read_stanza(&mut from) {
        if stanza.tag == "done" {
            break;
        }
        to.write_all(answer(child.id(), &stanza).as_bytes())
            .unwrap();
        said.push(stanza);
    }
    drop(to);
    Dialogue {
        said,
        code: child.wait().unwrap().code(),
    }
}

fn read_stanza(from: &mut impl BufRead) -> Option<Stanza> {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    let mut words = line
        .trim_end()
        .strip_prefix("-> ")?
        .split(' ')
        .map(str::to_owned);
    let tag = words.next().unwrap();
    let mut body = String::new();
    loop {
        let mut part = String::new();
        from.read_line(&mut part).unwrap();
        let part = part.trim_end();
        body.push_str(part);
        if part.len() < 64 {
            break;
        }
    }
    Some(Stanza {
        tag,
        args: words.collect(),
        body: STANDARD_NO_PAD.decode(body).unwrap(),
    })
}

/// The first phase of `identity-v1` for one file.
pub(crate) fn ask_to_unwrap(identities: &[&str], stanzas: &[Stanza]) -> String {
    let mut first = String::new();
    for identity in identities {
        first.push_str(&encode("add-identity", &[identity], &[]));
    }
    for stanza in stanzas {
        let mut args = vec!["0", stanza.tag.as_str()];
        args.extend(stanza.args.iter().map(String::as_str));
        first.push_str(&encode("recipient-stanza", &args, &stanza.body));
    }
    first
}

/// Answers like age itself: `ok` where the protocol knows the command, else `unsupported`.
pub(crate) fn like_age(stanza: &Stanza) -> String {
    match stanza.tag.as_str() {
        "msg" | "file-key" | "error" | "recipient-stanza" | "labels" => encode("ok", &[], &[]),
        _ => encode("unsupported", &[], &[]),
    }
}
