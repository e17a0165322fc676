//! Which libraries each program wants from the system it runs on: glibc and the unwinder, and nothing else, so that a program
//! that was built here runs on any distribution of its time.
//!
//! Read from the ELF file itself (its dynamic section, System V ABI, chapter 5) by `readelf` of binutils, which every Rust
//! installation needs for its linker.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

use crate::util::read;

/// What is allowed: glibc with its loader, and libgcc for unwinding.
const ALLOWED: [&str; 4] = [
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "ld-linux-x86-64.so.2",
];

/// The libraries of a program.
pub(crate) fn of(program: &Path) -> Result<Vec<String>> {
    let text = read(Command::new("readelf").arg("--dynamic").arg(program))?;
    Ok(needed(&text))
}

/// Fails when a program wants another library than it may.
pub(crate) fn check(program: &Path) -> Result<Vec<String>> {
    let found = of(program)?;
    let others: Vec<_> = found
        .iter()
        .filter(|name| !ALLOWED.contains(&name.as_str()))
        .collect();
    if !others.is_empty() {
        bail!(
            "{} wants {others:?}, only {ALLOWED:?} are allowed",
            program.display()
        );
    }
    Ok(found)
}

/// `0x0000000000000001 (NEEDED)  Shared library: [libc.so.6]`
fn needed(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.contains("(NEEDED)"));
    lines
        .filter_map(|line| line.split_once('[')?.1.strip_suffix(']'))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_the_dynamic_section() {
        let text = "\
Dynamic section at offset 0x1 contains 3 entries:
  Tag        Type                         Name/Value
 0x0000000000000001 (NEEDED)             Shared library: [libtss2-esys.so.0]
 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]
 0x000000000000000c (INIT)               0x1000
";
        assert_eq!(needed(text), ["libtss2-esys.so.0", "libc.so.6"]);
    }

    #[test]
    fn our_own_program_wants_nothing_else() {
        let program = std::env::current_exe().expect("a program has a path");
        let found = check(&program).expect("an ELF file");
        assert!(found.contains(&"libc.so.6".to_owned()), "{found:?}");
    }
}
