//! What turns cost: the operator's prices, and under them those that come with this build.

use std::collections::HashMap;

use antiphon_protocol::usage::Usage;

use crate::config::{ModelGlob, PriceConfig, UsdPerMillion};

/// When the list below was checked. Prices change: who relies on costs writes their own into `[[prices]]`.
pub const LIST_DATE: &str = "2026-05-13";

/// OpenAI's list prices on [`LIST_DATE`], in thousandths of a dollar for a million tokens: input, cached input (if it has a
/// price of its own) and output. For the standard tier and contexts of usual length; other tiers, very long contexts and
/// tools are not in it. A model that is not listed has no price, rather than that of another one with a similar name.
const LIST: [(&str, u64, Option<u64>, u64); 40] = [
    ("gpt-5.5", 5_000, Some(500), 30_000),
    ("gpt-5.4", 2_500, Some(250), 15_000),
    ("gpt-5.4-mini", 750, Some(75), 4_500),
    ("gpt-5.4-nano", 200, Some(20), 1_250),
    ("gpt-5.3-codex", 1_750, Some(175), 14_000),
    ("gpt-5.2", 1_750, Some(175), 14_000),
    ("gpt-5.2-chat-latest", 1_750, Some(175), 14_000),
    ("gpt-5.2-codex", 1_750, Some(175), 14_000),
    ("gpt-5.2-pro", 21_000, None, 168_000),
    ("gpt-5.1", 1_250, Some(125), 10_000),
    ("gpt-5.1-chat-latest", 1_250, Some(125), 10_000),
    ("gpt-5.1-codex", 1_250, Some(125), 10_000),
    ("gpt-5.1-codex-max", 1_250, Some(125), 10_000),
    ("gpt-5.1-codex-mini", 250, Some(25), 2_000),
    ("gpt-5", 1_250, Some(125), 10_000),
    ("gpt-5-chat-latest", 1_250, Some(125), 10_000),
    ("gpt-5-codex", 1_250, Some(125), 10_000),
    ("gpt-5-mini", 250, Some(25), 2_000),
    ("gpt-5-nano", 50, Some(5), 400),
    ("gpt-5-pro", 15_000, None, 120_000),
    ("gpt-4.1", 2_000, Some(500), 8_000),
    ("gpt-4.1-mini", 400, Some(100), 1_600),
    ("gpt-4.1-nano", 100, Some(25), 400),
    ("gpt-4o", 2_500, Some(1_250), 10_000),
    ("gpt-4o-2024-05-13", 5_000, None, 15_000),
    ("gpt-4o-mini", 150, Some(75), 600),
    ("gpt-4-turbo", 10_000, None, 30_000),
    ("gpt-4", 30_000, None, 60_000),
    ("gpt-3.5-turbo", 500, None, 1_500),
    ("o4-mini", 1_100, Some(275), 4_400),
    ("o4-mini-deep-research", 2_000, Some(500), 8_000),
    ("o3", 2_000, Some(500), 8_000),
    ("o3-deep-research", 10_000, Some(2_500), 40_000),
    ("o3-mini", 1_100, Some(550), 4_400),
    ("o3-pro", 20_000, None, 80_000),
    ("o1", 15_000, Some(7_500), 60_000),
    ("o1-mini", 1_100, Some(550), 4_400),
    ("o1-pro", 150_000, None, 600_000),
    ("codex-mini-latest", 1_500, Some(375), 6_000),
    ("computer-use-preview", 3_000, None, 12_000),
];

/// In billionths of a dollar for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Price {
    input: u64,
    cached_input: u64,
    output: u64,
    reasoning: u64,
}

#[derive(Debug)]
pub struct Prices {
    own_names: HashMap<String, Price>,
    /// Those with the most letters first.
    own_patterns: Vec<(ModelGlob, Price)>,
    list: HashMap<&'static str, Price>,
}

// === impl Prices ===

impl Prices {
    /// The operator's prices come first, whatever else is known of a model.
    pub fn new(own: &[PriceConfig]) -> Self {
        let (mut own_names, mut own_patterns) = (HashMap::new(), Vec::new());
        for entry in own {
            match entry.model.literal() {
                Some(name) => drop(own_names.entry(name.to_owned()).or_insert(Price::of(entry))),
                None => own_patterns.push((entry.model.clone(), Price::of(entry))),
            }
        }
        own_patterns.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.letters()));
        let list = LIST.map(|(name, input, cached, output)| (name, Price::listed(input, cached, output)));
        Self { own_names, own_patterns, list: HashMap::from(list) }
    }

    /// What a turn costs, in billionths of a dollar, rounded to the nearest, half of one up; once for the turn. `None` if there
    /// are tokens, and the model has no price.
    pub fn cost_nano_usd(&self, model: &str, usage: &Usage) -> Option<u64> {
        if *usage == Usage::default() {
            return Some(0);
        }
        self.price(model).map(|price| price.cost_nano_usd(usage))
    }

    fn price(&self, model: &str) -> Option<Price> {
        let of_pattern = || self.own_patterns.iter().find(|(pattern, _)| pattern.matches(model));
        let own = self.own_names.get(model).or_else(|| of_pattern().map(|(_, price)| price));
        let listed = || self.list.get(model).or_else(|| self.list.get(without_date(model)?));
        own.or_else(listed).copied()
    }
}

