//! The formats of single values: durations, sizes, counts, addresses and words.
//!
//! Each format has a rule: the phrase after "must be" in the error for an invalid value.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserializer, Error, Unexpected, Visitor};

/// Durations above zero, in the format of humantime. Bounded, so that adding one to the clock never overflows.
pub(super) mod duration {
    use std::time::Duration;

    use serde::{Deserializer, Serializer};

    const RULE: &str = r#"a duration such as "30s" or "5m", above zero and at most "365d""#;
    const MAX: Duration = Duration::from_secs(365 * 24 * 3600);

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        super::parse(deserializer, RULE, |raw| {
            raw.duration().filter(|duration| !duration.is_zero() && *duration <= MAX)
        })
    }

    pub(crate) fn deserialize_some<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        deserialize(deserializer).map(Some)
    }

    pub(crate) fn serialize_some<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format_duration(*duration))
    }
}

/// Sizes in bytes. Bounded, so that they fit the permits of a semaphore.
pub(super) mod bytes {
    use serde::{Deserializer, Serializer};

    const RULE: &str = r#"a size in bytes such as 1048576, "64MiB" or "10MB", at most 1024 TiB"#;
    const MAX: u64 = 1 << 50;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
        super::parse(deserializer, RULE, |raw| {
            raw.bytes().filter(|bytes| *bytes <= MAX).and_then(|bytes| usize::try_from(bytes).ok())
        })
    }

    pub(crate) fn serialize<S: Serializer>(bytes: &usize, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format_bytes(*bytes))
    }
}

/// Whole numbers from one to a million.
pub(super) mod count {
    use serde::{Deserializer, de::Error};

    const RULE: &str = "a whole number from 1 to 1000000";
    const MAX: u64 = 1_000_000;

    pub(crate) fn deserialize<'de, D, T>(deserializer: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: TryFrom<u64>,
    {
        let count = super::parse(deserializer, RULE, |raw| match raw {
            super::RawValue::Number(number) => Some(number).filter(|number| (1..=MAX).contains(number)),
            super::RawValue::Text(_) => None,
        })?;
        T::try_from(count).map_err(|_| D::Error::custom(RULE))
    }

    pub(crate) fn deserialize_some<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        D: Deserializer<'de>,
        T: TryFrom<u64>,
    {
        deserialize(deserializer).map(Some)
    }
}

/// Whole numbers from zero to a million.
pub(super) mod count_or_zero {
    use serde::Deserializer;

    const RULE: &str = "a whole number from 0 to 1000000";
    const MAX: u32 = 1_000_000;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        super::parse(deserializer, RULE, |raw| match raw {
            super::RawValue::Number(number) => u32::try_from(number).ok().filter(|number| *number <= MAX),
            super::RawValue::Text(_) => None,
        })
    }
}

/// `true` or `false`; a string in variables.
pub(super) mod boolean {
    use std::fmt;

    use serde::Deserializer;
    use serde::de::{Error, Unexpected, Visitor};

    struct BooleanVisitor;

    impl Visitor<'_> for BooleanVisitor {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true or false")
        }

        fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
            Ok(value)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
            text.parse().map_err(|_| E::invalid_value(Unexpected::Other("another word"), &self))
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(BooleanVisitor)
    }
}

/// Shares from 0 to 1.
pub(super) mod ratio {
    use std::fmt;

    use serde::Deserializer;
    use serde::de::{Error, Unexpected, Visitor};

    struct RatioVisitor;

    impl Visitor<'_> for RatioVisitor {
        type Value = f64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number from 0 to 1")
        }

        fn visit_f64<E: Error>(self, ratio: f64) -> Result<f64, E> {
            let is_ratio = (0.0..=1.0).contains(&ratio);
            if is_ratio { Ok(ratio) } else { Err(E::invalid_value(Unexpected::Float(ratio), &self)) }
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<f64, E> {
            self.visit_f64(number as f64)
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<f64, E> {
            self.visit_f64(number as f64)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<f64, E> {
            match text.parse() {
                Ok(ratio) => self.visit_f64(ratio),
                Err(_) => Err(E::invalid_value(Unexpected::Str(text), &self)),
            }
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        deserializer.deserialize_any(RatioVisitor)
    }
}

/// Addresses to listen on.
pub(super) mod address {
    use std::net::SocketAddr;

    use serde::Deserializer;

    const RULE: &str = r#"an IP address and a port such as "127.0.0.1:8080" or "[::1]:8080""#;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
        super::parse(deserializer, RULE, |raw| raw.text()?.parse().ok())
    }

    pub(crate) fn deserialize_some<'de, D>(deserializer: D) -> Result<Option<SocketAddr>, D::Error>
    where
        D: Deserializer<'de>,
    {
        deserialize(deserializer).map(Some)
    }
}

/// A type whose values are raw as words.
pub(super) trait Word: Copy + PartialEq + 'static {
    const WORDS: &[(&str, Self)];
}

/// Values of a type that implements [`Word`](super::Word).
pub(super) mod word {
    use serde::{Deserializer, Serializer};

