//! The lines of a repository's `.authorized_keys`, in the format of sshd(8), "AUTHORIZED_KEYS FILE FORMAT".
//!
//! | option | here |
//! |---|---|
//! | `command="..."` | the line gives the repository to that command alone |
//! | `from="..."` | honoured: addresses, CIDR, `*` and `?`, `!`; host names are refused |
//! | `expiry-time="..."` | honoured |
//! | `no-pty`, `restrict`, `pty` | honoured: without a terminal there is no dashboard |
//! | `no-port-forwarding`, `no-agent-forwarding`, `no-X11-forwarding`, `no-user-rc` and their opposites | there is none of that for anybody |
//! | `permitopen`, `permitlisten` | they narrow a forwarding that nobody has |
//! | `no-touch-required` | nothing is required by it |
//! | everything else: `cert-authority`, `principals`, `environment`, `tunnel`, `verify-required`, unknown ones | the line is refused, and says so |
//!
//! An option is never passed over: a line with one that cannot be honoured gives nothing.

use std::net::IpAddr;

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use russh::keys::{Algorithm, PublicKey};
use thiserror::Error;

/// More lines than this are too many for one repository.
pub const MAX_LINES: usize = 1000;

/// The longest file.
pub const MAX_FILE_BYTES: usize = 256 << 10;

/// RSA keys shorter than this can be broken.
const MIN_RSA_BITS: usize = 2048;

/// Why a line gives nothing.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LineError {
    /// No key where one should be.
    #[error("it holds no key")]
    NoKey,
    /// A key of another kind.
    #[error("keys of type {0} are not taken")]
    Algorithm(String),
    /// A short key.
    #[error("the RSA key has fewer than {MIN_RSA_BITS} bits")]
    ShortRsa,
    /// An option that cannot be honoured.
    #[error("option {0} cannot be honoured here")]
    Option(String),
    /// An option whose value is wrong.
    #[error("option {option} cannot be read: {problem}")]
    Value {
        /// Which.
        option: String,
        /// Why.
        problem: String,
    },
}

/// Why the whole file is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FileError {
    /// Too long.
    #[error(".authorized_keys has more than {MAX_LINES} lines or {MAX_FILE_BYTES} bytes")]
    TooLong,
    /// Nobody could ever get in.
    #[error(".authorized_keys gives nobody access")]
    Empty,
}

/// One line that gives access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Who.
    pub key: PublicKey,
    /// Under which conditions.
    pub options: Options,
}

/// A line that is not empty: its number, counted from 1, and what it gives.
pub type Line = (usize, Result<Entry, LineError>);

/// An option's name, and its value where it has one.
type Word = (String, Option<String>);

/// What the options of a line say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// The only command.
    pub command: Option<String>,
    /// Addresses; any without.
    pub from: Option<Vec<Pattern>>,
    /// The end.
    pub expires: Option<Timestamp>,
    /// No terminal.
    pub no_pty: bool,
}

impl Options {
    /// Whether the line gives anything to somebody from there, now.
    pub fn admit(&self, address: IpAddr, now: Timestamp) -> bool {
        let in_time = self.expires.is_none_or(|end| now < end);
        let from = self.from.as_ref();
        in_time && from.is_none_or(|patterns| matches(patterns, address))
    }
}

/// One pattern of `from=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    negated: bool,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Net(IpAddr, u8),
    Glob(String),
}

/// As in ssh_config(5), "PATTERNS": one negated match refuses, whatever else matches.
fn matches(patterns: &[Pattern], address: IpAddr) -> bool {
    let address = address.to_canonical();
    let hit = |pattern: &&Pattern| match &pattern.what {
        What::Net(net, bits) => in_net(address, *net, *bits),
        What::Glob(glob) => glob_fits(glob.as_bytes(), address.to_string().as_bytes()),
    };
    let mut hits = patterns.iter().filter(hit).peekable();
    hits.peek().is_some() && hits.all(|pattern| !pattern.negated)
}

