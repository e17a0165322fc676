//! Whether journald is set so that the host gets everything: what it drops, splits or keeps without a limit is told
//! once, of the system's journald and of each namespace's, which has a configuration of its own. Reads what journald reads
//! (journald.conf(5), and systemd.syntax(7) for the order of drop-ins); changes nothing.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use seed_protocol::JournalNamespace;
use tracing::warn;

/// Where configuration is, the first wins.
const FOLDERS: [&str; 4] = [
    "etc/systemd",
    "run/systemd",
    "usr/local/lib/systemd",
    "usr/lib/systemd",
];

/// Tells what is not as it should be.
pub(super) fn tell(namespace: Option<&JournalNamespace>) {
    let name = namespace.map(JournalNamespace::as_str);
    for problem in problems(Path::new("/"), name) {
        warn!(
            problem,
            namespace = name,
            "journald is not set for a host that wants everything"
        );
    }
}

/// One sentence for each setting that is not as it should be.
fn problems(root: &Path, namespace: Option<&str>) -> Vec<&'static str> {
    let name = namespace.map_or("journald".to_owned(), |name| format!("journald@{name}"));
    let settings = settings(root, &name);
    let value = |key: &str| settings.get(key).map(String::as_str).unwrap_or_default();
    let mut problems = Vec::new();
    // The defaults are 30 s and 10,000 messages; either at zero turns the limit off.
    if !is_zero(value("RateLimitBurst")) && !is_zero(value("RateLimitIntervalSec")) {
        problems.push("journald drops messages of a unit that logs much: set RateLimitBurst=0");
    }
    // By user is the default.
    if value("SplitMode") != "none" {
        problems.push("journald keeps a file for each user, and reading several is slower: set SplitMode=none");
    }
    if value("SystemMaxUse").is_empty() {
        problems.push(
            "the journal may fill a tenth of its file system, up to 4 GiB: set SystemMaxUse=",
        );
    }
    if value("RuntimeMaxUse").is_empty() {
        problems.push(
            "the journal may fill a tenth of /run, which is memory, before it is on the disk: set RuntimeMaxUse=",
        );
    }
    problems
}

/// Zero of whatever unit.
fn is_zero(value: &str) -> bool {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    !digits.is_empty() && digits.bytes().all(|digit| digit == b'0')
}

/// The settings of `[Journal]`; one that was emptied is not there.
fn settings(root: &Path, name: &str) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for path in files(root, name) {
        // What cannot be read says nothing, to journald as to us.
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut ours = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                ours = line == "[Journal]";
            } else if let Some((key, value)) = line.split_once('=').filter(|_| ours)
                && !line.starts_with(['#', ';'])
            {
                settings.insert(key.trim().to_owned(), value.trim().to_owned());
            }
        }
    }
    settings.retain(|_, value| !value.is_empty());
    settings
}

/// The main file, then the drop-ins by name; of one name only the first.
fn files(root: &Path, name: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let main = FOLDERS.map(|folder| root.join(folder).join(format!("{name}.conf")));
    files.extend(main.into_iter().find(|path| path.exists()));
    let mut drop_ins = BTreeMap::new();
    for folder in FOLDERS {
        let entries = fs::read_dir(root.join(folder).join(format!("{name}.conf.d")));
        for entry in entries.into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|ending| ending == "conf") {
                drop_ins.entry(entry.file_name()).or_insert(path);
            }
        }
    }
    files.extend(drop_ins.into_values());
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(files: &[(&str, &str)]) -> Vec<&'static str> {
        told_of(None, files)
    }

    fn told_of(namespace: Option<&str>, files: &[(&str, &str)]) -> Vec<&'static str> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        problems(root.path(), namespace)
    }

    #[test]
    fn the_defaults_are_told() {
        assert_eq!(told(&[]).len(), 4);
        let commented = "[Journal]\n#RateLimitBurst=0\n;SplitMode=none\n[Other]\nSystemMaxUse=1G\n";
        assert_eq!(told(&[("etc/systemd/journald.conf", commented)]).len(), 4);
    }

    #[test]
    fn what_is_as_it_should_be_is_not_told() {
        let text = "[Journal]\nRateLimitIntervalSec=0s\nSplitMode=none\nSystemMaxUse=64M\nRuntimeMaxUse=8M\n";
        assert_eq!(told(&[("usr/lib/systemd/journald.conf", text)]), [""; 0]);
        let text =
            "[Journal]\nRateLimitBurst = 0\nSplitMode=none\nSystemMaxUse=64M\nRuntimeMaxUse=8M\n";
        assert_eq!(
            told(&[("run/systemd/journald.conf.d/a.conf", text)]),
            [""; 0]
        );
    }

    #[test]
    fn drop_ins_come_by_name_and_the_first_folder_wins() {
        let good =
            "[Journal]\nRateLimitBurst=0\nSplitMode=none\nSystemMaxUse=64M\nRuntimeMaxUse=8M\n";
        let main = ("etc/systemd/journald.conf", good);
        let burst = "[Journal]\nRateLimitBurst=50\n";
        let problems = told(&[main, ("usr/lib/systemd/journald.conf.d/b.conf", burst)]);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("RateLimitBurst"), "{problems:?}");
        let masked = ("etc/systemd/journald.conf.d/b.conf", "");
        let below = ("usr/lib/systemd/journald.conf.d/b.conf", burst);
        assert_eq!(told(&[main, masked, below]), [""; 0]);
        // An empty value is the default again.
        let emptied = (
            "etc/systemd/journald.conf.d/c.conf",
            "[Journal]\nSystemMaxUse=\n",
        );
        assert!(told(&[main, emptied])[0].contains("SystemMaxUse"));
    }

    #[test]
    fn a_namespace_has_settings_of_its_own() {
        let good =
            "[Journal]\nRateLimitBurst=0\nSplitMode=none\nSystemMaxUse=64M\nRuntimeMaxUse=8M\n";
        let of_system = ("etc/systemd/journald.conf", good);
        let of_web = ("etc/systemd/journald@web.conf.d/a.conf", good);
        assert_eq!(told_of(Some("web"), &[of_system]).len(), 4);
        assert_eq!(told_of(Some("web"), &[of_web]), [""; 0]);
        assert_eq!(told(&[of_web]).len(), 4);
    }
}