    use super::Word;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: Word>(deserializer: D) -> Result<T, D::Error> {
        let quoted: Vec<String> = T::WORDS.iter().map(|(word, _)| format!("{word:?}")).collect();
        super::parse(deserializer, &quoted.join(" or "), |raw| {
            let text = raw.text()?;
            T::WORDS.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
        })
    }

    pub(crate) fn deserialize_some<'de, D: Deserializer<'de>, T: Word>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        deserialize(deserializer).map(Some)
    }

    pub(crate) fn serialize<S: Serializer, T: Word>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        let (word, _) = T::WORDS.iter().find(|(_, known)| known == value).expect("every value has a word");
        serializer.serialize_str(word)
    }
}

/// Implements [`Word`] and serde's traits for an enum of plain variants.
macro_rules! words {
    ($type:ident { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl $crate::values::Word for $type {
            const WORDS: &[(&str, Self)] = &[$(($word, Self::$variant)),+];
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $crate::values::word::serialize(self, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::values::word::deserialize(deserializer)
            }
        }
    };
}

pub(super) use words;

/// A value as it is raw in a file or variable.
pub(super) enum RawValue {
    Text(String),
    Number(u64),
}

impl RawValue {
    pub(super) fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            Self::Number(_) => None,
        }
    }

    /// `None` also for the unit `M`, which humantime reads as months, and people as minutes.
    pub(super) fn duration(self) -> Option<Duration> {
        let text = self.text()?;
        humantime::parse_duration(&text).ok().filter(|_| !has_unit(&text, "M"))
    }

    pub(super) fn bytes(self) -> Option<u64> {
        match self {
            Self::Number(bytes) => Some(bytes),
            Self::Text(text) => parse_bytes(&text),
        }
    }
}

/// Deserializes a string or a number and parses it. The error holds the rule and never the value.
pub(super) fn parse<'de, D, T>(
    deserializer: D,
    rule: &str,
    parse: impl FnOnce(RawValue) -> Option<T>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
{
    let raw = deserializer.deserialize_any(RawValueVisitor { rule })?;
    let hint = hint(&raw, rule);
    parse(raw).ok_or_else(|| D::Error::custom(format_args!("{rule}{hint}")))
}

/// What else to say of a value that breaks its rule, for likely mistakes.
fn hint(raw: &RawValue, rule: &str) -> &'static str {
    let is = |kind: &str| rule.contains(kind);
    match raw {
        RawValue::Text(text) if is("a duration") && has_unit(text, "M") => {
            "; \"M\" could be minutes or months: write \"m\" for minutes, and days for months, such as \"30d\""
        }
        RawValue::Text(text) if is("a duration") && is_number(text) => "; it needs a unit",
        RawValue::Number(_) if is("a duration") => "; it needs a unit, and quotes",
        RawValue::Text(text) if is("a size") && ["k", "M", "G"].iter().any(|unit| has_unit(text, unit)) => {
            "; the unit needs its \"B\""
        }
        RawValue::Text(text) if is("a whole number") && is_number(text) => "; write it without quotes",
        _ => "",
    }
}

/// Whether a number in the text has this unit, and no longer one.
fn has_unit(text: &str, unit: &str) -> bool {
    let mut units = text.split(|c: char| c.is_ascii_digit() || c.is_whitespace() || c == '.');
    units.any(|word| word == unit)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether two values in JSON are the same duration or size.
pub(super) fn means_same(one: &str, other: &str) -> bool {
    let raw = |json: &str| match serde_json::from_str(json) {
        Ok(serde_json::Value::String(text)) => Some(RawValue::Text(text)),
        Ok(serde_json::Value::Number(number)) => number.as_u64().map(RawValue::Number),
        _ => None,
    };
    let duration = |json| raw(json)?.duration();
    let bytes = |json| raw(json)?.bytes();
    (duration(one).is_some() && duration(one) == duration(other))
        || (bytes(one).is_some() && bytes(one) == bytes(other))
}

/// A duration in the largest unit that gives a whole number.
pub(super) fn format_duration(duration: Duration) -> String {
    const UNITS: [(&str, u128); 6] = [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
    ];
    let nanos = duration.as_nanos();
    UNITS
        .iter()
        .find(|(_, size)| nanos.is_multiple_of(*size))
        .map_or_else(|| format!("{nanos}ns"), |(unit, size)| format!("{}{unit}", nanos / size))
}

/// A size in the largest binary unit that gives a whole number.
pub(super) fn format_bytes(bytes: usize) -> String {
    const UNITS: [(&str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    UNITS
        .iter()
        .find(|(_, size)| bytes > 0 && bytes.is_multiple_of(*size))
        .map_or_else(|| format!("{bytes}B"), |(unit, size)| format!("{}{unit}", bytes / size))
}

fn parse_bytes(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 8] = [
        ("", 1),
        ("B", 1),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
    ];
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let (_, size) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()))?;
    digits.parse::<u64>().ok()?.checked_mul(*size)
}

struct RawValueVisitor<'a> {
    rule: &'a str,
}

impl Visitor<'_> for RawValueVisitor<'_> {
    type Value = RawValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rule)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<RawValue, E> {
        Ok(RawValue::Text(text.to_owned()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<RawValue, E> {
        Ok(RawValue::Number(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<RawValue, E> {
        let whole = u64::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))?;
        Ok(RawValue::Number(whole))
    }
}
