//! Bytes of a terminal in raw mode, as keys: what xterm and its kin send (xterm's ctlseqs, "PC-Style Function
//! Keys").

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A letter, a digit, a sign.
    Char(char),
    /// Return.
    Enter,
    /// Escape alone.
    Escape,
    /// Backspace.
    Backspace,
    /// Ctrl-C or Ctrl-D.
    Interrupt,
    /// Arrows and their neighbours.
    Up,
    /// See [`Key::Up`].
    Down,
    /// See [`Key::Up`].
    Left,
    /// See [`Key::Up`].
    Right,
    /// See [`Key::Up`].
    PageUp,
    /// See [`Key::Up`].
    PageDown,
    /// See [`Key::Up`].
    Home,
    /// See [`Key::Up`].
    End,
}

/// The keys in a piece of input. A sequence that is not known is no key. What a terminal sends for one key comes in
/// one piece, so an escape at the end is the key of that name.
pub fn keys(bytes: &[u8]) -> Vec<Key> {
    let text = String::from_utf8_lossy(bytes);
    let mut rest = text.as_ref();
    let mut keys = Vec::new();
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\x1b' => {
                let (key, behind) = escape(rest);
                keys.extend(key);
                rest = behind;
            }
            '\r' | '\n' => keys.push(Key::Enter),
            '\x7f' | '\x08' => keys.push(Key::Backspace),
            '\x03' | '\x04' => keys.push(Key::Interrupt),
            c if !c.is_control() => keys.push(Key::Char(c)),
            _ => {}
        }
    }
    keys
}

/// What is behind an escape.
fn escape(rest: &str) -> (Option<Key>, &str) {
    let Some(body) = rest.strip_prefix('[').or_else(|| rest.strip_prefix('O')) else {
        return (Some(Key::Escape), rest);
    };
    let is_final = |c: char| ('\x40'..='\x7e').contains(&c);
    let Some(end) = body.find(is_final) else {
        return (None, "");
    };
    let (parameters, last) = (&body[..end], &body[end..=end]);
    let key = match (last, parameters.split(';').next().unwrap_or_default()) {
        ("A", _) => Some(Key::Up),
        ("B", _) => Some(Key::Down),
        ("C", _) => Some(Key::Right),
        ("D", _) => Some(Key::Left),
        ("H", _) | ("~", "1" | "7") => Some(Key::Home),
        ("F", _) | ("~", "4" | "8") => Some(Key::End),
        ("~", "5") => Some(Key::PageUp),
        ("~", "6") => Some(Key::PageDown),
        _ => None,
    };
    (key, &body[end + 1..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_terminals_send() {
        assert_eq!(
            keys(b"q\x1b[A\x1bOB\x1b[5~\x1b[1;5H\r\x7f\x03"),
            [
                Key::Char('q'),
                Key::Up,
                Key::Down,
                Key::PageUp,
                Key::Home,
                Key::Enter,
                Key::Backspace,
                Key::Interrupt,
            ]
        );
        assert_eq!(keys(b"\x1b"), [Key::Escape]);
        assert_eq!(keys("ä".as_bytes()), [Key::Char('ä')]);
        assert_eq!(keys(b"\x1b[200~x"), [Key::Char('x')]);
        assert_eq!(keys(b"\x1b["), []);
    }

    proptest! {
        #[test]
        fn no_input_is_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = keys(&bytes);
        }
    }
}
