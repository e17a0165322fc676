//! Where a repository comes from, as its owner writes it: `silo:name`, `github:user/repo`, `git+https://host/path`. The
//! last two as Nix has them: a branch or revision may follow, as a third part or as `?ref=`, `?rev=`, and a `dir=`.
//! Nothing is fetched here.

use std::fmt;

use thiserror::Error;

/// The longest one.
const MAX_BYTES: usize = 512;

/// What may follow the path, of all that Nix knows: nothing that names another host or a file.
const PARAMETERS: [&str; 3] = ["ref", "rev", "dir"];

/// Why a text is no source.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SourceError {
    /// None of the three forms.
    #[error("{0:?} is no source: write silo:NAME, github:USER/REPO or git+https://HOST/PATH")]
    Form(String),
    /// Too long.
    #[error("a source has at most {MAX_BYTES} bytes")]
    TooLong,
}

/// A source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    uri: String,
    name: String,
}

impl Source {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// What its owner calls the repository: the last part of its path, without `.git`.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl TryFrom<&str> for Source {
    type Error = SourceError;

    fn try_from(text: &str) -> Result<Self, SourceError> {
        if text.len() > MAX_BYTES {
            return Err(SourceError::TooLong);
        }
        let form = || SourceError::Form(text.to_owned());
        let (place, parameters) = match text.split_once('?') {
            Some((place, parameters)) => (place, Some(parameters)),
            None => (text, None),
        };
        let (path, last): (Vec<&str>, _) = if let Some(name) = place.strip_prefix("silo:") {
            if parameters.is_some() {
                return Err(form());
            }
            (vec![name], Some(name))
        } else if let Some(path) = place.strip_prefix("github:") {
            let parts: Vec<_> = path.split('/').collect();
            if !(2..=3).contains(&parts.len()) {
                return Err(form());
            }
            let repository = parts.get(1).copied();
            (parts, repository)
        } else if let Some(rest) = place.strip_prefix("git+https://") {
            let (host, path) = rest.split_once('/').ok_or_else(form)?;
            if !is_host(host) {
                return Err(form());
            }
            (path.split('/').collect(), path.rsplit('/').next())
        } else {
            return Err(form());
        };
        let parameters = parameters.into_iter().flat_map(|all| all.split('&'));
        let is_good = path.iter().all(|part| is_word(part)) && parameters.clone().all(is_parameter);
        let last = last.filter(|_| is_good).ok_or_else(form)?;
        let name = last.strip_suffix(".git").unwrap_or(last);
        if !is_word(name) {
            return Err(form());
        }
        Ok(Self {
            uri: text.to_owned(),
            name: name.to_owned(),
        })
    }
}

/// `ref=`, `rev=` or `dir=`, and words that slashes part.
fn is_parameter(text: &str) -> bool {
    text.split_once('=')
        .is_some_and(|(key, value)| PARAMETERS.contains(&key) && value.split('/').all(is_word))
}

/// A part of a path: nothing that leaves it, nothing that a shell or a terminal takes for more than a letter.
fn is_word(part: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') && part.chars().all(inner)
}

/// Name or address, and perhaps a port. No user: secrets do not belong into a source.
fn is_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, "443"));
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(inner)
        && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_have_names() {
        for (uri, name) in [
            ("silo:my-app", "my-app"),
            ("silo:my-app.git", "my-app"),
            ("github:user/repo", "repo"),
            ("git+https://git.example.org/a/b/site.git", "site"),
            ("git+https://localhost:8443/x", "x"),
            ("github:user/repo/v1.2", "repo"),
            ("github:user/repo?dir=deploy/web", "repo"),
            (
                "git+https://git.example.org/site?ref=feature/x&rev=0a1b",
                "site",
            ),
        ] {
            let source = Source::try_from(uri).unwrap();
            assert_eq!((source.name(), source.as_str()), (name, uri));
        }
    }

    #[test]
    fn what_leaves_its_place_or_hides_a_command_is_refused() {
        for uri in [
            "",
            "my-app",
            "silo:",
            "silo:a/b",
            "silo:..",
            "silo:-x",
            "silo:a b",
            "silo:a;id",
            "silo:a\x1b[2J",
            "github:user",
            "github:a/b/c/d",
            "github:a/b/",
            "silo:a?ref=b",
            "github:a/b?host=evil.example",
            "github:a/b?",
            "git+https://host/x?ref=..",
            "git+https://host/x?ref=a;id",
            "git+https://host/x?ref=a?rev=b",
            "git+https://",
            "git+https://host",
            "git+https://user:secret@host/x",
            "git+https://host/../x",
            "git+http://host/x",
            "file:///etc",
            "silo:.git",
        ] {
            assert!(Source::try_from(uri).is_err(), "{uri:?} was taken");
        }
        assert_eq!(
            Source::try_from(format!("silo:{}", "a".repeat(600)).as_str()),
            Err(SourceError::TooLong)
        );
    }
}
