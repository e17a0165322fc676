//! `resolv.conf(5)`, when the host brings name servers.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use rustix::mount::MountFlags;
use tracing::info;

use super::{file, mount};

/// The store of NixOS.
const STORE: &str = "/nix/store";

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

/// Has `text` at `path`. Where that is a symbolic link, another program of the guest looks after names
/// (systemd-resolved, resolvconf): the link stays, and `copy` with the text is bound over it. systemd-resolved
/// takes its servers from there then, and forwards to them. A link into `/nix/store` is what the closure itself
/// says of names, and is left alone.
pub fn write(path: &Path, copy: &Path, text: &str) -> io::Result<()> {
    if covers(copy, path)? {
        // By us, for an earlier word of the host's.
        mount::detach(path)?;
    }
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => {
            if fs::canonicalize(path).is_ok_and(|target| target.starts_with(STORE)) {
                info!(path = %path.display(), "the closure says who resolves names");
                return Ok(());
            }
            file::write_atomic(copy, text.as_bytes(), MODE)?;
            let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
            mount::bind(copy, path, flags, false)
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => file::write_atomic(path, text.as_bytes(), MODE),
    }
}

/// Whether the copy is what is at `path`, mounted there.
fn covers(copy: &Path, path: &Path) -> io::Result<bool> {
    let (Ok(ours), Ok(there)) = (fs::metadata(copy), fs::metadata(path)) else {
        return Ok(false);
    };
    let same = (ours.dev(), ours.ino()) == (there.dev(), there.ino());
    Ok(same && mount::mounted_at(path)?.is_some())
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
}
