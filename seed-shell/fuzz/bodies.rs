//! What each fuzz target does with its input: the way of the server itself, and then what must hold of what came out.
//! A target is true when the input was taken, false when it was refused; a panic is a finding. The fuzzer runs these,
//! and so do the crate's tests over the corpus.

use std::net::IpAddr;

use seed_shell::{
    authorized_keys,
    commands::parse,
    identity::signature,
    ssh::channel::Size,
    tui::{
        input,
        model::{Instance, MAX_BYTES, Model},
        view::Screen,
    },
};
use seed_shim::logs::render::human::escaped;

/// What a target does.
pub(crate) type Body = fn(&[u8]) -> bool;

/// All of them. A corpus has the name of its target.
pub(crate) const TARGETS: [(&str, Body); 4] = [
    ("keys", keys),
    ("line", line),
    ("signature", verified),
    ("dashboard", dashboard),
];

/// Runs the target of this name.
pub(crate) fn run(name: &str, input: &[u8]) -> bool {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.expect("a target that is in the table").1(input)
}

/// `.authorized_keys`: taken when a line gives access; what it gives can be asked for any address.
fn keys(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Ok(lines) = authorized_keys::parse(&text) else {
        return false;
    };
    let mut given = false;
    for (number, line) in lines {
        assert!(number > 0);
        if let Ok(entry) = line {
            given = true;
            for address in ["192.0.2.1", "2001:db8::1", "::ffff:10.0.0.1"] {
                let address: IpAddr = address.parse().expect("an address");
                let _ = entry.options.admit(address, jiff::Timestamp::UNIX_EPOCH);
            }
        }
    }
    given
}

/// A command line; a refusal has no control character in its text but the newline between its lines, and tabs, which are
/// left as they are in every text (see seed_shim::logs::escaped).
fn line(bytes: &[u8]) -> bool {
    match parse::line(&String::from_utf8_lossy(bytes)) {
        Ok(_) => true,
        Err(failure) => {
            let text = failure.text();
            assert!(
                text.chars()
                    .all(|c| c == '\n' || c == '\t' || !c.is_control()),
                "{text:?}"
            );
            false
        }
    }
}

/// Text, a newline, and a signature over it.
fn verified(bytes: &[u8]) -> bool {
    let input = String::from_utf8_lossy(bytes);
    let (text, signature) = input.split_once('\n').unwrap_or((&input, ""));
    signature::verify(text, signature).is_ok()
}

/// Keys, a zero byte, and what a guest wrote: refused without the zero byte. What goes to the terminal are ours alone of
/// its control sequences.
fn dashboard(bytes: &[u8]) -> bool {
    let Some(at) = bytes.iter().position(|byte| *byte == 0) else {
        return false;
    };
    let (pressed, guest) = (&bytes[..at], String::from_utf8_lossy(&bytes[at + 1..]));
    let size = Size {
        columns: 80,
        rows: 24,
    };
    let mut screen = Screen::new(size).expect("memory takes it");
    let mut model = Model::default();
    let _ = model.update(vec![Instance {
        name: "app/web".into(),
        problem: escaped(&guest),
        ..Instance::default()
    }]);
    let shown: Vec<String> = guest.split('\n').map(escaped).collect();
    model.append(&shown.join("\n"));
    let mut sent = screen.draw(&mut model).expect("memory takes it");
    for key in input::keys(pressed) {
        let _ = model.key(key);
        sent.extend(screen.draw(&mut model).expect("memory takes it"));
    }
    let sent = String::from_utf8(sent).expect("a screen is text");
    check(&sent);
    assert!(model.back() <= MAX_BYTES);
    true
}

/// Nothing but text, and of escapes only what draws: cursor, colours, erasing, modes.
fn check(sent: &str) {
    let mut rest = sent;
    while let Some(at) = rest.find(|c: char| c.is_control()) {
        rest = &rest[at..];
        let body = rest
            .strip_prefix("\x1b[")
            .unwrap_or_else(|| panic!("{:?}", &rest.chars().take(9).collect::<String>()));
        let end = body
            .find(|c: char| ('\x40'..='\x7e').contains(&c))
            .expect("an end");
        let last = body[end..].chars().next().expect("a letter");
        assert!("HJKmhl".contains(last), "{last:?}");
        rest = &body[end + 1..];
    }
}
