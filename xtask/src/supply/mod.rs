//! What our programs are made of, and that they can be made again.
//!
//! [`licences`] asks cargo-deny, [`libraries`] reads which libraries a program wants from the system, [`sbom`] lists its crates,
//! and [`release`] builds what ships, the same bytes wherever and whenever it is built.

pub(crate) mod libraries;
pub(crate) mod licences;
pub(crate) mod release;
mod sbom;

/// What ships: program, and the crate that it is built from. Programs of one crate stand together.
pub(crate) const PROGRAMS: [(&str, &str); 8] = [
    ("seed-agent", "seed-agent"),
    ("age-plugin-tpm", "age-tpm"),
    ("containerd-shim-seed-v2", "seed-shim"),
    ("seed", "seed-shim"),
    ("seed-shell", "seed-shell"),
    ("seed-identity", "seed-shell"),
    ("seed-plant", "seed-shell"),
    ("seed-sign", "seed-shell"),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The programs of one `cargo metadata`, in the form of [`PROGRAMS`].
    fn built(metadata: &serde_json::Value) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for package in metadata["packages"].as_array().expect("packages") {
            let name = package["name"].as_str().expect("a name");
            for target in package["targets"].as_array().expect("targets") {
                if target["kind"][0] == "bin" {
                    let program = target["name"].as_str().expect("a name");
                    found.push((program.to_owned(), name.to_owned()));
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn every_program_of_a_crate_that_ships_is_listed() {
        let mut cargo = std::process::Command::new("cargo");
        cargo.args(["metadata", "--no-deps", "--format-version=1", "--offline"]);
        let text = crate::util::read(&mut cargo).expect("cargo metadata");
        let metadata = serde_json::from_str(&text).expect("JSON");
        let crates = PROGRAMS.map(|(_, package)| package);
        let mut ours = PROGRAMS.map(|(program, package)| (program.to_owned(), package.to_owned()));
        ours.sort();
        let built = built(&metadata).into_iter();
        let built: Vec<_> = built
            .filter(|(_, package)| crates.contains(&package.as_str()))
            .collect();
        assert_eq!(built, ours);
    }
}
