//! What Kubernetes tells of a container's end, as `kubectl describe pod` shows it: the text in the file that kubelet binds at
//! `terminationMessagePath` (`/dev/termination-log` where a pod names no other) of each container. The guest may write there
//! what it likes; where it wrote nothing and its end was none of its own, the reason is put there. Never goes over the
//! guest's words, and follows no link.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

use super::Exit;
use crate::{spec::SharedMount, tpm::open_plain};

/// Kubernetes' default (`TerminationMessagePathDefault` of k8s.io/api/core/v1).
const PLACE: &str = "/dev/termination-log";

/// Writes the reason of a bad end where kubelet looks for it; nothing where no file is bound there.
pub(super) fn write(shared: &[SharedMount], exit: &Exit) -> io::Result<()> {
    let bound = shared
        .iter()
        .find(|one| one.destination == Path::new(PLACE) && !one.read_only());
    let (Some(bound), true) = (bound, exit.status != 0) else {
        return Ok(());
    };
    let mut file = open_plain(File::options().append(true), &bound.source)?;
    if file.metadata()?.len() == 0 {
        write!(file, "{}", exit.reason)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    /// What is in the file after an end with this status: it had `before`, and was bound at `place`.
    fn after(status: u32, before: &str, place: &str, options: &[&str]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("message");
        fs::write(&source, before).unwrap();
        let bound = SharedMount {
            source: source.clone(),
            destination: place.into(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            ..SharedMount::sample()
        };
        write(&[SharedMount::sample(), bound], &exit(status)).unwrap();
        fs::read_to_string(source).unwrap()
    }

    fn exit(status: u32) -> Exit {
        Exit {
            status,
            reason: "qemu ended (signal 9)".into(),
        }
    }

    #[test]
    fn a_bad_ends_reason_is_kubernetes_message() {
        assert_eq!(after(137, "", PLACE, &["rw"]), "qemu ended (signal 9)");
    }

    #[test]
    fn nothing_is_said_of_a_good_end_nor_over_the_guests_words_nor_elsewhere() {
        assert_eq!(after(0, "", PLACE, &[]), "");
        assert_eq!(after(137, "its own\n", PLACE, &[]), "its own\n");
        assert_eq!(after(137, "", PLACE, &["ro"]), "");
        assert_eq!(after(137, "", "/dev/other", &[]), "");
        write(&[], &exit(137)).unwrap();
    }

    #[test]
    fn no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "").unwrap();
        symlink(&file, &link).unwrap();
        let bound = SharedMount {
            source: link,
            destination: PLACE.into(),
            ..SharedMount::sample()
        };
        write(&[bound], &exit(137)).unwrap_err();
        assert_eq!(fs::read_to_string(file).unwrap(), "");
    }
}
