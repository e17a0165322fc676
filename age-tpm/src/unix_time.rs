//! The date in an identity file's comment.
//!
//! Owns the turning of a system time into civil UTC text, the way Go prints it. It reads no time
//! zone: a guest's clock is UTC, and a comment needs no other.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// A moment, printed as `2026-11-21 08:09:10.123456789 +0000 UTC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UtcTime {
    secs: u64,
    nanos: u32,
}

impl UtcTime {
    /// The present; a clock before 1970 counts as 1970.
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }
}

impl From<SystemTime> for UtcTime {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            secs: since.as_secs(),
            nanos: since.subsec_nanos(),
        }
    }
}

impl fmt::Display for UtcTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, rest) = (self.secs / 86_400, self.secs % 86_400);
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}"
        )?;
        if self.nanos > 0 {
            write!(f, ".{:09}", self.nanos)?;
        }
        write!(f, " +0000 UTC")
    }
}

/// Year, month and day of a day count since 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    // Count from 0000-03-01, so that the leap day is the last of a year, in 400-year cycles.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn known_days_come_out_right() {
        // From `date -u -d @N`.
        for (secs, text) in [
            (0, "1970-01-01 00:00:00 +0000 UTC"),
            (951_782_400, "2000-02-29 00:00:00 +0000 UTC"),
            (1_709_251_199, "2024-02-29 23:59:59 +0000 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 +0000 UTC"),
        ] {
            let time = UtcTime::from(UNIX_EPOCH + Duration::from_secs(secs));
            assert_eq!(time.to_string(), text);
        }
        let time = UtcTime::from(UNIX_EPOCH + Duration::new(1, 5));
        assert_eq!(time.to_string(), "1970-01-01 00:00:01.000000005 +0000 UTC");
    }
}
