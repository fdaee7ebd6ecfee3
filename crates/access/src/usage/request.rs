//! The request for a usage report, from the parameters of a URL or the flags of a command.

use std::time::Duration;

use antiphon_runtime::hex;
use antiphon_store::{DAY_MS, HOUR_MS, Span, Timestamp, UsageGroup, UsageQuery};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::query;

/// The length of the reported range if the request has no `from`.
const DEFAULT_RANGE: Duration = Duration::from_hours(30 * 24);
const DEFAULT_LIMIT: u32 = 1000;
const MAX_LIMIT: u32 = 10_000;

/// The parameters as the operator wrote them.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UsageParameters {
    /// Start of the range, rounded to whole hours: an RFC 3339 time, or a day, which starts at midnight UTC. Default:
    /// 30 days before `to`.
    #[param(example = "2026-11-01T00:00:00+01:00")]
    pub from: Option<String>,
    /// End of the range, exclusive. Default: now.
    #[param(example = "2026-12-01")]
    pub to: Option<String>,
    /// Grouping: any of `project`, `key`, `account`, `model`, and either `day` or `hour`, separated by commas.
    #[param(example = "project,day")]
    pub group_by: Option<String>,
    /// Only turns of this project; an empty value selects turns without one.
    pub project: Option<String>,
    /// Only turns of this key: its name, or its id.
    pub key: Option<String>,
    pub account: Option<String>,
    pub model: Option<String>,
    /// Maximum number of groups.
    #[serde(default, deserialize_with = "query::limit::<_, MAX_LIMIT>")]
    #[param(minimum = 1, maximum = 10000, default = 1000)]
    pub limit: Option<u32>,
    /// Cursor: `after` of the previous page.
    pub after: Option<String>,
    #[param(inline)]
    pub format: Option<Format>,
}

/// A parameter with an invalid value, and the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Invalid '{name}': {why}.")]
pub struct InvalidParameter {
    pub name: &'static str,
    pub why: String,
}

/// A checked request.
#[derive(Debug, Clone)]
pub struct UsageRequest {
    query: UsageQuery,
    pub(super) group_by: Vec<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Json,
    Csv,
}

const GROUPINGS: [&str; 6] = ["hour", "day", "project", "key", "account", "model"];

// === impl UsageRequest ===

impl UsageRequest {
    /// Hourly figures exist for `hours_kept`, so a range that starts or ends earlier is rounded to whole days.
    pub fn new(
        parameters: UsageParameters,
        now: Timestamp,
        hours_kept: Option<Duration>,
    ) -> Result<Self, InvalidParameter> {
        let UsageParameters { from, to, group_by, project, key, account, model, .. } = parameters;
        let query = UsageQuery {
            only: UsageGroup { starts_at: None, project, key, account, model },
            max_groups: parameters.limit.unwrap_or(DEFAULT_LIMIT),
            after: parameters.after.as_deref().map(parse_cursor).transpose()?,
            ..UsageQuery::default()
        };
        let mut this = Self { query, group_by: Vec::new() };
        let time = |name, text: Option<String>| text.map(|text| parse_time(name, &text)).transpose();
        if let Some(names) = group_by {
            this.group_by(&names)?;
        }
        this.set_range(time("from", from)?, time("to", to)?, now, hours_kept)?;
        Ok(this)
    }

    pub(crate) fn query(&self) -> UsageQuery {
        self.query.clone()
    }

    /// Makes this a request for the page that follows this group.
    pub fn continue_after(&mut self, group: UsageGroup) {
        self.query.after = Some(group);
    }

    fn group_by(&mut self, names: &str) -> Result<(), InvalidParameter> {
        let query = &mut self.query;
        for name in names.split(',').map(str::trim) {
            let known = GROUPINGS.into_iter().find(|known| *known == name);
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
                return Err(invalid("group_by", "'hour' and 'day' are mutually exclusive"));
            }
            query.span = span.unwrap_or(query.span);
            let known = known.ok_or_else(|| {
                let known = GROUPINGS.join(", ");
                invalid("group_by", &format!("expected one or more of {known}, but got '{name}'"))
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
    InvalidParameter { name, why: why.to_owned() }
}

/// An RFC 3339 time in any zone, or a day, which begins at midnight UTC.
pub fn parse_time(name: &'static str, text: &str) -> Result<Timestamp, InvalidParameter> {
    // In a URL, an unescaped plus sign stands for a space.
    let text = match text.rsplit_once(' ') {
        Some((time, zone)) if zone.contains(':') && time.contains(':') => &format!("{time}+{zone}"),
        _ => text,
    };
    let start_of_day = || {
        let midnight = text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        Some(midnight.timestamp())
    };
    let is_day = text.len() == "2026-01-31".len();
    let time = if is_day { start_of_day() } else { text.parse().ok() };
    let ms = time.map(|time: jiff::Timestamp| time.as_millisecond()).filter(|ms| *ms >= 0);
    ms.map(Timestamp::from_unix_ms).ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        let example = "such as '2026-01-31T09:00:00+01:00', or a day such as '2026-01-31'";
        invalid(name, &format!("expected an RFC 3339 time {example}, but got '{shown}'"))
    })
}

type Cursor = (Option<i64>, Option<String>, Option<String>, Option<String>, Option<String>);

/// A group as text that is safe in a URL.
pub(super) fn write_cursor(group: &UsageGroup) -> String {
    let UsageGroup { starts_at, project, key, account, model } = group;
    let cursor = (starts_at.map(Timestamp::unix_ms), project, key, account, model);
    let json = serde_json::to_vec(&cursor).expect("texts and numbers can be written");
    hex::encode(json)
}

fn parse_cursor(text: &str) -> Result<UsageGroup, InvalidParameter> {
    let cursor: Option<Cursor> = hex::decode(text).and_then(|json| serde_json::from_slice(&json).ok());
    let holds_nul = |name: &Option<String>| name.as_ref().is_some_and(|name| name.contains('\0'));
    match cursor {
        Some((starts_at, project, key, account, model))
            if ![&project, &key, &account, &model].into_iter().any(holds_nul) =>
        {
            let starts_at = starts_at.map(Timestamp::from_unix_ms);
            Ok(UsageGroup { starts_at, project, key, account, model })
        }
        _ => Err(invalid("after", "expected the 'after' of a previous page")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_795_000_000_000);

    fn parse(query: &str) -> Result<UsageRequest, InvalidParameter> {
        let parameters = serde_urlencoded::from_str(query).unwrap();
        UsageRequest::new(parameters, NOW, Some(Duration::from_hours(48)))
    }

    fn range(query: &str) -> (String, String) {
        let query = parse(query).unwrap().query;
        (antiphon_runtime::rfc3339(query.from), antiphon_runtime::rfc3339(query.to))
    }

    #[test]
    fn times_in_any_zone_are_accepted_and_rounded_outwards() {
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
    fn invalid_parameters_are_named() {
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
            ("after=zz", "after"),
            ("after=5b5d", "after"),
            ("after=%C3%A9", "after"),
            ("after=", "after"),
        ] {
            assert_eq!(parse(query).map(|_| ()).unwrap_err().name, name, "{query}");
        }
        assert!(parse("key=").is_ok(), "turns without a key");
    }

    #[test]
    fn a_cursor_round_trips() {
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