fn in_net(address: IpAddr, net: IpAddr, bits: u8) -> bool {
    match (address, net) {
        (IpAddr::V4(address), IpAddr::V4(net)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            address.to_bits() & mask == net.to_bits() & mask
        }
        (IpAddr::V6(address), IpAddr::V6(net)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            address.to_bits() & mask == net.to_bits() & mask
        }
        _ => false,
    }
}

/// Whether the text is as the pattern says. After a mismatch only the last `*` takes one byte more: its own planter writes
/// the pattern, so the time must not grow with the number of stars.
fn glob_fits(glob: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut last_star = None;
    while seen < text.len() {
        match glob.get(at) {
            Some(b'*') => {
                last_star = Some((at + 1, seen));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[seen] => {
                at += 1;
                seen += 1;
            }
            _ => {
                let Some((after, taken)) = last_star else {
                    return false;
                };
                last_star = Some((after, taken + 1));
                (at, seen) = (after, taken + 1);
            }
        }
    }
    glob[at..].iter().all(|byte| *byte == b'*')
}

/// Reads a file: line number and what it gives, for each line that is not empty or a comment.
pub fn parse(text: &str) -> Result<Vec<Line>, FileError> {
    if text.len() > MAX_FILE_BYTES || text.lines().count() > MAX_LINES {
        return Err(FileError::TooLong);
    }
    let lines: Vec<_> = (1..)
        .zip(text.lines())
        .map(|(number, line)| (number, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| (number, parse_line(line)))
        .collect();
    if lines.iter().any(|(_, line)| line.is_ok()) {
        Ok(lines)
    } else {
        Err(FileError::Empty)
    }
}

/// Reads one line.
pub fn parse_line(line: &str) -> Result<Entry, LineError> {
    if let Some(key) = key(line) {
        return Ok(Entry {
            key: key?,
            options: Options::default(),
        });
    }
    let (options, rest) = split_options(line).ok_or(LineError::NoKey)?;
    let key = key(rest.trim_start()).ok_or(LineError::NoKey)??;
    Ok(Entry {
        key,
        options: parse_options(&options)?,
    })
}

/// The key that the text begins with; `None` when its first word is no type of key.
fn key(text: &str) -> Option<Result<PublicKey, LineError>> {
    let mut words = text.split_whitespace();
    let (kind, body) = (words.next()?, words.next()?);
    let known = kind.starts_with("ssh-")
        || kind.starts_with("ecdsa-")
        || kind.starts_with("sk-")
        || kind.starts_with("rsa-");
    if !known {
        return None;
    }
    if kind.contains("-cert-v01@") {
        return Some(Err(LineError::Algorithm(kind.to_owned())));
    }
    let Ok(key) = PublicKey::from_openssh(&format!("{kind} {body}")) else {
        return Some(Err(LineError::NoKey));
    };
    Some(admitted(&key).map(|()| key))
}

/// Whether keys of this kind are taken.
pub fn admitted(key: &PublicKey) -> Result<(), LineError> {
    match key.algorithm() {
        Algorithm::Ed25519 | Algorithm::SkEd25519 | Algorithm::Ecdsa { .. } => Ok(()),
        Algorithm::SkEcdsaSha2NistP256 => Ok(()),
        Algorithm::Rsa { .. } => {
            let rsa = key.key_data().rsa();
            let bits = rsa.map_or(0, |rsa| usize::try_from(rsa.key_size()).unwrap_or(0));
            if bits < MIN_RSA_BITS {
                return Err(LineError::ShortRsa);
            }
            Ok(())
        }
        other => Err(LineError::Algorithm(other.to_string())),
    }
}

/// Options up to the first blank outside of quotes, as name and value; and what is behind.
fn split_options(line: &str) -> Option<(Vec<Word>, &str)> {
    let mut options = Vec::new();
    let mut rest = line;
    loop {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_')))?;
        let name = &rest[..end];
        if name.is_empty() {
            return None;
        }
        rest = &rest[end..];
        let mut value = None;
        if let Some(after) = rest.strip_prefix('=') {
            let (text, behind) = quoted(after)?;
            value = Some(text);
            rest = behind;
        }
        options.push((name.to_ascii_lowercase(), value));
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None if rest.starts_with(char::is_whitespace) => return Some((options, rest)),
            None => return None,
        }
    }
}

/// A text in double quotes, in which `\"` stands for one.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.strip_prefix('"')?.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 2..])),
            '\\' if text[at + 2..].starts_with('"') => {
                value.push('"');
                chars.next();
            }
            c => value.push(c),
        }
    }
    None
}

