//! Facts about the running machine: `/proc/sys/kernel`, `uname(2)`, `sethostname(2)`.

use std::{fs, io, path::Path};

/// The kernel's boot id as 32 hexadecimal digits.
pub fn boot_id() -> io::Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.chars().filter(char::is_ascii_hexdigit).collect())
}

/// The same as the journal has it; `None` where the kernel does not say.
pub fn boot_id_bytes() -> Option<[u8; 16]> {
    let number = u128::from_str_radix(&boot_id().ok()?, 16).ok()?;
    Some(number.to_be_bytes())
}

/// True once systemd has stopped everything and its last program ends what is left
/// (`systemd-shutdown(8)`; the kernel cuts a name after 15 bytes).
pub fn is_ending(proc: &Path) -> bool {
    let name = fs::read_to_string(proc.join("1/comm")).unwrap_or_default();
    name.trim_end() == "systemd-shutdow"
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
