//! Licences and sources of everything that we link, against the lists in `deny.toml`: what `cargo deny check
//! licenses sources` looks at, from `cargo metadata` alone. Used where cargo-deny is not installed.
//!
//! Licence expressions are SPDX's (annex D of its specification): `OR`, `AND`, `WITH`, parentheses; the old `A/B` means `A OR B`.

use std::{collections::BTreeSet, fs, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::util::{Places, read};

/// The only registry (see `[sources]` in deny.toml).
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Fails with one line per crate that is not allowed. Gives the number of crates looked at.
pub(crate) fn check(places: &Places) -> Result<usize> {
    let path = places.root.join("deny.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let allowed = allowed(&text);
    ensure!(!allowed.is_empty(), "{}: no licences", path.display());
    let mut command = Command::new("cargo");
    command.args(["metadata", "--format-version=1", "--locked"]);
    command.current_dir(&places.root);
    let metadata: Value = serde_json::from_str(&read(&mut command)?).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let wrong: Vec<String> = packages
        .iter()
        .filter_map(|package| refused(package, &allowed))
        .collect();
    ensure!(wrong.is_empty(), "not allowed:\n{}", wrong.join("\n"));
    Ok(packages.len())
}

/// The strings of `allow = [...]` under `[licenses]`.
fn allowed(deny: &str) -> BTreeSet<&str> {
    let section = deny.split("[licenses]").nth(1).unwrap_or_default();
    let list = section.split("allow = [").nth(1).unwrap_or_default();
    let list = list.split(']').next().unwrap_or_default();
    list.lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .flat_map(|line| line.split(','))
        .map(|word| word.trim().trim_matches('"'))
        .filter(|word| !word.is_empty())
        .collect()
}

/// Why a package is not allowed.
fn refused(package: &Value, allowed: &BTreeSet<&str>) -> Option<String> {
    let name = format!("{} {}", package["name"], package["version"]).replace('"', "");
    // No source: a crate of this workspace.
    let source = package["source"].as_str()?;
    if source != REGISTRY {
        return Some(format!("{name}: comes from {source}"));
    }
    let Some(licence) = package["license"].as_str() else {
        return Some(format!("{name}: names no licence"));
    };
    (!permits(licence, allowed)).then(|| format!("{name}: licence {licence:?}"))
}

/// Whether the expression can be satisfied with allowed licences alone.
fn permits(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    any(&words, &mut at, allowed) && at == words.len()
}

fn any(words: &[&str], at: &mut usize, allowed: &BTreeSet<&str>) -> bool {
    let mut answer = all(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        let next = all(words, at, allowed);
        answer |= next;
    }
    answer
}

fn all(words: &[&str], at: &mut usize, allowed: &BTreeSet<&str>) -> bool {
    let mut answer = term(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        let next = term(words, at, allowed);
        answer &= next;
    }
    answer
}

fn term(words: &[&str], at: &mut usize, allowed: &BTreeSet<&str>) -> bool {
    let Some(word) = words.get(*at) else {
        return false;
    };
    *at += 1;
    if *word == "(" {
        let answer = any(words, at, allowed);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return answer && closed;
    }
    if words.get(*at) == Some(&"WITH") {
        let exception = words.get(*at + 1).copied().unwrap_or_default();
        *at += 2;
        return allowed.contains(format!("{word} WITH {exception}").as_str());
    }
    allowed.contains(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_as_spdx_means_them() {
        let allowed = BTreeSet::from(["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"]);
        for (expression, expected) in [
            ("MIT", true),
            ("GPL-3.0-only", false),
            ("GPL-3.0-only OR MIT", true),
            ("GPL-3.0-only AND MIT", false),
            ("MIT/Apache-2.0", true),
            ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", true),
            ("GPL-2.0 WITH Classpath-exception-2.0", false),
            ("(MIT OR GPL-2.0) AND Apache-2.0", true),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", false),
            ("MIT OR GPL-2.0 AND Apache-2.0", true),
            ("(MIT", false),
            ("MIT)", false),
            ("", false),
        ] {
            assert_eq!(permits(expression, &allowed), expected, "{expression}");
        }
    }

    #[test]
    fn the_list_is_read_from_deny_toml() {
        let text = "[graph]\nallow = [\"GPL\"]\n[licenses]\n# why\nallow = [\n  \"MIT\", # yes\n  \"A WITH B\",\n]\n[bans]\n";
        assert_eq!(allowed(text), BTreeSet::from(["MIT", "A WITH B"]));
    }

    #[test]
    fn packages_from_elsewhere_or_without_a_licence_are_refused() {
        let allowed = BTreeSet::from(["MIT"]);
        let package = |source: &str, licence: Value| {
            let value = serde_json::json!({
                "name": "x", "version": "1.0.0", "source": source, "license": licence,
            });
            refused(&value, &allowed)
        };
        assert_eq!(package(REGISTRY, "MIT".into()), None);
        assert!(package(REGISTRY, Value::Null).is_some_and(|why| why.contains("x 1.0.0")));
        assert!(package("git+https://example.org/x", "MIT".into()).is_some());
        let ours = serde_json::json!({ "name": "ours", "version": "0.1.0", "source": null });
        assert_eq!(refused(&ours, &allowed), None);
    }
}
