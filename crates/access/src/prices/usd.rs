//! Exact prices in US dollars.

use std::fmt;

use serde::{Serialize, Serializer};

/// The price of a million tokens in billionths of a dollar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsdPerMillion(pub u64);

// === impl UsdPerMillion ===

impl UsdPerMillion {
    const MAX_DOLLARS: u64 = 1_000_000;
    const DIGITS: usize = 9;

    /// Reads a decimal number without rounding it.
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) || fraction.len() > Self::DIGITS {
            return None;
        }
        let dollars: u64 = whole.parse().ok().filter(|dollars| *dollars <= Self::MAX_DOLLARS)?;
        let nano: u64 = format!("{fraction:0<width$}", width = Self::DIGITS).parse().ok()?;
        Some(Self(dollars * 1_000_000_000 + nano))
    }
}

impl fmt::Display for UsdPerMillion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl Serialize for UsdPerMillion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_parsed_exactly() {
        let read = |text: &str| UsdPerMillion::parse(text).map(|price| (price.0, price.to_string()));
        assert_eq!(read("1.25"), Some((1_250_000_000, "1.25".into())));
        assert_eq!(read("0.000000001"), Some((1, "0.000000001".into())));
        assert_eq!(read("10"), Some((10_000_000_000, "10".into())));
        assert_eq!(read("0"), Some((0, "0".into())));
        for wrong in ["", "-1", ".5", "1e3", "1,5", "1.2.3", "0.0000000001", "1000001", "NaN"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
