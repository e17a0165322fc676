//! What to run: the request's fields as systemd needs them. The program is looked up here, so that a
//! missing command is answered at once and by its name; systemd would fork first and say 203.
//!
//! Sources: `systemd.exec(5)`; execvp(3) for the search; OCI runtime specification, "Process".

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    slice,
};

use super::{ExecError, Size};
use crate::systemd;

/// Where programs are, after the directories of the given `PATH`: an image's `PATH` need not fit the
/// guest. NixOS first, then other distributions.
const DEFAULT_PATH: [&str; 8] = [
    "/run/wrappers/bin",
    "/run/current-system/sw/bin",
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// What programs in a terminal find in `TERM` when nobody says otherwise.
const DEFAULT_TERM: &str = "xterm-256color";

/// The most bytes of arguments and of environment: below what execve(2) takes.
const MAX_STRINGS_BYTES: usize = 1024 * 1024;

/// Who runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// By name; the group is the user's own.
    Name(String),
    /// By number. The group is the user's own unless one is given.
    Number {
        /// The user.
        uid: u32,
        /// The group.
        gid: Option<u32>,
    },
}

/// A process as it was asked for. Nothing in it is checked yet: [`ProcessSpec::resolve`] does that.
#[derive(Clone)]
pub struct ProcessSpec {
    /// The command and its arguments.
    pub arguments: Vec<String>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    /// Where it starts; `/` when empty.
    pub directory: String,
    /// Who runs it.
    pub user: User,
    /// Set-user-id programs gain nothing.
    pub no_new_privileges: bool,
    /// A terminal of this size.
    pub terminal: Option<Size>,
}

/// The values of an environment may be secrets, and so may arguments.
impl std::fmt::Debug for ProcessSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessSpec")
            .field("command", &self.arguments.first())
            .field("arguments", &self.arguments.len())
            .field("environment", &self.environment.len())
            .field("directory", &self.directory)
            .field("user", &self.user)
            .field("terminal", &self.terminal)
            .finish_non_exhaustive()
    }
}

/// A process that can be handed to systemd.
pub(super) struct Command {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<String>,
    pub(super) directory: PathBuf,
    pub(super) user: String,
    pub(super) group: Option<String>,
}

impl ProcessSpec {
    /// Whether this could be started in this guest, and if not, why; nothing is started.
    pub fn check(&self, id: &str) -> Result<(), ExecError> {
        self.resolve(id).map(drop)
    }

    /// Checks the fields and finds the program.
    pub(super) fn resolve(&self, id: &str) -> Result<Command, ExecError> {
        let invalid = |reason: String| ExecError::Invalid {
            id: id.to_owned(),
            reason,
        };
        let name = self.arguments.first().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| invalid("there is no command".to_owned()))?;
        check_strings("arguments", &self.arguments).map_err(&invalid)?;
        check_strings("environment", &self.environment).map_err(&invalid)?;
        check_strings("working directory", slice::from_ref(&self.directory)).map_err(&invalid)?;
        if let User::Name(name) = &self.user {
            check_strings("user", slice::from_ref(name)).map_err(&invalid)?;
        }

        let directory = if self.directory.is_empty() {
            "/"
        } else {
            self.directory.as_str()
        };
        let directory = Path::new(directory);
        if !directory.is_absolute() {
            return Err(invalid(format!(
                "working directory {directory:?} is not absolute"
            )));
        }
        if !directory.is_dir() {
            return Err(invalid(format!(
                "working directory {directory:?} does not exist"
            )));
        }

        let path = search_path(&self.environment);
        let program = find(name, &path, directory)?;
        let (user, group) = self.user.for_systemd();
        let environment = self.environment(&path).map_err(&invalid)?;
        Ok(Command {
            program,
            arguments: self.arguments.clone(),
            environment,
            directory: directory.to_owned(),
            user,
            group,
        })
    }

    /// The environment with a `PATH` that fits the guest, and with `TERM` for a terminal.
    fn environment(&self, path: &[String]) -> Result<Vec<String>, String> {
        let mut environment = Vec::with_capacity(self.environment.len() + 2);
        for entry in &self.environment {
            let (name, _) = entry
                .split_once('=')
                .ok_or("an environment entry has no '='")?;
            // `env_assignment_is_valid()` in systemd: it would refuse the whole unit.
            if name.is_empty() || name.contains(|c: char| c.is_ascii_control()) {
                return Err(format!("{name:?} is no environment name"));
            }
            if name != "PATH" {
                environment.push(entry.clone());
            }
        }
        environment.push(format!("PATH={}", path.join(":")));
        let has_term = self
            .environment
            .iter()
            .any(|entry| entry.starts_with("TERM="));
        if self.terminal.is_some() && !has_term {
            environment.push(format!("TERM={DEFAULT_TERM}"));
        }
        Ok(environment)
    }
}

impl User {
    fn for_systemd(&self) -> (String, Option<String>) {
        match self {
            Self::Name(name) => (name.clone(), None),
            // By number systemd takes users that nobody has named.
            Self::Number { uid, gid } => (uid.to_string(), gid.map(|gid| gid.to_string())),
        }
    }
}