impl Price {
    fn of(entry: &PriceConfig) -> Self {
        let UsdPerMillion(input) = entry.input;
        let UsdPerMillion(output) = entry.output;
        Self {
            input,
            cached_input: entry.cached_input.map_or(input, |price| price.0),
            output,
            reasoning: entry.reasoning.map_or(output, |price| price.0),
        }
    }

    fn listed(input: u64, cached_input: Option<u64>, output: u64) -> Self {
        const THOUSANDTH: u64 = 1_000_000;
        Self {
            input: input * THOUSANDTH,
            cached_input: cached_input.unwrap_or(input) * THOUSANDTH,
            output: output * THOUSANDTH,
            reasoning: output * THOUSANDTH,
        }
    }

    /// Cached tokens are among the input tokens, and reasoning tokens among the output tokens.
    fn cost_nano_usd(&self, usage: &Usage) -> u64 {
        const MILLION: u128 = 1_000_000;
        let cached = usage.cached_tokens.min(usage.input_tokens);
        let reasoning = usage.reasoning_tokens.min(usage.output_tokens);
        let parts = [
            (usage.input_tokens - cached, self.input),
            (cached, self.cached_input),
            (usage.output_tokens - reasoning, self.output),
            (reasoning, self.reasoning),
        ];
        let millionths = parts.into_iter().fold(0_u128, |sum, (tokens, price)| {
            sum.saturating_add(u128::from(tokens).saturating_mul(u128::from(price)))
        });
        u64::try_from(millionths.saturating_add(MILLION / 2) / MILLION).unwrap_or(u64::MAX)
    }
}

/// The name of a model of which this is a dated snapshot, such as `gpt-5` of `gpt-5-2025-08-07`.
fn without_date(model: &str) -> Option<&str> {
    let (name, date) = model.split_at_checked(model.len().checked_sub("-2025-08-07".len())?)?;
    let fits = |(byte, sign): (u8, u8)| if sign == b'-' { byte == b'-' } else { byte.is_ascii_digit() };
    date.bytes().zip(*b"-0000-00-00").all(fits).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(model: &str, input: u64, cached_input: Option<u64>, output: u64) -> PriceConfig {
        PriceConfig {
            model: ModelGlob::parse(model).unwrap(),
            input: UsdPerMillion(input),
            cached_input: cached_input.map(UsdPerMillion),
            output: UsdPerMillion(output),
            reasoning: None,
        }
    }

    fn usage(input_tokens: u64, cached_tokens: u64, output_tokens: u64, reasoning_tokens: u64) -> Usage {
        Usage { input_tokens, cached_tokens, output_tokens, reasoning_tokens }
    }

    #[test]
    fn kinds_of_tokens_are_priced_apart_and_rounded_once() {
        let prices = Prices::new(&[PriceConfig {
            reasoning: Some(UsdPerMillion(7_000_000)),
            ..own("m", 1_000_000, Some(100_000), 5_000_000)
        }]);
        let cost = |usage| prices.cost_nano_usd("m", &usage).unwrap();
        assert_eq!(cost(usage(100, 40, 10, 4)), 60 + 4 + 30 + 28);
        assert_eq!(cost(usage(0, 0, 0, 0)), 0);
        // Tenths of a billionth: below a half, a half, above.
        assert_eq!((cost(usage(4, 4, 0, 0)), cost(usage(5, 5, 0, 0)), cost(usage(16, 16, 0, 0))), (0, 1, 2));
        assert_eq!(cost(usage(1, 5, 1, 9)), 7, "more parts than there is are no more than there is");
        assert_eq!(cost(usage(u64::MAX, 0, u64::MAX, u64::MAX)), u64::MAX);
    }

    #[test]
    fn the_operators_prices_come_first_and_the_closest_pattern_among_them() {
        let input_price = |prices: &Prices, model| prices.price(model).map(|price| price.input);
        let prices = Prices::new(&[
            own("*", 1, None, 0),
            own("gpt-5*", 2, None, 0),
            own("gpt-5-m*", 3, None, 0),
            own("gpt-5-mini", 4, None, 0),
            own("gpt-5-mini", 5, None, 0),
        ]);
        let of = |model| input_price(&prices, model);
        assert_eq!(["x", "gpt-5", "gpt-5-max", "gpt-5-mini"].map(of), [Some(1), Some(2), Some(3), Some(4)]);
        let listed = Prices::new(&[own("gpt-5", 9, None, 0)]);
        let of = |model| input_price(&listed, model);
        assert_eq!(of("gpt-5"), Some(9));
        assert_eq!(of("gpt-5-2025-08-07"), Some(1_250_000_000), "another name");
        assert_eq!(of("gpt-4o-2024-05-13"), Some(5_000_000_000), "a snapshot with a price of its own");
        assert_eq!(["gpt-5.9", "gpt-5-preview", "ft:gpt-4o:mine", "gpt-5-2025-08-0x", ""].map(of), [None; 5]);
        assert!(LIST.iter().all(|(_, input, cached, output)| cached.unwrap_or(0) < *input && input < output));
    }
}
