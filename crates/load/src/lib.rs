//! A closed-loop load generator for the OpenAI Responses API: each worker has one connection and one turn at a time.
//!
//! It uses little CPU, to leave the machine to the server under test: requests are rendered once, and replies are searched
//! instead of parsed.

mod body;
mod http;
mod outcome;
mod reply;
mod report;
mod socket;
mod stamp;
mod target;
mod worker;

pub use report::{Latency, Report};

use ::http::Uri;
use std::sync::Arc;
use std::time::Duration;
use target::Target;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use worker::{Budget, Worker};

/// What is sent, and how much of it.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Base URL, such as `http://127.0.0.1:8080/v1`.
    pub url: String,
    pub mode: Mode,
    pub concurrency: usize,
    pub amount: Amount,
    /// Number of requests before the measurement.
    pub warmup: u64,
    /// The time over which the workers start, so that they do not run in step.
    pub ramp: Duration,
    /// Default: true for chains, else false.
    pub store: Option<bool>,
    /// Number of turns in a chain; each continues the previous one. With 1 there are no chains.
    pub turns: usize,
    /// Offers a tool; each turn of a chain sends the output of the previous turn's call.
    pub tools: bool,
    /// Length of the input text, or of the tool's output.
    pub input_chars: usize,
    pub model: String,
    pub api_key: Option<String>,
    /// Measures the delay of each delta, if the upstream stamps them.
    pub delays: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Collected replies.
    Json,
    /// Event streams, read to their terminal event.
    Sse,
    /// WebSockets; each worker keeps one.
    Ws,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    Requests(u64),
    Time(Duration),
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            url: String::from("http://127.0.0.1:8080/v1"),
            mode: Mode::Json,
            concurrency: 16,
            amount: Amount::Time(Duration::from_secs(10)),
            warmup: 0,
            ramp: Duration::ZERO,
            store: None,
            turns: 1,
            tools: false,
            input_chars: 200,
            model: String::from("sim"),
            api_key: None,
            delays: false,
        }
    }
}

/// Options that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("'{url}' is not an http:// URL")]
    Url { url: String },
    #[error("the API key cannot be sent in a header")]
    ApiKey,
}

/// Sends the load and reports the results. Failed requests are counted, not returned.
pub async fn run(options: LoadOptions) -> Result<Report, LoadError> {
    run_by_turn(options, &[]).await
}

/// Like [`run`], and also reports the mean time of these turns of a chain. A chain's first turn is number 1.
pub async fn run_by_turn(options: LoadOptions, report_turns: &[usize]) -> Result<Report, LoadError> {
    let target = Arc::new(Target::new(&options)?);
    let report_turns: Arc<[usize]> = report_turns.into();
    let concurrency = options.concurrency.max(1);
    let warmup = Arc::new(Budget::new(Amount::Requests(options.warmup)));
    let measured = Arc::new(Budget::new(options.amount));
    let barrier = Arc::new(Barrier::new(concurrency));
    let mut workers = JoinSet::new();
    for number in 0..concurrency {
        let start_after = options.ramp.mul_f64(number as f64 / concurrency as f64);
        let mut worker = Worker::new(Arc::clone(&target), Arc::clone(&report_turns));
        let (warmup, measured, barrier) = (Arc::clone(&warmup), Arc::clone(&measured), Arc::clone(&barrier));
        workers.spawn(async move {
            drop(worker.spend(&warmup).await);
            barrier.wait().await;
            tokio::time::sleep(start_after).await;
            worker.spend(&measured).await
        });
    }
    Ok(Report::sum(&options, workers.join_all().await))
}

fn http_url(url: &str) -> Result<Uri, LoadError> {
    let refused = || LoadError::Url { url: url.to_owned() };
    let uri: Uri = url.trim_end_matches('/').parse().map_err(|_| refused())?;
    if uri.scheme_str() == Some("http") && uri.host().is_some() { Ok(uri) } else { Err(refused()) }
}