fn parse_options(list: &[Word]) -> Result<Options, LineError> {
    let mut options = Options::default();
    for (name, value) in list {
        let wrong = |problem: &str| LineError::Value {
            option: name.clone(),
            problem: problem.to_owned(),
        };
        match (name.as_str(), value) {
            ("command", Some(command)) if options.command.is_none() => {
                options.command = Some(command.clone());
            }
            ("command", Some(_)) => return Err(wrong("it is there twice")),
            ("from", Some(list)) => {
                let patterns = list.split(',').map(pattern).collect::<Option<Vec<_>>>();
                let patterns = patterns
                    .ok_or_else(|| wrong("write addresses, nets as 192.0.2.0/24, or * and ?"))?;
                options.from = Some(patterns);
            }
            ("expiry-time", Some(time)) => {
                let end = expiry(time)
                    .ok_or_else(|| wrong("write YYYYMMDD[HHMM[SS]], with Z behind it for UTC"))?;
                options.expires = Some(options.expires.map_or(end, |other| other.min(end)));
            }
            ("no-pty" | "restrict", None) => options.no_pty = true,
            ("pty", None) => options.no_pty = false,
            (
                "no-port-forwarding"
                | "port-forwarding"
                | "no-agent-forwarding"
                | "agent-forwarding"
                | "no-x11-forwarding"
                | "x11-forwarding"
                | "no-user-rc"
                | "user-rc"
                | "no-touch-required",
                None,
            )
            | ("permitopen" | "permitlisten", Some(_)) => {}
            _ => return Err(LineError::Option(name.clone())),
        }
    }
    Ok(options)
}

fn pattern(text: &str) -> Option<Pattern> {
    let text = text.trim();
    let (negated, text) = match text.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let what = if let Some((net, bits)) = text.split_once('/') {
        let net: IpAddr = net.parse().ok()?;
        let bits: u8 = bits.parse().ok()?;
        let most = if net.is_ipv4() { 32 } else { 128 };
        (bits <= most).then_some(What::Net(net, bits))?
    } else if let Ok(address) = text.parse::<IpAddr>() {
        What::Net(address, if address.is_ipv4() { 32 } else { 128 })
    } else {
        // Of addresses only: a name would need a lookup, whose answer others choose.
        let numeric = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '*' | '?');
        let wild = text.contains(['*', '?']);
        (wild && text.chars().all(numeric)).then(|| What::Glob(text.to_ascii_lowercase()))?
    };
    Some(Pattern { negated, what })
}

