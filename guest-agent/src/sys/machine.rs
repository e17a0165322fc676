//! Facts about the running machine: `/proc/sys/kernel`, `uname(2)`, `sethostname(2)`.

use std::{fs, io};

/// The kernel's boot id as 32 hexadecimal digits.
pub fn boot_id() -> io::Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.chars().filter(char::is_ascii_hexdigit).collect())
}

/// The host name as the kernel has it.
pub fn hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Sets the kernel's host name.
pub fn set_hostname(name: &str) -> io::Result<()> {
    Ok(rustix::system::sethostname(name.as_bytes())?)
}
