//! JSON as the commands of the host's programs print it: one document a line, and the output of a command in pieces.
//! Nothing here prints.

use serde_json::Value;

/// One line of JSON in which no control character stands for itself: `serde_json` escapes those below U+0020 only.
pub fn json_line(value: &Value) -> String {
    let mut line = String::new();
    for c in value.to_string().chars() {
        if c.is_control() {
            line.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            line.push(c);
        }
    }
    line.push('\n');
    line
}

/// One stream of a command's output as values of JSON: text, with characters that come in two pieces put together. A
/// piece that is no UTF-8 is an array of its bytes, as in the journal's JSON, so nothing of it is lost.
#[derive(Debug, Default)]
pub struct Pieces(Vec<u8>);

impl Pieces {
    /// Takes the next bytes; at the stream's end there are none. The value that they make, if any.
    pub fn add(&mut self, data: &[u8]) -> Option<Value> {
        self.0.extend(data);
        let whole = match std::str::from_utf8(&self.0) {
            // It may only be cut.
            Err(error) if error.error_len().is_none() && !data.is_empty() => error.valid_up_to(),
            Ok(_) | Err(_) => self.0.len(),
        };
        let piece: Vec<u8> = self.0.drain(..whole).collect();
        if piece.is_empty() {
            return None;
        }
        Some(match String::from_utf8(piece) {
            Ok(text) => text.into(),
            Err(error) => error.into_bytes().into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_holds_no_control_character() {
        let line = json_line(&json!({ "a": "\u{1b}[2J\u{9b}31m\u{7f}\n" }));
        assert_eq!(line, "{\"a\":\"\\u001b[2J\\u009b31m\\u007f\\n\"}\n");
        let back: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(back["a"], "\u{1b}[2J\u{9b}31m\u{7f}\n");
    }

    #[test]
    fn a_character_in_two_pieces_is_one_and_what_is_no_text_stays_what_it_is() {
        let mut pieces = Pieces::default();
        assert_eq!(pieces.add(b"a\xc3"), Some(json!("a")));
        assert_eq!(pieces.add(b"\xa4b"), Some(json!("\u{e4}b")));
        assert_eq!(pieces.add(b"a\xff"), Some(json!([97, 255])));
        assert_eq!(pieces.add(b"\xe2\x82"), None);
        assert_eq!(pieces.add(b""), Some(json!([0xe2, 0x82])));
        assert_eq!(pieces.add(b""), None);
    }
}
