//! Runtime options: `runtimeoptions.v1.Options` of containerd's CRI (pkg/runtimeoptions), of which the
//! path of a configuration file matters to us. Three fields, so they are read and written by hand.

use protobuf::{CodedInputStream, CodedOutputStream, well_known_types::any::Any};
use thiserror::Error;

/// The type's name. containerd gives it bare, without a host part.
pub const TYPE_URL: &str = "runtimeoptions.v1.Options";

const CONFIG_PATH_FIELD: u32 = 2;

/// Options that are not understood.
#[derive(Debug, Error)]
#[error("runtime options of type {type_url} cannot be read")]
pub struct OptionsError {
    type_url: String,
    source: protobuf::Error,
}

/// The configuration file that the options name, if they are ours and name one.
pub fn config_path(options: &Any) -> Result<Option<String>, OptionsError> {
    if options.type_url.rsplit('/').next() != Some(TYPE_URL) {
        return Ok(None);
    }
    read(&options.value).map_err(|source| OptionsError {
        type_url: options.type_url.clone(),
        source,
    })
}

fn read(bytes: &[u8]) -> protobuf::Result<Option<String>> {
    let mut path = None;
    let mut input = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        // A tag is the field's number and its wire type; 2 is "length-delimited".
        if tag == CONFIG_PATH_FIELD << 3 | 2 {
            path = Some(input.read_string()?);
        } else if tag & 7 == 2 {
            input.read_bytes()?;
        } else {
            input.read_raw_varint64()?;
        }
    }
    Ok(path.filter(|path| !path.is_empty()))
}

/// Options that name this configuration file.
pub fn with_config_path(path: &str) -> Any {
    let mut value = Vec::new();
    let mut output = CodedOutputStream::vec(&mut value);
    // Writing to a vector cannot fail; an empty value would mean "no file".
    let written = output
        .write_string(CONFIG_PATH_FIELD, path)
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
    use super::*;

    #[test]
    fn a_path_comes_back_and_options_of_others_are_none_of_ours() {
        let options = with_config_path("/etc/seed/other.toml");
        assert_eq!(
            config_path(&options).unwrap().as_deref(),
            Some("/etc/seed/other.toml")
        );
        let runc = Any {
            type_url: "containerd.runc.v1.Options".into(),
            ..Any::default()
        };
        assert_eq!(config_path(&runc).unwrap(), None);
    }

    #[test]
    fn other_fields_are_skipped_and_cut_bytes_refused() {
        let mut options = with_config_path("/c");
        options.value = [&[0x0a, 1, b'x'][..], &options.value, &[0x1a, 1, 0]].concat();
        assert_eq!(config_path(&options).unwrap().as_deref(), Some("/c"));
        options.value.pop();
        assert!(config_path(&options).is_err());
    }
}
