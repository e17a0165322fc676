//! Mount options as words (`mount(8)`), turned into the flags and the data of `mount(2)`.

use rustix::mount::MountFlags;

/// Words for whoever mounts, about what is mounted already, or about who sees it. No file system has them, and most
/// refuse what they do not have; Kata shims and drivers of volumes pass them on.
const OF_NO_FILE_SYSTEM: [&str; 15] = [
    "", "defaults", "auto", "noauto", "nofail", "_netdev", "remount", "bind", "rbind", "private",
    "rprivate", "shared", "rshared", "slave", "rslave",
];

/// What `mount(2)` is called with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// The words that the kernel knows as flags.
    pub flags: MountFlags,
    /// The file system's own words, separated by commas.
    pub data: String,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            flags: MountFlags::NODEV | MountFlags::NOSUID,
            data: String::new(),
        }
    }
}

impl MountOptions {
    /// Takes words in their order; a later one wins over an earlier one. A volume is `nodev,nosuid`
    /// unless `dev` or `suid` is asked for. `defaults`, `x-...` and the like are for others and mean nothing here.
    pub fn parse<W: AsRef<str>>(words: &[W]) -> Self {
        let mut options = Self::default();
        for word in words.iter().flat_map(|word| word.as_ref().split(',')) {
            options.apply(word);
        }
        options
    }

    /// True when nothing may be written.
    pub fn read_only(&self) -> bool {
        self.flags.contains(MountFlags::RDONLY)
    }

    fn apply(&mut self, word: &str) {
        let (flag, set) = match word {
            _ if word.starts_with("x-") || OF_NO_FILE_SYSTEM.contains(&word) => return,
            "ro" => (MountFlags::RDONLY, true),
            "rw" => (MountFlags::RDONLY, false),
            "nodev" => (MountFlags::NODEV, true),
            "dev" => (MountFlags::NODEV, false),
            "nosuid" => (MountFlags::NOSUID, true),
            "suid" => (MountFlags::NOSUID, false),
            "noexec" => (MountFlags::NOEXEC, true),
            "exec" => (MountFlags::NOEXEC, false),
            "noatime" => (MountFlags::NOATIME, true),
            "atime" => (MountFlags::NOATIME, false),
            "nodiratime" => (MountFlags::NODIRATIME, true),
            "diratime" => (MountFlags::NODIRATIME, false),
            "relatime" => (MountFlags::RELATIME, true),
            "strictatime" => (MountFlags::STRICTATIME, true),
            "lazytime" => (MountFlags::LAZYTIME, true),
            "sync" => (MountFlags::SYNCHRONOUS, true),
            "async" => (MountFlags::SYNCHRONOUS, false),
            "dirsync" => (MountFlags::DIRSYNC, true),
            own => {
                if !self.data.is_empty() {
                    self.data.push(',');
                }
                self.data.push_str(own);
                return;
            }
        };
        self.flags.set(flag, set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_no_devices_and_no_setuid_unless_asked() {
        let plain = MountOptions::parse::<&str>(&[]);
        assert_eq!(plain.flags, MountFlags::NODEV | MountFlags::NOSUID);
        let asked = MountOptions::parse(&["suid", "dev"]);
        assert!(asked.flags.is_empty());
    }

    #[test]
    fn the_later_word_wins_and_unknown_words_go_to_the_file_system() {
        let options = MountOptions::parse(&["ro", "data=ordered,rw", "x-seed.name=data", "noexec"]);
        assert_eq!(
            options.flags,
            MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC
        );
        assert_eq!(options.data, "data=ordered");
        assert!(!options.read_only());
        let words = [
            "rbind,rprivate",
            "remount",
            "nofail",
            "_netdev",
            "size=1m",
            "atime",
        ];
        let options = MountOptions::parse(&words);
        assert_eq!(options.data, "size=1m");
        assert_eq!(options.flags, MountOptions::default().flags);
    }
}
