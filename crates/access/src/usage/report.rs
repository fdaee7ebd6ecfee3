//! A usage report as JSON and CSV, for the admin API and the command line.

use antiphon_store::{Totals, UsageGroup};
use serde::Serialize;
use utoipa::ToSchema;

use super::UsageRequest;
use super::request::write_cursor;
use antiphon_runtime::rfc3339;

/// One page of groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = UsageReport)]
pub struct Report {
    object: &'static str,
    /// Reported range in RFC 3339: the requested range rounded to whole hours, or to whole days where hourly figures
    /// have been purged.
    from: String,
    to: String,
    group_by: Vec<&'static str>,
    data: Vec<Group>,
    has_more: bool,
    /// Cursor of the next page; `null` on the last page.
    after: Option<String>,
    #[serde(skip)]
    #[schema(ignore)]
    last: Option<UsageGroup>,
}

/// One group. Members that turns are not grouped by, or that its turns lack, are `null`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = UsageGroup)]
pub struct Group {
    /// Start of the hour or day in RFC 3339.
    pub start: Option<String>,
    pub project: Option<String>,
    pub key: Option<String>,
    pub account: Option<String>,
    pub model: Option<String>,
    pub turns: u64,
    /// Turns that failed, were rejected or were lost.
    pub failed_turns: u64,
    /// Turns without a known price; their cost is not included.
    pub unpriced_turns: u64,
    /// Turns whose tokens were estimated, because the upstream reported none.
    pub estimated_turns: u64,
    pub input_tokens: u64,
    /// Included in `input_tokens`.
    pub cached_tokens: u64,
    pub output_tokens: u64,
    /// Included in `output_tokens`.
    pub reasoning_tokens: u64,
    /// Cost in US dollars as a decimal string; `null` if some turns of the group have no price, and the others cost nothing.
    pub cost_usd: Option<String>,
    /// Cost in billionths of a US dollar.
    pub cost_nano_usd: Option<u64>,
}

// === impl Report ===

impl Report {
    /// The names of the columns.
    pub const HEADER: [&str; 14] = [
        "start",
        "project",
        "key",
        "account",
        "model",
        "turns",
        "failed_turns",
        "unpriced_turns",
        "estimated_turns",
        "input_tokens",
        "cached_tokens",
        "output_tokens",
        "reasoning_tokens",
        "cost_usd",
    ];

    /// `groups` holds one more than the page shows if there is another page.
    pub(super) fn new(request: &UsageRequest, mut groups: Vec<(UsageGroup, Totals)>) -> Self {
        let query = request.query();
        let limit = usize::try_from(query.max_groups).unwrap_or(usize::MAX);
        let has_more = groups.len() > limit;
        groups.truncate(limit);
        let last = groups.last().filter(|_| has_more).map(|(group, _)| group.clone());
        Self {
            object: "list",
            from: rfc3339(query.from),
            to: rfc3339(query.to),
            group_by: request.group_by.clone(),
            data: groups.into_iter().map(|(group, totals)| Group::new(group, &totals)).collect(),
            has_more,
            after: last.as_ref().map(write_cursor),
            last,
        }
    }

    /// The cursor of the next page; `None` on the last page.
    pub fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    pub fn last(&self) -> Option<&UsageGroup> {
        self.last.as_ref()
    }

    pub fn groups(&self) -> &[Group] {
        &self.data
    }

    pub fn range(&self) -> (&str, &str) {
        (&self.from, &self.to)
    }

    /// All turns of the groups.
    pub fn turns(&self) -> u64 {
        self.data.iter().map(|group| group.turns).sum()
    }

    /// Adds a later page to this one.
    pub fn append(&mut self, next: Self) {
        self.data.extend(next.data);
        (self.has_more, self.after, self.last) = (next.has_more, next.after, next.last);
    }

    /// CSV with a header, as in RFC 4180.
    pub fn csv(&self) -> String {
        let mut csv = Self::HEADER.join(",") + "\r\n";
        for group in &self.data {
            let line: Vec<String> = group.cells().iter().map(|cell| quote(cell)).collect();
            csv.push_str(&line.join(","));
            csv.push_str("\r\n");
        }
        csv
    }
}

/// Quotes a cell of a CSV file if it needs it. Tenants choose model names: one that a spreadsheet would run as a formula
/// gets an apostrophe in front.
fn quote(cell: &str) -> String {
    let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']);
    let cell = if is_formula { format!("'{cell}") } else { cell.to_owned() };
    if cell.contains([',', '"', '\r', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
}

// === impl Group ===

impl Group {
    fn new(group: UsageGroup, totals: &Totals) -> Self {
        // Turns without tokens cost nothing, whatever the price of their model: they don't show that it has one.
        let is_priced = totals.unpriced_turns == 0 || totals.cost_nano_usd > 0;
        let cost = is_priced.then_some(totals.cost_nano_usd);
        Self {
            start: group.starts_at.map(rfc3339),
            project: group.project,
            key: group.key,
            account: group.account,
            model: group.model,
            turns: totals.turns,
            failed_turns: totals.failed_turns,
            unpriced_turns: totals.unpriced_turns,
            estimated_turns: totals.estimated_turns,
            input_tokens: totals.input_tokens,
            cached_tokens: totals.cached_tokens,
            output_tokens: totals.output_tokens,
            reasoning_tokens: totals.reasoning_tokens,
            cost_usd: cost.map(|nano| format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000)),
            cost_nano_usd: cost,
        }
    }

    /// In the order of [`Report::HEADER`]; `null` becomes an empty cell.
    pub fn cells(&self) -> [String; 14] {
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        [
            name(&self.start),
            name(&self.project),
            name(&self.key),
            name(&self.account),
            name(&self.model),
            self.turns.to_string(),
            self.failed_turns.to_string(),
            self.unpriced_turns.to_string(),
            self.estimated_turns.to_string(),
            self.input_tokens.to_string(),
            self.cached_tokens.to_string(),
            self.output_tokens.to_string(),
            self.reasoning_tokens.to_string(),
            name(&self.cost_usd),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_where_necessary() {
        let cells = ["plain", "a,b", "say \"x\"", "two\nlines"].map(quote);
        assert_eq!(cells, ["plain", "\"a,b\"", "\"say \"\"x\"\"\"", "\"two\nlines\""]);
    }

    #[test]
    fn a_cell_is_never_a_formula() {
        for formula in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1"] {
            assert!(quote(formula).trim_start_matches('"').starts_with('\''), "{formula:?}");
        }
        assert_eq!(quote("=HYPERLINK(\"http://x\",1)"), "\"'=HYPERLINK(\"\"http://x\"\",1)\"");
    }

    #[test]
    fn a_cost_is_exact_and_null_if_no_turn_has_a_price() {
        let cost = |unpriced_turns, cost_nano_usd| {
            let totals = Totals { turns: 2, unpriced_turns, cost_nano_usd, ..Totals::default() };
            Group::new(UsageGroup::default(), &totals).cost_usd
        };
        assert_eq!(cost(1, 1_000_000_001).as_deref(), Some("1.000000001"));
        assert_eq!(cost(0, 0).as_deref(), Some("0.000000000"), "free, or without tokens");
        assert_eq!(cost(1, 0), None, "the other turn has no tokens");
        assert_eq!(cost(2, 0), None);
    }
}
