//! What systemd takes for text, wherever it is given some: in a file of environment, in a call over the bus.
//!
//! Source: `utf8_is_valid` and `unichar_is_valid` of systemd 257.

/// True for text in which every character is one. Of those that Unicode keeps from being characters systemd takes none: it
/// refuses the whole file, and answers a call with "Bad message".
pub(crate) fn is_text(text: &str) -> bool {
    !text.contains(is_no_character)
}

/// One of the 66 noncharacters: the Unicode Standard, 23.7.
fn is_no_character(c: char) -> bool {
    let number = u32::from(c);
    matches!(number, 0xfdd0..=0xfdef) || number & 0xfffe == 0xfffe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_six_characters_are_none() {
        let none: Vec<char> = ('\0'..=char::MAX).filter(|c| is_no_character(*c)).collect();
        assert_eq!(none.len(), 66);
        for c in ['\u{fdd0}', '\u{fdef}', '\u{fffe}', '\u{ffff}', '\u{10ffff}'] {
            assert!(!is_text(&format!("a{c}")), "{c:?}");
        }
        for c in ['\0', '\x1b', '\u{fdcf}', '\u{fdf0}', '\u{fffd}', '\u{feff}'] {
            assert!(is_text(&format!("a{c}")), "{c:?}");
        }
    }
}
