//! Runtime options: `runtimeoptions.v1.Options` of containerd's CRI (api/types/runtimeoptions), which name a configuration
//! file or carry the configuration itself. Three fields, so they are read and written by hand.
//!
//! Where a runtime's table `options` has no `ConfigPath`, CRI gives the whole table as TOML (`GenerateRuntimeOptions`, since
//! containerd 1.7): it is the configuration then, in place of a file. Where it has one, CRI gives the path alone, and keys
//! beside it are lost before they come here.

use std::path::{Path, PathBuf};

use protobuf::{CodedInputStream, CodedOutputStream, well_known_types::any::Any};
use thiserror::Error;

use crate::config::{Config, ConfigError};

/// The type's name. containerd gives it bare, without a host part.
const TYPE_URL: &str = "runtimeoptions.v1.Options";

const CONFIG_PATH_FIELD: u32 = 2;
const CONFIG_BODY_FIELD: u32 = 3;

/// Where an error says that the configuration is.
const INLINE: &str = "in the runtime's options";

/// Options that are of no use.
#[derive(Debug, Error)]
pub enum OptionsError {
    /// The bytes.
    #[error("runtime options of type {TYPE_URL} cannot be read")]
    Encoding(#[from] protobuf::Error),
    /// Two configurations.
    #[error(
        "the runtime's options name configuration {} and carry another: take one of the two out",
        path.display()
    )]
    Both {
        /// The file that they name.
        path: PathBuf,
    },
    /// The configuration that they name or carry.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Whether options are of the type that is read here.
pub fn are_ours(options: &Any) -> bool {
    options.type_url.rsplit('/').next() == Some(TYPE_URL)
}

/// The configuration that these options choose. Options of another type choose none, and then it is what
/// [`Config::load`] finds by itself.
pub fn configuration(options: Option<&Any>) -> Result<Config, OptionsError> {
    let fields = options
        .filter(|any| are_ours(any))
        .map(|any| read(&any.value));
    let Fields { path, body } = fields.transpose()?.unwrap_or_default();
    Ok(match (path, body) {
        (Some(path), Some(_)) => return Err(OptionsError::Both { path }),
        (None, Some(body)) => Config::parse(&body, Path::new(INLINE))?,
        (path, None) => Config::load(path.as_deref())?,
    })
}

/// What options say; empty is as good as absent.
#[derive(Debug, Default)]
struct Fields {
    path: Option<PathBuf>,
    body: Option<String>,
}

fn read(bytes: &[u8]) -> protobuf::Result<Fields> {
    let mut fields = Fields::default();
    let mut input = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        // A tag is the field's number and its wire type; 2 is "length-delimited".
        match (tag >> 3, tag & 7) {
            (CONFIG_PATH_FIELD, 2) => {
                let path = input.read_string()?;
                fields.path = (!path.is_empty()).then(|| path.into());
            }
            (CONFIG_BODY_FIELD, 2) => {
                // Bytes for containerd; TOML is UTF-8, which is what a string of protobuf is.
                let body = input.read_string()?;
                fields.body = (!body.is_empty()).then_some(body);
            }
            (_, 2) => drop(input.read_bytes()?),
            _ => drop(input.read_raw_varint64()?),
        }
    }
    Ok(fields)
}

/// Options that name this configuration file.
pub fn with_config_path(path: &Path) -> Any {
    with_field(CONFIG_PATH_FIELD, &path.to_string_lossy())
}

/// Options that carry this configuration.
pub fn with_config_body(body: &str) -> Any {
    with_field(CONFIG_BODY_FIELD, body)
}

fn with_field(number: u32, text: &str) -> Any {
    let mut value = Vec::new();
    let mut output = CodedOutputStream::vec(&mut value);
    // Writing to a vector cannot fail; an empty value would mean that nothing is chosen.
    let written = output
        .write_string(number, text)
        .and_then(|()| output.flush());
    drop(output);
    debug_assert!(written.is_ok());
    Any {
        type_url: TYPE_URL.into(),
        value,
        ..Any::default()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::Accel;

    fn refused(options: &Any) -> String {
        configuration(Some(options)).unwrap_err().to_string()
    }

    #[test]
    fn a_file_that_is_named_is_read_and_options_of_others_are_none_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("other.toml");
        fs::write(&file, "accel = 'tcg'").unwrap();
        let options = with_config_path(&file);
        assert_eq!(configuration(Some(&options)).unwrap().accel, Accel::Tcg);
        fs::remove_file(&file).unwrap();
        assert!(refused(&options).contains("other.toml"));

        let runc = Any {
            type_url: "containerd.runc.v1.Options".into(),
            ..options
        };
        assert!(!are_ours(&runc));
        let found = Config::load(None).unwrap();
        let empty = with_config_path(Path::new(""));
        for options in [None, Some(&runc), Some(&empty)] {
            assert_eq!(configuration(options).unwrap(), found);
        }
    }

    #[test]
    fn a_configuration_in_the_options_is_one_whose_unknown_keys_are_refused() {
        let options = with_config_body("accel = \"tcg\"\n\n[limits]\n  hello_seconds = 7\n");
        let config = configuration(Some(&options)).unwrap();
        assert_eq!((config.accel, config.limits.hello_seconds), (Accel::Tcg, 7));

        let said = refused(&with_config_body("SystemdCgroup = true\n"));
        let wanted =
            "configuration in the runtime's options, line 1: unknown field `SystemdCgroup`";
        assert!(said.starts_with(wanted), "{said}");
        let said = refused(&with_config_body("run_dir = \"run\"\n"));
        assert!(said.contains("runtime's options: run_dir"), "{said}");
    }

    #[test]
    fn two_configurations_at_once_are_refused() {
        let mut options = with_config_path(Path::new("/c.toml"));
        options
            .value
            .extend(with_config_body("accel = \"tcg\"").value);
        let said = refused(&options);
        assert!(
            said.contains("/c.toml") && said.contains("take one"),
            "{said}"
        );
    }

    #[test]
    fn other_fields_are_skipped_and_broken_bytes_refused() {
        let mut options = with_config_body("accel = \"tcg\"");
        options.value = [
            &[0x0a, 1, b'x'][..],
            &options.value,
            &[0x20, 1],
            &[0x2a, 1, 0],
        ]
        .concat();
        assert_eq!(configuration(Some(&options)).unwrap().accel, Accel::Tcg);
        options.value.pop();
        assert!(refused(&options).contains(TYPE_URL));
        options.value = vec![0x1a, 1, 0xff];
        assert!(refused(&options).contains(TYPE_URL));
    }
}
