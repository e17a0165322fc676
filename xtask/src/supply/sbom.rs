//! The list of everything in one program, as CycloneDX 1.5 (ECMA-424's forerunner) in JSON: each crate with version, licence,
//! source and checksum, and who needs whom. From `cargo metadata` and `Cargo.lock`; what only builds or tests is left out.
//!
//! No time stamp and no serial number: the list of one commit is always the same bytes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The only registry that we take crates from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The list of `program`, built from the crate `of`. `lock` is the text of `Cargo.lock`.
pub(super) fn of(metadata: &Value, lock: &str, program: &str, of: &str) -> Result<Value> {
    let packages = by_id(&metadata["packages"]);
    let nodes = by_id(&metadata["resolve"]["nodes"]);
    let root = packages
        .iter()
        .find(|(_, package)| package["name"] == of && package["source"].is_null())
        .map(|(id, _)| *id)
        .with_context(|| format!("there is no crate {of}"))?;
    let reached = reached(&nodes, root);
    let checksums = checksums(lock);
    let component = |id: &str| {
        component(
            packages.get(id).copied().unwrap_or(&Value::Null),
            &checksums,
        )
    };
    let dependencies = reached.iter().map(|id| {
        let direct = nodes.get(id).into_iter().flat_map(|node| normal(node));
        let direct: BTreeSet<_> = direct.map(|id| reference(packages[id])).collect();
        json!({ "ref": reference(packages[id]), "dependsOn": direct })
    });
    let mut main = component(root);
    main["type"] = json!("application");
    main["name"] = json!(program);
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": main },
        "components": reached.iter().filter(|id| **id != root).map(|id| component(id)).collect::<Vec<_>>(),
        "dependencies": dependencies.collect::<Vec<_>>(),
    }))
}

fn by_id(list: &Value) -> BTreeMap<&str, &Value> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|one| Some((one["id"].as_str()?, one)))
        .collect()
}

/// A crate and all that it links, by id.
fn reached<'a>(nodes: &BTreeMap<&'a str, &'a Value>, root: &'a str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::from([root]);
    let mut open = vec![root];
    while let Some(id) = open.pop() {
        for next in nodes.get(id).into_iter().flat_map(|node| normal(node)) {
            if found.insert(next) {
                open.push(next);
            }
        }
    }
    found
}

/// The ids of what a node links: `kind` is null for normal dependencies.
fn normal(node: &Value) -> impl Iterator<Item = &str> {
    let deps = node["deps"].as_array().into_iter().flatten();
    deps.filter(|dep| {
        let kinds = dep["dep_kinds"].as_array().into_iter().flatten();
        kinds.into_iter().any(|kind| kind["kind"].is_null())
    })
    .filter_map(|dep| dep["pkg"].as_str())
}

/// A package URL (purl) names a crate in the world; ours are on no registry.
fn reference(package: &Value) -> String {
    let word = |name: &str| package[name].as_str().unwrap_or_default();
    format!("pkg:cargo/{}@{}", word("name"), word("version"))
}

fn component(package: &Value, checksums: &BTreeMap<(String, String), String>) -> Value {
    let mut found = json!({
        "type": "library",
        "bom-ref": reference(package),
        "name": package["name"],
        "version": package["version"],
        "licenses": [{ "expression": package["license"].as_str().unwrap_or("NOASSERTION").replace('/', " OR ") }],
    });
    if package["source"] == REGISTRY {
        found["purl"] = json!(reference(package));
    }
    let word = |name: &str| package[name].as_str().unwrap_or_default().to_owned();
    if let Some(checksum) = checksums.get(&(word("name"), word("version"))) {
        found["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    found
}

/// Checksums of the lock file, by name and version. Its tables are written by cargo, always in this form.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let entries = lock.split("[[package]]").skip(1);
    entries
        .filter_map(|entry| {
            let value = |name: &str| {
                let prefix = format!("{name} = \"");
                let line = entry.lines().find_map(|line| line.strip_prefix(&prefix))?;
                Some(line.trim_end_matches('"').to_owned())
            };
            Some(((value("name")?, value("version")?), value("checksum")?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Value {
        let package = |name: &str, source: Value| json!({ "id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0", "source": source });
        let dep = |name: &str, kind: Value| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        json!({
            "packages": [
                package("ours", Value::Null),
                package("linked", REGISTRY.into()),
                package("deeper", REGISTRY.into()),
                package("only-tests", REGISTRY.into()),
            ],
            "resolve": { "nodes": [
                { "id": "ours", "deps": [dep("linked", Value::Null), dep("only-tests", "dev".into())] },
                { "id": "linked", "deps": [dep("deeper", Value::Null)] },
                { "id": "deeper", "deps": [] },
                { "id": "only-tests", "deps": [] },
            ] },
        })
    }

    const LOCK: &str = "version = 4\n\n[[package]]\nname = \"linked\"\nversion = \"1.0.0\"\nsource = \"x\"\nchecksum = \"abcd\"\n";

    #[test]
    fn what_is_linked_is_listed_and_what_only_tests_is_not() {
        let bom = of(&metadata(), LOCK, "prog", "ours").expect("a list");
        assert_eq!(bom["metadata"]["component"]["name"], "prog");
        let names: Vec<_> = bom["components"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|c| c["name"].clone())
            .collect();
        assert_eq!(names, ["deeper", "linked"]);
        let linked = &bom["components"][1];
        assert_eq!(linked["hashes"][0]["content"], "abcd");
        assert_eq!(linked["purl"], "pkg:cargo/linked@1.0.0");
        assert_eq!(linked["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(
            bom["dependencies"][2],
            json!({ "ref": "pkg:cargo/ours@1.0.0", "dependsOn": ["pkg:cargo/linked@1.0.0"] })
        );
        assert!(of(&metadata(), LOCK, "prog", "nobody").is_err());
    }
}
