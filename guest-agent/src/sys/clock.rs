//! Clocks. `clock_gettime(2)`.

use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_BOOTTIME` in microseconds: how long ago the kernel started.
pub fn boottime_us() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
    seconds * 1_000_000 + nanoseconds / 1_000
}
