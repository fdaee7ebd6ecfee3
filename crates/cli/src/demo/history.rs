//! Thirty days of turns in the request log, as a small team makes them.

use std::time::Duration;

use antiphon_access::keys::KeyWithSecret;
use antiphon_operations::Operations;
use antiphon_protocol::id::{ProjectId, ResponseId};
use antiphon_store::{HOUR_MS, LogRow, Timestamp};
use rand::RngExt;

const HOURS: i64 = 30 * 24;
const BUSIEST_HOUR: f64 = 14.0;
/// Of so many hours, the first account has trouble in one.
const HOURS_BETWEEN_TROUBLE: i64 = 11;

/// A model with what its turns cost, in billionths of a dollar a token.
struct Model {
    name: &'static str,
    /// How many of ten turns use it.
    share: u32,
    nano_usd_per_token: u64,
    first_event_ms: u64,
}

const MODELS: [Model; 3] = [
    Model { name: "gpt-5.4", share: 5, nano_usd_per_token: 3_800, first_event_ms: 620 },
    Model { name: "gpt-4.1-mini", share: 4, nano_usd_per_token: 620, first_event_ms: 340 },
    Model { name: "sim", share: 1, nano_usd_per_token: 0, first_event_ms: 180 },
];

/// Queues the rows, which are written in the background.
pub fn fill(operations: &Operations, keys: &[KeyWithSecret]) {
    let now = operations.clock.now().unix_ms();
    for hour in 1..=HOURS {
        let start = now - hour * HOUR_MS;
        for _ in 0..turns_of(start) {
            let at = start + rand::rng().random_range(0..HOUR_MS);
            operations.store.append_log(row(Timestamp::from_unix_ms(at), keys));
        }
    }
}

/// More by day than by night, fewer at weekends, and growing.
fn turns_of(at: i64) -> u32 {
    let hour_of_day = (at / HOUR_MS % 24) as f64;
    let distance = (hour_of_day - BUSIEST_HOUR).abs().min(24.0 - (hour_of_day - BUSIEST_HOUR).abs());
    // 1970 began on a Thursday.
    let is_weekend = matches!((at / (24 * HOUR_MS) + 3) % 7, 5 | 6);
    let busy = 36.0 * (-(distance / 5.0).powi(2)).exp() + 4.0;
    let busy = if is_weekend { busy * 0.35 } else { busy };
    (busy * rand::rng().random_range(0.6..1.4)) as u32
}

fn row(at: Timestamp, keys: &[KeyWithSecret]) -> LogRow {
    let mut random = rand::rng();
    let chosen = random.random_range(0..10);
    let mut below = 0;
    let model = MODELS.iter().find(|model| {
        below += model.share;
        chosen < below
    });
    let model = model.unwrap_or(&MODELS[0]);
    let key = keys.get(random.random_range(0..keys.len().max(1)));
    let account = if random.random_range(0..5) == 0 { "spare" } else { "simulated" };
    let has_trouble = account == "simulated" && at.unix_ms() / HOUR_MS % HOURS_BETWEEN_TROUBLE == 0;
    let (outcome, http_status, code) = match random.random_range(0..if has_trouble { 12 } else { 100 }) {
        0..2 => ("failed", 200, Some("server_error")),
        2..4 => ("refused", 429, Some("rate_limit_exceeded")),
        4 => ("incomplete", 200, None),
        _ => ("completed", 200, None),
    };
    let is_served = outcome != "refused";
    let tokens = |most: u64| if is_served { rand::rng().random_range(most / 8..most) } else { 0 };
    let (input, output) = (tokens(6_000), tokens(900));
    let first_event = Duration::from_millis(model.first_event_ms * random.random_range(60..260) / 100);
    LogRow {
        at,
        project: ProjectId::new(key.map_or(ProjectId::DEFAULT, |key| key.key.project.as_str())),
        response: ResponseId::mint(at.unix_ms().unsigned_abs(), &random.random()),
        key: key.map(|key| key.key.id.clone()),
        account: is_served.then(|| account.to_owned()),
        model: model.name.to_owned(),
        transport: ["sse", "http", "websocket"][random.random_range(0..3)].into(),
        outcome: outcome.into(),
        http_status,
        code: code.map(str::to_owned),
        depth: random.random_range(1..12),
        attempts: u32::from(is_served),
        input_tokens: input,
        cached_tokens: input * random.random_range(20..80) / 100,
        output_tokens: output,
        reasoning_tokens: output / 4,
        cost_nano_usd: (model.nano_usd_per_token > 0)
            .then_some((input / 4 + output) * model.nano_usd_per_token),
        duration: first_event + Duration::from_millis(output * 12),
        first_event: is_served.then_some(first_event),
        is_estimated: false,
        sent: is_served.then_some(Duration::from_millis(2)),
        attempt_log: None,
        reasoning: is_served.then_some("full".into()),
    }
}
