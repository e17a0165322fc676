//! `resolv.conf(5)`, when the host brings name servers.

use std::{fs, io, path::Path};

use super::file;

/// More lines than this are a mistake.
const MAX_LINES: usize = 64;

/// Longer lines than this are a mistake.
const MAX_LINE_BYTES: usize = 256;

/// Everybody resolves names.
const MODE: u32 = 0o644;

/// The file that these lines make; `None` when there are none. The error says what is wrong.
pub fn render(lines: &[String]) -> Result<Option<String>, String> {
    if lines.is_empty() {
        return Ok(None);
    }
    if lines.len() > MAX_LINES {
        return Err(format!(
            "{} lines of resolver configuration are too many",
            lines.len()
        ));
    }
    let odd = |line: &&String| line.len() > MAX_LINE_BYTES || line.chars().any(char::is_control);
    if let Some(line) = lines.iter().find(odd) {
        let start: String = line.chars().take(32).collect();
        return Err(format!(
            "{start:?}... is no line for a resolver's configuration"
        ));
    }
    Ok(Some(lines.join("\n") + "\n"))
}

/// Writes `text` to `path`. Where that is a symbolic link, another program of the guest looks after
/// names (systemd-resolved does so), and the file is left alone.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => {
            tracing::info!(path = %path.display(), "the guest looks after name servers itself");
            Ok(())
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => file::write_atomic(path, text.as_bytes(), MODE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stay_lines() {
        let lines = [
            "nameserver 192.0.2.1".to_owned(),
            "search example".to_owned(),
        ];
        let text = render(&lines).unwrap().unwrap();
        assert_eq!(text, "nameserver 192.0.2.1\nsearch example\n");
        assert_eq!(render(&[]).unwrap(), None);
        assert!(render(&["a\nb".to_owned()]).is_err());
        assert!(render(&vec![String::new(); MAX_LINES + 1]).is_err());
    }

    #[test]
    fn a_link_to_somebody_elses_file_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("f"), directory.path().join("l"));
        write(&file, "a\n").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write(&link, "b\n").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "a\n");
    }
}