fn check_strings(what: &str, strings: &[String]) -> Result<(), String> {
    if strings.iter().any(|string| string.contains('\0')) {
        return Err(format!("NUL in the {what}"));
    }
    if !strings.iter().all(|string| systemd::is_text(string)) {
        return Err(format!(
            "in the {what} is what Unicode knows as no character, and systemd takes none of these"
        ));
    }
    let bytes: usize = strings.iter().map(|string| string.len() + 1).sum();
    if bytes > MAX_STRINGS_BYTES {
        return Err(format!(
            "{bytes} bytes of {what}, more than {MAX_STRINGS_BYTES}"
        ));
    }
    Ok(())
}

/// The directories to search: those of `PATH` in the environment, then the guest's own.
fn search_path(environment: &[String]) -> Vec<String> {
    let given = environment
        .iter()
        .rev()
        .find_map(|entry| entry.strip_prefix("PATH="));
    let mut path: Vec<String> = given
        .unwrap_or_default()
        .split(':')
        .filter(|d| !d.is_empty())
        .map(str::to_owned)
        .collect();
    for directory in DEFAULT_PATH {
        if !path.iter().any(|known| known == directory) && Path::new(directory).is_dir() {
            path.push(directory.to_owned());
        }
    }
    path
}

fn find(name: &str, path: &[String], directory: &Path) -> Result<PathBuf, ExecError> {
    if name.contains('/') {
        let file = directory.join(name);
        return match fs::metadata(&file) {
            Ok(metadata) if is_program(&metadata) => Ok(file),
            Ok(_) => Err(ExecError::NotExecutable(name.to_owned())),
            Err(_) => Err(ExecError::NoSuchFile(name.to_owned())),
        };
    }
    // systemd wants an absolute path; a relative directory in `PATH` is none of ours.
    path.iter()
        .filter(|directory| directory.starts_with('/'))
        .map(|directory| Path::new(directory).join(name))
        .find(|file| fs::metadata(file).is_ok_and(|metadata| is_program(&metadata)))
        .ok_or_else(|| ExecError::CommandNotFound(name.to_owned()))
}

fn is_program(metadata: &fs::Metadata) -> bool {
    metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(arguments: &[&str], environment: &[&str]) -> ProcessSpec {
        ProcessSpec {
            arguments: arguments.iter().map(|&s| s.to_owned()).collect(),
            environment: environment.iter().map(|&s| s.to_owned()).collect(),
            directory: String::new(),
            user: User::Number { uid: 0, gid: None },
            no_new_privileges: false,
            terminal: None,
        }
    }

    #[test]
    fn a_command_is_found_in_the_given_path_first() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sh");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("PATH=relative:{}", dir.path().display());
        assert_eq!(spec(&["sh"], &[&path]).resolve("e").unwrap().program, file);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert_ne!(spec(&["sh"], &[&path]).resolve("e").unwrap().program, file);
    }

    #[test]
    fn a_missing_command_is_named() {
        let error = spec(&["no-such-command"], &[]).resolve("e").err().unwrap();
        assert_eq!(
            error.to_string(),
            "exec: \"no-such-command\": executable file not found in $PATH"
        );
        let error = spec(&["/no/such"], &[]).resolve("e").err().unwrap();
        assert_eq!(
            error.to_string(),
            "exec: \"/no/such\": no such file or directory"
        );
        let error = spec(&["/etc/passwd"], &[]).resolve("e").err().unwrap();
        assert_eq!(
            error.to_string(),
            "exec: \"/etc/passwd\": permission denied"
        );
    }

    #[test]
    fn path_and_term_fit_the_guest() {
        let mut spec = spec(&["sh"], &["PATH=/image", "A=1"]);
        spec.terminal = Some(Size::default());
        let environment = spec.resolve("e").unwrap().environment;
        assert_eq!(environment[0], "A=1");
        assert!(environment[1].starts_with("PATH=/image:") && environment[1].contains("/usr/bin"));
        assert_eq!(environment[2], "TERM=xterm-256color");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let refused = |spec: &ProcessSpec| spec.resolve("e").err().unwrap().to_string();
        assert_eq!(refused(&spec(&[], &[])), "exec e: there is no command");
        assert_eq!(
            refused(&spec(&["sh", "a\0b"], &[])),
            "exec e: NUL in the arguments"
        );
        assert!(refused(&spec(&["sh"], &["A"])).contains("no '='"));
        let value = refused(&spec(&["sh"], &["A=secret\u{ffff}"]));
        assert!(value.contains("in the environment") && !value.contains("secret"));
        assert!(refused(&spec(&["sh", "\u{fdd0}"], &[])).contains("in the arguments"));
        let mut named = spec(&["sh"], &[]);
        named.user = User::Name("\u{fffe}".to_owned());
        assert!(refused(&named).contains("in the user"));
        let mut relative = spec(&["sh"], &[]);
        relative.directory = "tmp".to_owned();
        assert!(refused(&relative).contains("not absolute"));
        let long = "x".repeat(MAX_STRINGS_BYTES);
        assert!(refused(&spec(&["sh", &long], &[])).contains("more than"));
    }

    #[test]
    fn values_stay_out_of_the_log() {
        let text = format!("{:?}", spec(&["sh", "hunter2"], &["TOKEN=hunter2"]));
        assert!(!text.contains("hunter2"), "{text}");
    }
}
