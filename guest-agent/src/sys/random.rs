//! The kernel's random numbers (`random(4)`). A machine that was cloned or resumed shares its state with
//! its origin until it is told something new.

#![allow(
    unsafe_code,
    reason = "the kernel reseeds at once by an ioctl only, and rustix leaves ioctls to their users"
)]

use std::{fs::OpenOptions, io, io::Write};

use rustix::ioctl::{NoArg, Opcode, ioctl};

/// `RNDRESEEDCRNG` of `linux/random.h`: `_IO('R', 0x07)` on every architecture that we know.
const RNDRESEEDCRNG: Opcode = 0x5207;

/// Mixes `data` in and lets the generator start anew from it. `data` counts as no entropy at all.
pub fn reseed(data: &[u8]) -> io::Result<()> {
    let mut device = OpenOptions::new().write(true).open("/dev/random")?;
    device.write_all(data)?;
    // SAFETY: the opcode is that of an operation without an argument and without a result.
    let operation = unsafe { NoArg::<RNDRESEEDCRNG>::new() };
    // SAFETY: the operation is of that form whatever the descriptor is; one that is no random device
    // answers ENOTTY.
    unsafe { ioctl(&device, operation) }?;
    Ok(())
}
