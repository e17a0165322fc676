//! Kernel modules that the host asks for. The kernel cannot be asked to load one by name, so the guest's
//! `modprobe(8)` does it: the one that the kernel itself would call.

use std::{
    ffi::OsStr,
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use thiserror::Error;

use super::command::{self, CommandError};

/// The longest name, `MODULE_NAME_LEN` of `linux/module.h`.
const MAX_NAME_BYTES: usize = 55;

/// The most parameters of one module, and the longest of them.
const MAX_PARAMETERS: usize = 64;
const MAX_PARAMETER_BYTES: usize = 1024;

/// The most modules of one request.
const MAX_MODULES: usize = 64;

/// How long a driver may take to find its devices, and how long all of a request may.
const LIMIT: Duration = Duration::from_secs(30);
const LIMIT_OF_ALL: Duration = Duration::from_secs(60);

/// The kernel's word for its program, below `procfs`.
const PROGRAM: &str = "sys/kernel/modprobe";

/// Why a module is not there.
#[derive(Debug, Error)]
pub enum ModuleError {
    /// Not a module, or not a parameter of one.
    #[error("{0:?} is no kernel module or no parameter of one")]
    Name(String),
    /// More than anybody means.
    #[error("{0} kernel modules are more than the {MAX_MODULES} that are taken")]
    TooMany(usize),
    /// The ones before it took all the time that there is.
    #[error("kernel module {name} is not loaded: the ones before it took more than {} s", LIMIT_OF_ALL.as_secs())]
    TooLate {
        /// The module.
        name: String,
    },
    /// The guest has no program for it.
    #[error("kernel module {name} cannot be loaded: this guest has no modprobe ({source})")]
    Program {
        /// The module.
        name: String,
        /// Why.
        source: CommandError,
    },
    /// There is no such module, or it does not like its parameters or the machine.
    #[error("kernel module {name} cannot be loaded: {words}")]
    Refused {
        /// The module.
        name: String,
        /// What `modprobe` said.
        words: String,
    },
}

/// A module with parameters, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    name: String,
    parameters: Vec<String>,
}

impl Module {
    /// Checks a name and its `key=value` parameters.
    pub fn new(name: String, parameters: Vec<String>) -> Result<Self, ModuleError> {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        let plain = name.bytes().all(letter) && !name.starts_with('-');
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !plain {
            return Err(ModuleError::Name(name.chars().take(64).collect()));
        }
        let fine = |parameter: &&String| {
            parameter.len() <= MAX_PARAMETER_BYTES
                && parameter.bytes().all(|byte| byte.is_ascii_graphic())
                && !parameter.starts_with('-')
        };
        if let Some(odd) = parameters.iter().find(|parameter| !fine(parameter)) {
            return Err(ModuleError::Name(odd.chars().take(64).collect()));
        }
        if parameters.len() > MAX_PARAMETERS {
            return Err(ModuleError::Name(name));
        }
        Ok(Self { name, parameters })
    }

    /// Loads it, with what it needs. One that is there already is left as it is. Blocks.
    fn load(&self, sys: &Path, proc: &Path, limit: Duration) -> Result<(), ModuleError> {
        let directory = self.name.replace('-', "_");
        if sys.join("module").join(directory).exists() {
            return Ok(());
        }
        if limit.is_zero() {
            let name = self.name.clone();
            return Err(ModuleError::TooLate { name });
        }
        let program = program(proc).unwrap_or_else(|_| "modprobe".to_owned());
        let mut arguments: Vec<&OsStr> = vec!["--".as_ref(), self.name.as_ref()];
        arguments.extend(self.parameters.iter().map(OsStr::new));
        let ended = command::run(&program, &arguments, limit).map_err(|source| {
            let name = self.name.clone();
            ModuleError::Program { name, source }
        })?;
        if ended.status.success() {
            return Ok(());
        }
        Err(ModuleError::Refused {
            name: self.name.clone(),
            words: ended.words,
        })
    }
}

/// All modules of a request, checked: names and parameters.
pub fn checked(
    modules: impl ExactSizeIterator<Item = (String, Vec<String>)>,
) -> Result<Vec<Module>, ModuleError> {
    if modules.len() > MAX_MODULES {
        return Err(ModuleError::TooMany(modules.len()));
    }
    modules
        .map(|(name, parameters)| Module::new(name, parameters))
        .collect()
}

/// Loads all of them, in their order, within [`LIMIT_OF_ALL`]. Blocks.
pub fn load(modules: &[Module], sys: &Path, proc: &Path) -> Result<(), ModuleError> {
    let deadline = Instant::now() + LIMIT_OF_ALL;
    modules.iter().try_for_each(|module| {
        let left = deadline.saturating_duration_since(Instant::now());
        module.load(sys, proc, left.min(LIMIT))
    })
}

fn program(proc: &Path) -> io::Result<String> {
    let path = fs::read_to_string(proc.join(PROGRAM))?;
    let path = path.trim();
    if Path::new(path).is_file() {
        return Ok(path.to_owned());
    }
    Err(io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_module_is_refused() {
        for name in ["", "-r", "a/b", "a b", "../x", &"a".repeat(56)] {
            assert!(Module::new(name.to_owned(), vec![]).is_err(), "{name:?}");
        }
        for parameter in ["-f", "a b", "a\n"] {
            let odd = Module::new("loop".to_owned(), vec![parameter.to_owned()]);
            assert!(odd.is_err(), "{parameter:?}");
        }
    }

    #[test]
    fn the_kernels_own_program_loads_what_is_not_there_and_its_words_are_told() {
        let lab = tempfile::tempdir().unwrap();
        let (sys, proc) = (lab.path().join("sys"), lab.path().join("proc"));
        fs::create_dir_all(sys.join("module/is_there")).unwrap();
        fs::create_dir_all(proc.join("sys/kernel")).unwrap();
        let program = lab.path().join("modprobe");
        let said = lab.path().join("said");
        let script = format!(
            "#!/bin/sh\necho \"$@\" >> {}\n[ $2 = good ] || {{ echo no such; exit 1; }}\n",
            said.display()
        );
        seed_script::write(&program, &script);
        fs::write(proc.join(PROGRAM), format!("{}\n", program.display())).unwrap();
        let load = |name: &str, parameters: &[&str]| {
            let parameters = parameters.iter().map(|&word| word.to_owned()).collect();
            let module = Module::new(name.to_owned(), parameters).unwrap();
            module.load(&sys, &proc, LIMIT)
        };
        load("is-there", &[]).unwrap();
        load("good", &["max_loop=8"]).unwrap();
        assert_eq!(fs::read_to_string(&said).unwrap(), "-- good max_loop=8\n");
        let late = Module::new("good".to_owned(), Vec::new()).unwrap();
        let error = late.load(&sys, &proc, Duration::ZERO).unwrap_err();
        assert!(matches!(error, ModuleError::TooLate { .. }));
        let many = (0..MAX_MODULES + 1).map(|n| (format!("m{n}"), Vec::new()));
        let many: Vec<_> = many.collect();
        assert!(checked(many[1..].iter().cloned()).is_ok());
        let refused = checked(many.into_iter());
        assert!(matches!(refused, Err(ModuleError::TooMany(65))));
        let error = load("bad", &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "kernel module bad cannot be loaded: no such"
        );
    }
}
