//! `antiphon demo`: the gateway with a simulated upstream.

use std::net::SocketAddr;
use std::sync::Arc;

use antiphon_simulator::upstream::{Options, Simulator};
use antiphon_store::SystemClock;
use anyhow::Context;

use super::serve::bind;
use super::serve_on_threads;
use super::signals::stop_requested;
use crate::app::App;
use crate::config::{Config, Environment, Overrides};
use crate::telemetry;

pub fn run(listen: SocketAddr) -> anyhow::Result<()> {
    serve_on_threads(async move {
        let listener = bind(listen, "--listen").await?;
        let address = listener.local_addr()?;
        let upstream =
            Simulator::bind(Options::default()).await.context("cannot start the simulated upstream")?;
        let config = config(&upstream.url())?;
        let _log = telemetry::init(&config.log)?;
        let app = App::build(config, Arc::new(SystemClock)).await?;
        println!("{}", instructions(address));
        app.run(listener, None, stop_requested()).await;
        Ok(())
    })
}

fn config(upstream: &str) -> anyhow::Result<Config> {
    let account = format!(r#"[{{ name = "simulated", base_url = "{upstream}" }}]"#);
    let settings = [
        ("ANTIPHON_ACCOUNTS", account.as_str()),
        ("ANTIPHON_STORE__URL", "sqlite::memory:"),
        ("ANTIPHON_LOG__FILTER", "warn"),
    ];
    let environment: Environment = settings.into_iter().collect();
    let no_directory = std::env::temp_dir().join("antiphon-demo-reads-no-file");
    Ok(Config::load(None, &no_directory, &environment, Overrides::default())?.config)
}

fn instructions(address: SocketAddr) -> String {
    format!(
        r#"Antiphon demo listening on http://{address}, in front of a simulated upstream that stores nothing. Press Ctrl-C to stop.

Create a response:
  ID=$(curl -s http://{address}/v1/responses -H 'content-type: application/json' \
    -d '{{"model":"sim","input":"My name is Ada."}}' | grep -o 'resp_[0-9a-f]*' | head -n 1); echo $ID

Continue it (ECHO makes the upstream reply with the input it received):
  curl -s http://{address}/v1/responses -H 'content-type: application/json' \
    -d '{{"model":"sim","input":"ECHO: what is my name?","previous_response_id":"'$ID'"}}'

Read it back:
  curl -s http://{address}/v1/responses/$ID"#
    )
}
