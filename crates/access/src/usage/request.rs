//! What an operator asks of usage, as parameters of a URL or flags of a command.

use std::time::Duration;

use antiphon_store::{DAY_MS, HOUR_MS, Span, Timestamp, UsageGroup, UsageQuery};

/// How far back usage is shown if nobody says from when.
const DEFAULT_RANGE: Duration = Duration::from_hours(30 * 24);
const DEFAULT_LIMIT: u32 = 1000;
const MAX_LIMIT: u32 = 10_000;

/// A parameter that can't be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidParameter {
    pub name: String,
    /// Or else there is none of this name.
    pub is_known: bool,
    pub message: String,
}

/// Which part of the usage to show.
#[derive(Debug, Clone)]
pub struct UsageRequest {
    query: UsageQuery,
    group_by: Vec<&'static str>,
    format: Option<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Csv,
}

const FORMATS: [(&str, Format); 2] = [("json", Format::Json), ("csv", Format::Csv)];
const DIMENSIONS: [&str; 6] = ["hour", "day", "project", "key", "account", "model"];

// === impl UsageRequest ===

impl UsageRequest {
    /// Hours are there for `hours_kept`, so what begins or ends earlier is counted in whole days.
    pub fn parse(
        parameters: impl IntoIterator<Item = (String, String)>,
        now: Timestamp,
        hours_kept: Option<Duration>,
    ) -> Result<Self, InvalidParameter> {
        let (mut from, mut to) = (None, None);
        let query = UsageQuery { max_groups: DEFAULT_LIMIT, ..UsageQuery::default() };
        let mut this = Self { query, group_by: Vec::new(), format: None };
        for (name, value) in parameters {
            let only = &mut this.query.only;
            match name.as_str() {
                "from" => from = Some(parse_time("from", &value)?),
                "to" => to = Some(parse_time("to", &value)?),
                "group_by" => this.group_by(&value)?,
                "project" => only.project = Some(value),
                "key" => only.key = Some(value),
                "account" => only.account = Some(value),
                "model" => only.model = Some(value),
                "limit" => this.query.max_groups = parse_limit(&value)?,
                "after" => this.query.after = Some(parse_cursor(&value)?),
                "format" => this.format = Some(parse_format(&value)?),
                _ => return Err(unknown(&name)),
            }
        }
        this.set_range(from, to, now, hours_kept)?;
        Ok(this)
    }

    pub fn query(&self) -> UsageQuery {
        self.query.clone()
    }

    pub fn names(&self) -> &[&'static str] {
        &self.group_by
    }

    pub fn format(&self) -> Option<Format> {
        self.format
    }

    /// The same, from where a page ended.
    pub fn go_on_after(&mut self, group: UsageGroup) {
        self.query.after = Some(group);
    }

    fn group_by(&mut self, names: &str) -> Result<(), InvalidParameter> {
        let query = &mut self.query;
        for name in names.split(',').map(str::trim) {
            let known = DIMENSIONS.into_iter().find(|known| *known == name);
            let span = match known {
                Some("project") => {
                    query.by_project = true;
                    None
                }
                Some("key") => {
                    query.by_key = true;
                    None
                }
                Some("account") => {
                    query.by_account = true;
                    None
                }
                Some("model") => {
                    query.by_model = true;
                    None
                }
                Some("day") => Some(Span::Day),
                Some("hour") => Some(Span::Hour),
                _ => None,
            };
            if span.is_some_and(|span| query.span != Span::All && query.span != span) {
                return Err(invalid("group_by", "'hour' and 'day' exclude each other"));
            }
            query.span = span.unwrap_or(query.span);
            let known = known.ok_or_else(|| {
                let known = DIMENSIONS.join(", ");
                invalid("group_by", &format!("expected some of {known}, but got '{name}'"))
            })?;
            if !self.group_by.contains(&known) {
                self.group_by.push(known);
            }
        }
        Ok(())
    }

    fn set_range(
        &mut self,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
        now: Timestamp,
        hours_kept: Option<Duration>,
    ) -> Result<(), InvalidParameter> {
        let to = to.unwrap_or_else(|| now.plus(Duration::from_millis(1)));
        let from = from.unwrap_or_else(|| to.minus(DEFAULT_RANGE));
        if from >= to {
            return Err(invalid("from", "expected a time before 'to'"));
        }
        let hours_since = hours_kept.map_or(0, |kept| now.minus(kept).unix_ms());
        let unit = |time: Timestamp| {
            let hour = time.unix_ms() - time.unix_ms().rem_euclid(HOUR_MS);
            if hour < hours_since { DAY_MS } else { HOUR_MS }
        };
        let from_ms = from.unix_ms() - from.unix_ms().rem_euclid(unit(from));
        let to_ms = to.unix_ms() + (-to.unix_ms()).rem_euclid(unit(to));
        (self.query.from, self.query.to) = (Timestamp::from_unix_ms(from_ms), Timestamp::from_unix_ms(to_ms));
        Ok(())
    }
}

fn invalid(name: &'static str, why: &str) -> InvalidParameter {
    InvalidParameter { name: name.to_owned(), is_known: true, message: format!("Invalid '{name}': {why}.") }
}

fn unknown(name: &str) -> InvalidParameter {
    let name: String = name.chars().take(64).collect();
    InvalidParameter { message: format!("Unknown parameter: '{name}'."), is_known: false, name }
}

