//! Dates as people write and read them, in the local time zone.

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};

use crate::failure::Failure;

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// Reads `2026-11-20`, `2026-11-20 18:00`, `today`, `yesterday 18:00`, `now` or RFC 3339: milliseconds since 1970.
pub fn parse(text: &str) -> Result<i64, Failure> {
    parse_at(text, &Zoned::now()).ok_or_else(|| {
        Failure::usage(format!("{text:?} is not a date")).hint("2026-11-20, \"yesterday 18:00\", now")
    })
}

fn parse_at(text: &str, now: &Zoned) -> Option<i64> {
    let text = text.trim();
    if text == "now" {
        return Some(now.timestamp().as_millisecond());
    }
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Some(timestamp.as_millisecond());
    }
    let (day, time) = text.split_once(' ').unwrap_or((text, ""));
    let date = match day {
        "today" => Some(now.date()),
        "yesterday" => now.date().checked_sub(1.day()).ok(),
        "tomorrow" => now.date().checked_add(1.day()).ok(),
        _ => None,
    };
    let local = match date {
        Some(date) if time.is_empty() => date.to_datetime(Time::midnight()),
        Some(date) => date.to_datetime(time.trim().parse().ok()?),
        None => text.parse::<DateTime>().ok()?,
    };
    Some(local.to_zoned(now.time_zone().clone()).ok()?.timestamp().as_millisecond())
}

fn local(ms: i64) -> Option<Zoned> {
    Some(Timestamp::from_millisecond(ms).ok()?.to_zoned(TimeZone::system()))
}

/// `2026-11-20 18:00`, in local time.
pub fn minute(ms: i64) -> String {
    let shown = local(ms).map(|at| format!("{} {:02}:{:02}", at.date(), at.hour(), at.minute()));
    shown.unwrap_or_else(|| "(no date)".to_owned())
}

/// `20 Nov 2026`, in local time.
pub fn day(ms: i64) -> String {
    local(ms).map_or_else(|| "(no date)".to_owned(), |zoned| zoned.strftime("%-d %b %Y").to_string())
}

/// `2 days ago`, `today`, or the date if it lies in the future or far back.
pub fn ago(ms: i64) -> String {
    match Timestamp::now().as_millisecond().saturating_sub(ms).div_euclid(DAY_MS) {
        0 => "today".to_owned(),
        1 => "yesterday".to_owned(),
        days @ 2..=60 => format!("{days} days ago"),
        _ => format!("on {}", day(ms)),
    }
}

/// `3 min ago`, `2 h ago`, `5 days ago`; a time that is yet to come is now.
pub fn since(ms: i64, now_ms: i64) -> String {
    match now_ms.saturating_sub(ms) / 60_000 {
        ..1 => "just now".to_owned(),
        minutes @ 1..60 => format!("{minutes} min ago"),
        minutes @ 60..2_880 => format!("{} h ago", minutes / 60),
        minutes => format!("{} days ago", minutes / 1_440),
    }
}

/// Month and day, in local time.
pub fn month_and_day(ms: i64) -> Option<(i8, i8)> {
    local(ms).map(|zoned| (zoned.month(), zoned.day()))
}

/// How often something is done: `day`, `12 hours`.
pub fn every(ms: i64) -> String {
    let (amount, unit) = match ms / 60_000 {
        minutes if minutes % (7 * 24 * 60) == 0 => (minutes / (7 * 24 * 60), "week"),
        minutes if minutes % (24 * 60) == 0 => (minutes / (24 * 60), "day"),
        minutes if minutes % 60 == 0 => (minutes / 60, "hour"),
        minutes => (minutes, "minute"),
    };
    if amount == 1 { unit.to_owned() } else { format!("{amount} {unit}s") }
}

/// The time of day now, `18:00:05`, in local time.
pub fn time_of_day() -> String {
    Zoned::now().strftime("%H:%M:%S").to_string()
}

/// Now, in RFC 3339 and UTC, for JSON.
pub fn now_rfc3339() -> String {
    rfc3339(Timestamp::now().as_millisecond())
}

/// The time now as a part of a file name, in UTC: it sorts by age.
pub fn now_for_file_name() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H%M%SZ").to_string()
}

/// RFC 3339 in UTC, for JSON.
pub fn rfc3339(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| "0000-01-01T00:00:00Z".to_owned(), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_read_as_people_write_them() {
        let now = "2026-11-22T09:30:00+01:00[Europe/Madrid]".parse::<Zoned>().unwrap();
        for (text, expected) in [
            ("now", "2026-11-22T08:30:00Z"),
            ("today", "2026-11-21T23:00:00Z"),
            ("yesterday 18:00", "2026-11-21T17:00:00Z"),
            ("2026-07-01", "2026-06-30T22:00:00Z"),
            ("2026-07-01 12:30", "2026-07-01T10:30:00Z"),
            ("2026-11-20T10:00:00Z", "2026-11-20T10:00:00Z"),
            ("1969-01-01", "1968-12-31T23:00:00Z"),
        ] {
            assert_eq!(parse_at(text, &now).map(rfc3339).as_deref(), Some(expected), "{text}");
        }
        for bad in ["", "someday", "2026-13-01", "yesterday 25:00"] {
            assert_eq!(parse_at(bad, &now), None, "{bad}");
        }
    }
}
