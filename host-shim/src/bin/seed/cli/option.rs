//! An option of a command: its names, whether it has a value, and what that may be. Which there are is not known here.

/// What a word or a value may be, for a shell that completes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Free text.
    Text,
    /// The name of an instance.
    Instance,
    /// The name of a command of this program.
    Command,
    /// A folder.
    Folder,
    /// A file.
    File,
    /// One of these.
    OneOf(&'static [&'static str]),
}

/// Whether an option has a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    /// It has none.
    Flag,
    /// It has one, which help calls so.
    Needed(&'static str, Kind),
    /// It may have one.
    Optional(&'static str),
}

/// An option.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opt {
    /// One letter, or 0 chars.
    pub(super) short: &'static str,
    /// Its name.
    pub(super) long: &'static str,
    pub(super) value: Value,
    /// Without a full stop; `;` separates clauses.
    pub(super) help: &'static str,
}

pub(super) const fn flag(short: &'static str, long: &'static str, help: &'static str) -> Opt {
    Opt {
        short,
        long,
        value: Value::Flag,
        help,
    }
}

pub(super) const fn with(
    short: &'static str,
    long: &'static str,
    value: (&'static str, Kind),
    help: &'static str,
) -> Opt {
    Opt {
        short,
        long,
        value: Value::Needed(value.0, value.1),
        help,
    }
}

impl Opt {
    /// As it is written: `-n, --lines N`.
    pub(super) fn spelled(&self) -> String {
        let mut text = match self.short {
            "" => String::new(),
            short => format!("-{short}, "),
        };
        text += &format!("--{}", self.long);
        match self.value {
            Value::Flag => {}
            Value::Needed(name, _) => text += &format!(" {name}"),
            Value::Optional(name) => text += &format!(" [{name}]"),
        }
        text
    }

    /// Whether a word of the command line is this option.
    pub(super) fn is(&self, word: &str) -> bool {
        let long = word.strip_prefix("--");
        let short = word.strip_prefix('-').filter(|rest| !rest.is_empty());
        long.map_or(short == Some(self.short), |long| long == self.long)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_known_by_both_names() {
        let lines = with("n", "lines", ("N", Kind::Text), "");
        assert!(lines.is("-n") && lines.is("--lines"));
        assert!(!lines.is("--n") && !lines.is("-lines") && !lines.is("n") && !lines.is("-"));
        let long = flag("", "json", "");
        assert!(long.is("--json") && !long.is("-") && !long.is("--"));
        assert_eq!(lines.spelled(), "-n, --lines N");
    }
}
