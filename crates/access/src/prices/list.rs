//! The prices that come with this build.

/// When the list below was checked. Prices change: operators who rely on costs put their own into `[[prices]]`.
pub const LIST_DATE: &str = "2026-05-13";

/// OpenAI's list prices on [`LIST_DATE`], in thousandths of a dollar for a million tokens: input, cached input (if it has a
/// price of its own) and output. They are those of the standard tier and of contexts of usual length; other tiers, very
/// long contexts and tools are not covered. A model that is not listed has no price.
pub(super) const LIST: [(&str, u64, Option<u64>, u64); 40] = [
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
