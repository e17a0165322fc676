//! A configuration file of a program of the host: read, parsed, and why not in one sentence with the place in it. Which keys
//! there are is its program's affair: the seed shell's is read by this, too.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use thiserror::Error;

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong kind.
    #[error("configuration {}, line {line}: {problem}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The parser's sentence, without the drawing that goes with it.
        problem: String,
    },
    /// A value outside its range.
    #[error("configuration {}: {key} {problem}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// The file's text. Blocks as long as the disk takes.
pub fn read(path: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })
}

/// What the text of `path` says.
pub fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        ConfigError::Parse {
            path: path.to_owned(),
            line: before.map_or(1, |before| before.matches('\n').count() + 1),
            problem: error.message().trim_end().replace('\n', ", "),
        }
    })
}
