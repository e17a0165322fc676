//! Points in time as people write them for `--since` and `--until`, in systemd.time(7)'s common forms.

use jiff::{
    Span, Timestamp, Zoned,
    civil::{Date, DateTime, Time},
};
use thiserror::Error;

/// No point in time.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "time {0:?} is unknown: write 2025-11-21 23:01:02, 2025-11-21, 23:01, -1h, '5min ago', yesterday, today, now or @SECONDS"
)]
pub struct WhenError(String);

/// Microseconds since the epoch. `now` carries the time zone; a day alone is its beginning, a time alone is
/// today's.
pub fn parse(text: &str, now: &Zoned) -> Result<u64, WhenError> {
    let text = text.trim();
    let time = point(text, now).ok_or_else(|| WhenError(text.into()))?;
    u64::try_from(time.as_microsecond()).map_err(|_| WhenError(text.into()))
}

fn point(text: &str, now: &Zoned) -> Option<Timestamp> {
    let civil = |time: DateTime| Some(time.to_zoned(now.time_zone().clone()).ok()?.timestamp());
    let day = |date: Date| civil(date.at(0, 0, 0, 0));
    match text {
        "now" => return Some(now.timestamp()),
        "today" => return day(now.date()),
        "yesterday" => return day(now.date().yesterday().ok()?),
        _ => {}
    }
    if let Some(seconds) = text.strip_prefix('@') {
        let (whole, part) = seconds.split_once('.').unwrap_or((seconds, "0"));
        let micros: String = part.chars().chain("000000".chars()).take(6).collect();
        let micros: i64 = micros.parse().ok()?;
        let whole = whole.parse::<i64>().ok()?.checked_mul(1_000_000)?;
        return Timestamp::from_microsecond(whole.checked_add(micros)?).ok();
    }
    if text.ends_with(" ago") || text.starts_with(['-', '+']) {
        // jiff's own form knows the sign and `ago`, and all the units of systemd but "month" as M.
        let span: Span = text.strip_prefix('+').unwrap_or(text).parse().ok()?;
        return Some(now.checked_add(span).ok()?.timestamp());
    }
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        if let Ok(time) = text.parse::<Timestamp>() {
            return Some(time);
        }
        // A time alone also begins like a date; `DateTime` takes a date alone for its beginning.
        if text.contains('-') {
            return civil(text.parse().ok()?);
        }
        let time: Time = text.parse().ok()?;
        return civil(now.date().to_datetime(time));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_in_journalctl() {
        let now: Zoned = "2025-11-21T12:00:00+01:00[+01:00]".parse().unwrap();
        let of = |text: &str| {
            let us = parse(text, &now).map_err(|error| error.to_string())?;
            let time = Timestamp::from_microsecond(i64::try_from(us).unwrap()).unwrap();
            Ok::<_, String>(time.to_string())
        };
        for (text, expected) in [
            ("2025-11-20 23:01:02", "2025-11-20T22:01:02Z"),
            ("2025-11-20 23:01", "2025-11-20T22:01:00Z"),
            ("2025-11-20", "2025-11-19T23:00:00Z"),
            ("2025-11-20T23:01:02.5Z", "2025-11-20T23:01:02.5Z"),
            ("23:01", "2025-11-21T22:01:00Z"),
            ("now", "2025-11-21T11:00:00Z"),
            ("today", "2025-11-20T23:00:00Z"),
            ("yesterday", "2025-11-19T23:00:00Z"),
            ("-1h", "2025-11-21T10:00:00Z"),
            ("-1h30min", "2025-11-21T09:30:00Z"),
            ("5min ago", "2025-11-21T10:55:00Z"),
            ("2 days ago", "2025-11-19T11:00:00Z"),
            ("@1763766062.25", "2025-11-21T23:01:02.25Z"),
        ] {
            assert_eq!(of(text), Ok(expected.to_owned()), "{text}");
        }
        for text in ["", "soon", "-1 parsec", "2025-13-01", "25:00", "@x", "@-5"] {
            assert!(of(text).is_err(), "{text}");
        }
    }
}
