//! `antiphon demo`: the gateway with a simulated upstream, and traffic for the dashboard to show.

mod history;
mod traffic;

use std::net::SocketAddr;
use std::sync::Arc;

use antiphon_access::admin::Role;
use antiphon_access::audit::Actor;
use antiphon_config::{Config, Environment, Overrides};
use antiphon_gateway::app::App;
use antiphon_gateway::telemetry;
use antiphon_simulator::upstream::{Options, Simulator};
use antiphon_store::SystemClock;
use anyhow::Context;

use self::traffic::Traffic;
use super::output::print_line;
use super::serve::bind;
use super::serve_on_threads;
use super::signals::stop_requested;

pub fn run(listen: SocketAddr) -> anyhow::Result<()> {
    serve_on_threads(async move {
        let listener = bind(listen, "--listen").await?;
        let address = listener.local_addr()?;
        // Limits that last long enough to be seen.
        let options = Options { record: false, limits_reset: ["24h0m0s", "1m0s"], ..Options::default() };
        let upstream = Simulator::bind(options).await.context("cannot start the simulated upstream")?;
        let config = config(&upstream.url())?;
        let _log = telemetry::init(&config.log)?;
        let app = App::build(config, Arc::new(SystemClock)).await?;
        let operations = app.operations().clone();
        let token = operations.replace_admin_token(Role::Admin, Actor::Gateway).await?.token;
        let keys = traffic::create_keys(&operations).await?;
        history::fill(&operations, &keys);
        print_line!("{}", instructions(address, &keys[0].secret, &token))?;
        let traffic = Traffic::new(address, &keys);
        tokio::select! {
            () = app.run(listener, None, stop_requested()) => {}
            () = traffic.run() => {}
        }
        Ok(())
    })
}

fn config(upstream: &str) -> anyhow::Result<Config> {
    let accounts = format!(
        r#"[{{ name = "simulated", base_url = "{upstream}", models = ["gpt-*", "sim"], max_in_flight = 8, priority = 1 }},
            {{ name = "spare", base_url = "{upstream}" }}]"#
    );
    let settings = [
        ("ANTIPHON_ACCOUNTS", accounts.as_str()),
        ("ANTIPHON_STORE__URL", "sqlite::memory:"),
        ("ANTIPHON_LOG__FILTER", "warn"),
    ];
    let environment: Environment = settings.into_iter().collect();
    let no_directory = std::env::temp_dir().join("antiphon-demo-reads-no-file");
    Ok(Config::load(None, &no_directory, &environment, Overrides::default())?.config)
}

fn instructions(address: SocketAddr, secret: &str, token: &str) -> String {
    format!(
        r#"Antiphon demo listening on http://{address}, in front of a simulated upstream that stores nothing. Press Ctrl-C to stop.

Dashboard: http://{address}/
Admin token: {token}

Create a response:
  KEY={secret}
  ID=$(curl -s http://{address}/v1/responses -H "authorization: Bearer $KEY" -H 'content-type: application/json' \
    -d '{{"model":"sim","input":"My name is Ada."}}' | grep -o 'resp_[0-9a-f]*' | head -n 1); echo $ID

Continue it (ECHO makes the upstream reply with the input it received):
  curl -s http://{address}/v1/responses -H "authorization: Bearer $KEY" -H 'content-type: application/json' \
    -d '{{"model":"sim","input":"ECHO: what is my name?","previous_response_id":"'$ID'"}}'

Read it back:
  curl -s -H "authorization: Bearer $KEY" http://{address}/v1/responses/$ID"#
    )
}