/// `YYYYMMDD[Z]`, `YYYYMMDDHHMM[SS][Z]`: local time unless it ends with Z.
fn expiry(text: &str) -> Option<Timestamp> {
    let (digits, zone) = match text.strip_suffix(['Z', 'z']) {
        Some(digits) => (digits, TimeZone::UTC),
        None => (text, TimeZone::system()),
    };
    if !digits.is_ascii() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let padded = match digits.len() {
        8 => format!("{digits}000000"),
        12 => format!("{digits}00"),
        14 => digits.to_owned(),
        _ => return None,
    };
    let time = DateTime::strptime("%Y%m%d%H%M%S", &padded).ok()?;
    time.to_zoned(zone).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHVsIQyGBFcRvjQXXBH5bdOTFGM5uBnPzB2yXJYsRJnP";

    fn options(text: &str) -> Result<Options, LineError> {
        parse_line(&format!("{text} {KEY} me@there")).map(|entry| entry.options)
    }

    #[test]
    fn options_are_honoured() {
        let got = options(
            r#"restrict,command="logs \"web\" -f",from="10.0.0.0/8,!10.1.0.0/16,2001:db8::/32""#,
        );
        let got = got.unwrap();
        assert_eq!(got.command.as_deref(), Some("logs \"web\" -f"));
        assert!(got.no_pty);
        let admits = |address: &str| got.admit(address.parse().unwrap(), Timestamp::UNIX_EPOCH);
        assert!(admits("10.2.3.4") && admits("2001:db8::1") && admits("::ffff:10.2.3.4"));
        assert!(!admits("10.1.3.4") && !admits("192.0.2.1") && !admits("2001:db9::1"));
        assert!(!options("restrict,pty").unwrap().no_pty);
        assert_eq!(parse_line(KEY).unwrap().options, Options::default());
        let glob = options(r#"from="192.0.2.?""#).unwrap();
        assert!(glob.admit("192.0.2.7".parse().unwrap(), Timestamp::UNIX_EPOCH));
        assert!(!glob.admit("192.0.2.17".parse().unwrap(), Timestamp::UNIX_EPOCH));
        // Its time does not grow with its stars.
        let stars = glob_fits(&[&[b'*'; 400][..], b"z"].concat(), b"2001:db8::1:2:3:4");
        assert!(!stars);
        for (glob, text, fits) in [
            ("*", "", true),
            ("", "a", false),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1b2b3cd", false),
            ("**1?", "10.1", false),
            ("**1?", "10.10", true),
        ] {
            let found = glob_fits(glob.as_bytes(), text.as_bytes());
            assert_eq!(found, fits, "{glob} {text}");
        }
        let only_not = options(r#"from="!192.0.2.1""#).unwrap();
        assert!(!only_not.admit("192.0.2.7".parse().unwrap(), Timestamp::UNIX_EPOCH));
    }

    #[test]
    fn a_line_ends_when_it_says() {
        let got = options(r#"expiry-time="20300102030405Z""#).unwrap();
        let end: Timestamp = "2030-01-02T03:04:05Z".parse().unwrap();
        assert_eq!(got.expires, Some(end));
        let there = "::1".parse().unwrap();
        assert!(got.admit(there, end - jiff::SignedDuration::from_secs(1)));
        assert!(!got.admit(there, end));
        assert!(options(r#"expiry-time="2030""#).is_err());
        assert!(options(r#"expiry-time="20301332""#).is_err());
    }

    #[test]
    fn an_option_that_cannot_be_honoured_refuses_its_line() {
        for (text, said) in [
            ("cert-authority", "cert-authority"),
            ("verify-required", "verify-required"),
            (r#"environment="A=1""#, "environment"),
            (r#"principals="me""#, "principals"),
            (r#"tunnel="0""#, "tunnel"),
            ("no-such-option", "no-such-option"),
            ("command", "command"),
            (r#"from="*.example.org""#, "from"),
            (r#"from="10.0.0.0/33""#, "from"),
            (r#"command="a",command="b""#, "command"),
        ] {
            let error = options(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
        assert_eq!(options("no-pty,,pty"), Err(LineError::NoKey));
        assert_eq!(options(r#"command="a"#), Err(LineError::NoKey));
    }

    #[test]
    fn kinds_of_keys() {
        let dsa = "ssh-dss AAAAB3NzaC1kc3MAAACBAP";
        assert!(parse_line(dsa).is_err());
        let cert = "ssh-ed25519-cert-v01@openssh.com AAAA";
        assert_eq!(
            parse_line(cert),
            Err(LineError::Algorithm(
                "ssh-ed25519-cert-v01@openssh.com".into()
            ))
        );
        assert_eq!(parse_line("hello"), Err(LineError::NoKey));
    }

    #[test]
    fn a_file_says_which_lines_give_nothing() {
        let text = format!("# note\n\n{KEY}\ncert-authority {KEY}\n");
        let lines = parse(&text).unwrap();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].0 == 3 && lines[0].1.is_ok());
        assert!(lines[1].0 == 4 && lines[1].1.is_err());
        assert_eq!(parse("# nobody\n"), Err(FileError::Empty));
        assert_eq!(parse(&"\n".repeat(1001)), Err(FileError::TooLong));
    }
}
