//! The text of `/run/seed/env`: one `NAME="value"` a variable, in the one spelling that systemd's
//! `EnvironmentFile=` and a POSIX shell's `.` read as the same bytes.
//!
//! Sources: POSIX shell command language 2.2.3 (within double quotes a backslash is special before
//! `$`, `` ` ``, `"`, `\` and newline), and `parse_env_file` of systemd 257, which unescapes the same
//! characters inside double quotes and, for this file, expands nothing. Single quotes are read
//! differently by the two.

use super::{Environment, is_text};

/// The whole file, without what no service could be started with ([`Environment::left_out`]).
pub fn render(environment: &Environment) -> Vec<u8> {
    let mut text = Vec::new();
    let readable = environment.iter().filter(|(_, value)| is_text(value));
    for (key, value) in readable {
        text.extend_from_slice(key.as_str().as_bytes());
        text.extend_from_slice(b"=\"");
        for byte in value {
            if matches!(byte, b'"' | b'\\' | b'`' | b'$') {
                text.push(b'\\');
            }
            text.push(*byte);
        }
        text.extend_from_slice(b"\"\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_special_in_double_quotes_is_escaped_and_nothing_else() {
        let environment = Environment::parse(&["A=it's \"$5\" `x` \\ \n#end", "B="]).unwrap();
        let expected = "A=\"it's \\\"\\$5\\\" \\`x\\` \\\\ \n#end\"\nB=\"\"\n";
        assert_eq!(String::from_utf8(render(&environment)).unwrap(), expected);
        let environment = Environment::parse(&[&b"A=\xff"[..], b"B=b"]).unwrap();
        assert_eq!(render(&environment), b"B=\"b\"\n");
    }
}