/// An RFC 3339 time in any zone, or a day, which begins at midnight UTC.
fn parse_time(name: &'static str, text: &str) -> Result<Timestamp, InvalidParameter> {
    // In a URL a plus sign that is not escaped stands for a blank.
    let text = match text.rsplit_once(' ') {
        Some((time, zone)) if zone.contains(':') && time.contains(':') => &format!("{time}+{zone}"),
        _ => text,
    };
    let of_day = || {
        let midnight = text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        Some(midnight.timestamp())
    };
    let is_day = text.len() == "2026-01-31".len();
    let time = if is_day { of_day() } else { text.parse().ok() };
    let ms = time.map(|time: jiff::Timestamp| time.as_millisecond()).filter(|ms| *ms >= 0);
    ms.map(Timestamp::from_unix_ms).ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        let example = "such as '2026-01-31T09:00:00+01:00', or a day such as '2026-01-31'";
        invalid(name, &format!("expected a time in RFC 3339 {example}, but got '{shown}'"))
    })
}

fn parse_limit(text: &str) -> Result<u32, InvalidParameter> {
    text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit)).ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        invalid("limit", &format!("expected an integer from 1 to {MAX_LIMIT}, but got '{shown}'"))
    })
}

fn parse_format(text: &str) -> Result<Format, InvalidParameter> {
    let known = FORMATS.into_iter().find(|(name, _)| *name == text);
    let expected = || invalid("format", "expected 'json' or 'csv'");
    known.map(|(_, format)| format).ok_or_else(expected)
}

type Cursor = (Option<i64>, Option<String>, Option<String>, Option<String>, Option<String>);

/// A group as a text that fits into a URL.
pub(super) fn write_cursor(group: &UsageGroup) -> String {
    let UsageGroup { starts_at, project, key, account, model } = group;
    let cursor = (starts_at.map(Timestamp::unix_ms), project, key, account, model);
    let json = serde_json::to_vec(&cursor).expect("texts and numbers can be written");
    json.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_cursor(text: &str) -> Result<UsageGroup, InvalidParameter> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let json: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
    let cursor: Option<Cursor> = json.and_then(|json| serde_json::from_slice(&json).ok());
    let holds_nul = |name: &Option<String>| name.as_ref().is_some_and(|name| name.contains('\0'));
    match cursor {
        Some((starts_at, project, key, account, model))
            if ![&project, &key, &account, &model].into_iter().any(holds_nul) =>
        {
            let starts_at = starts_at.map(Timestamp::from_unix_ms);
            Ok(UsageGroup { starts_at, project, key, account, model })
        }
        _ => Err(invalid("after", "expected what a page before gave as 'after'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_795_000_000_000);

    fn parse(query: &str) -> Result<UsageRequest, InvalidParameter> {
        let parameters = url::form_urlencoded::parse(query.as_bytes()).into_owned();
        UsageRequest::parse(parameters, NOW, Some(Duration::from_hours(48)))
    }

    fn range(query: &str) -> (String, String) {
        let query = parse(query).unwrap().query;
        (antiphon_runtime::rfc3339(query.from), antiphon_runtime::rfc3339(query.to))
    }

    #[test]
    fn times_are_taken_in_any_zone_and_rounded_outwards() {
        let recent = ("2026-11-17T18:00:00Z".to_owned(), "2026-11-18T12:00:00Z".to_owned());
        for query in [
            "from=2026-11-17T18:30:00Z&to=2026-11-18T11:20:00.5Z",
            "from=2026-11-18T00:00:00%2B05:30&to=2026-11-18T06:30:00-05:00",
            "from=2026-11-18T00:00:00+05:30&to=2026-11-18T06:30:00-05:00",
            "to=2026-11-18T11:00:00.001Z&from=2026-11-17t18:30:00z",
        ] {
            assert_eq!(range(query), recent, "{query}");
        }
        let days = ("2026-10-17T00:00:00Z".to_owned(), "2026-11-15T00:00:00Z".to_owned());
        assert_eq!(range("from=2026-10-17T22:00:00Z&to=2026-11-14T01:00:00Z"), days, "its hours are gone");
        assert_eq!(range("from=2026-10-17&to=2026-11-15"), days);
        assert_eq!(range(""), ("2026-10-19T00:00:00Z".to_owned(), "2026-11-18T12:00:00Z".to_owned()));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (query, name) in [
            ("from=yesterday", "from"),
            ("from=2026-11-17T18:30:00", "from"),
            ("from=2026-13-01", "from"),
            ("from=1969-12-31", "from"),
            ("to=1795000000", "to"),
            ("from=2026-11-18&to=2026-11-18", "from"),
            ("from=2030-01-01", "from"),
            ("group_by=user", "group_by"),
            ("group_by=day,hour", "group_by"),
            ("group_by=key,", "group_by"),
            ("limit=0", "limit"),
            ("limit=10001", "limit"),
            ("limit=many", "limit"),
            ("after=zz", "after"),
            ("after=5b5d", "after"),
            ("after=%C3%A9", "after"),
            ("format=xml", "format"),
            ("groupby=key", "groupby"),
            ("limit=", "limit"),
            ("after=", "after"),
        ] {
            assert_eq!(parse(query).map(|_| ()).unwrap_err().name, name, "{query}");
        }
        assert!(parse("key=").is_ok(), "turns without a key");
    }

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        let group = UsageGroup {
            starts_at: Some(NOW),
            project: Some("a,\"ü".into()),
            key: None,
            account: Some(String::new()),
            model: Some("m".into()),
        };
        assert_eq!(parse_cursor(&write_cursor(&group)).unwrap(), group);
    }
}
