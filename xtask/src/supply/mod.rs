//! What our programs are made of, and that they can be made again.
//!
//! [`licences`] asks cargo-deny, [`libraries`] reads which libraries a program wants from the system, [`sbom`] lists its crates,
//! and [`release`] builds what ships, the same bytes wherever and whenever it is built.

pub(crate) mod libraries;
pub(crate) mod licences;
pub(crate) mod release;
mod sbom;

/// Program, and the crate that it is built from.
pub(crate) const PROGRAMS: [(&str, &str); 5] = [
    ("seed-agent", "seed-agent"),
    ("age-plugin-tpm", "age-tpm"),
    ("containerd-shim-seed-v2", "seed-shim"),
    ("seed", "seed-shim"),
    ("seed-shell", "seed-shell"),
];
