//! Scripts that a test writes and runs, in place of programs. Never what is in them: that is the test's matter.
//!
//! The kernel runs nothing that somebody has open for writing (`ETXTBSY` of execve(2)). A test that wrote the file
//! itself would have it open for a moment, and so would each child that another test of the same process starts in
//! that moment, until the child has become its program. So install(1) writes it, and nobody here ever has it open.

#![forbid(unsafe_code)]

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

/// Makes `path` a program with this text, which everybody may run at once. Replaces what was there.
///
/// # Panics
/// When it cannot be written, or install(1) is missing.
pub fn write(path: &Path, text: &str) {
    let installed = install(path, text);
    assert!(
        installed.as_ref().is_ok_and(|&done| done),
        "{}: {installed:?}",
        path.display()
    );
}

fn install(path: &Path, text: &str) -> std::io::Result<bool> {
    let mut install = Command::new("install")
        .args(["-m", "755", "/dev/stdin"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()?;
    // Closed at once: that is the end of the text.
    if let Some(mut stdin) = install.stdin.take() {
        stdin.write_all(text.as_bytes())?;
    }
    Ok(install.wait()?.success())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn what_was_written_can_be_run_while_others_start_programs() {
        let folder = tempfile::tempdir().unwrap();
        thread::scope(|scope| {
            for number in 0..8 {
                let path = folder.path().join(number.to_string());
                scope.spawn(move || {
                    for round in 0..20 {
                        write(&path, &format!("#!/bin/sh\necho {round}\n"));
                        let said = Command::new(&path).output().unwrap();
                        assert_eq!(said.stdout, format!("{round}\n").as_bytes());
                    }
                });
            }
        });
    }
}
