//! Numbers, amounts and durations as people read them.

use std::time::Duration;

/// A count with at most three significant digits and a unit, such as `1.25M`.
pub fn compact(count: f64) -> String {
    let (scaled, unit) = match count {
        count if count >= 999_500_000.0 => (count / 1e9, "B"),
        count if count >= 999_500.0 => (count / 1e6, "M"),
        count if count >= 9_999.5 => (count / 1e3, "k"),
        count => return grouped(count),
    };
    let digits = if scaled < 10.0 { 2 } else { usize::from(scaled < 100.0) };
    format!("{scaled:.digits$}{unit}")
}

/// A count with all its digits, in groups of three. Fractions are kept to two digits.
pub fn grouped(count: f64) -> String {
    let rounded = if count.fract() == 0.0 { format!("{count:.0}") } else { format!("{count:.2}") };
    let (whole, fraction) = rounded.split_once('.').map_or((rounded.as_str(), None), |(a, b)| (a, Some(b)));
    let mut text = String::with_capacity(rounded.len() + rounded.len() / 3);
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if let Some(fraction) = fraction {
        text.push('.');
        text.push_str(fraction);
    }
    text
}

/// An amount in US dollars. Small amounts keep two significant digits.
pub fn dollars(amount: f64) -> String {
    match amount {
        0.0 => "$0".to_owned(),
        amount if amount < 0.0001 => "<$0.0001".to_owned(),
        amount if amount < 0.01 => format!("${amount:.4}"),
        amount if amount < 1.0 => format!("${amount:.3}"),
        amount if amount < 10_000.0 => format!("${}", grouped((amount * 100.0).round() / 100.0)),
        amount => format!("${}", compact(amount)),
    }
}

/// A duration, such as `850 ms` or `2.4 s`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        seconds if seconds < 0.001 => format!("{:.1} ms", seconds * 1e3),
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        seconds if seconds < 10.0 => format!("{seconds:.1} s"),
        seconds if seconds < 120.0 => format!("{seconds:.0} s"),
        seconds => format!("{:.0} min", seconds / 60.0),
    }
}

/// A time in milliseconds as a duration.
pub fn seconds(milliseconds: f64) -> String {
    duration(Duration::from_secs_f64(milliseconds.max(0.0) / 1e3))
}

/// A size in binary units, such as `3.4 MiB`.
pub fn bytes(bytes: u64) -> String {
    let mut scaled = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if scaled < 1024.0 {
            let digits = usize::from(unit != "B" && scaled < 100.0);
            return format!("{scaled:.digits$} {unit}");
        }
        scaled /= 1024.0;
    }
    format!("{scaled:.1} TiB")
}

/// A share of a whole as a percentage.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent == 0.0 || percent >= 9.95 { format!("{percent:.0}%") } else { format!("{percent:.1}%") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_short_and_exact_while_they_are_small() {
        let shown =
            [0.0, 7.0, 999.0, 9_999.0, 10_000.0, 123_456.0, 999_499.0, 999_500.0, 12_345_678.0].map(compact);
        assert_eq!(shown, ["0", "7", "999", "9,999", "10.0k", "123k", "999k", "1.00M", "12.3M"]);
        assert_eq!([1_234_567.0, 1_234.5].map(grouped), ["1,234,567", "1,234.50"]);
    }

    #[test]
    fn amounts_keep_what_matters() {
        let shown = [0.0, 0.000_01, 0.001_234, 0.123_4, 12.3, 1_234.567].map(dollars);
        assert_eq!(shown, ["$0", "<$0.0001", "$0.0012", "$0.123", "$12.30", "$1,234.57"]);
        assert_eq!([0.0, 0.001, 0.0994, 0.5, 1.0].map(percent), ["0%", "0.1%", "9.9%", "50%", "100%"]);
    }

    #[test]
    fn durations_and_sizes_have_units() {
        let shown = [400, 12_000, 850_000, 2_400_000, 61_000_000, 600_000_000]
            .map(Duration::from_micros)
            .map(duration);
        assert_eq!(shown, ["0.4 ms", "12 ms", "850 ms", "2.4 s", "61 s", "10 min"]);
        assert_eq!([0, 1023, 1536, 300 << 20].map(bytes), ["0 B", "1023 B", "1.5 KiB", "300 MiB"]);
    }
}
