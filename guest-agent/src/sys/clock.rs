//! Clocks. `clock_gettime(2)`, `clock_settime(2)`.

use std::io;

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

/// Sets `CLOCK_REALTIME`.
pub fn set_realtime(seconds: i64, microseconds: u32) -> io::Result<()> {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: i64::from(microseconds) * 1_000,
    };
    Ok(clock_settime(ClockId::Realtime, time)?)
}

/// `CLOCK_BOOTTIME` in microseconds: how long ago the kernel started.
pub fn boottime_us() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
    seconds * 1_000_000 + nanoseconds / 1_000
}
