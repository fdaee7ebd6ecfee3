//! `antiphon serve`.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::Arc;

use antiphon_access::admin::Role;
use antiphon_config::{Config, Loaded, LogFormat};
use antiphon_gateway::app::App;
use antiphon_gateway::reload::{ConfigLoader, Source};
use antiphon_gateway::telemetry;
use antiphon_operations::Operations;
use antiphon_runtime::files;
use antiphon_store::SystemClock;
use anyhow::Context;
use sd_notify::NotifyState;
use tokio::net::TcpListener;

use super::output::print_note;
use super::signals::stop_requested;
use super::{Logged, serve_on_threads};

/// `reload` loads the configuration again.
pub fn run(loaded: Loaded, reload: ConfigLoader) -> anyhow::Result<()> {
    let log = loaded.config.log.clone();
    let _guard = telemetry::init(&log)?;
    let served = serve_on_threads(serve(loaded, reload));
    match served {
        Err(error) if log.format == LogFormat::Json => {
            tracing::error!(error = format!("{error:#}"), "the gateway ended");
            Err(Logged.into())
        }
        served => served,
    }
}

async fn serve(loaded: Loaded, reload: ConfigLoader) -> anyhow::Result<()> {
    let config = loaded.config.clone();
    config.require_accounts()?;
    files::raise_limit();
    let max_connections = config.limits.max_connections;
    let listener = bind(config.listen, "listen").await?;
    let admin = match config.admin_listen {
        Some(address) => Some(bind(address, "admin_listen").await?),
        None => None,
    };
    let app = App::build(config, Arc::new(SystemClock)).await?;
    // Whoever reads that the gateway is there may signal it at once.
    let app = app.with_reload(Source::new(&loaded, reload));
    let stopping = stop_requested();
    announce(&loaded, listener.local_addr()?);
    let possible = files::fitting(max_connections);
    if possible < max_connections {
        tracing::warn!(
            max_connections,
            possible,
            "fewer connections are accepted, as the process may open too few files"
        );
    }
    show_first_admin_token(app.operations()).await;
    tell_service_manager(NotifyState::Ready);
    let stop = async {
        stopping.await;
        tell_service_manager(NotifyState::Stopping);
    };
    app.run(listener, admin, stop).await;
    Ok(())
}

/// Says where the gateway listens and with what, as text or as a line of the log.
fn announce(loaded: &Loaded, address: SocketAddr) {
    let Loaded { config, source, .. } = loaded;
    let Config { store, accounts, tls, log, .. } = config;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let (version, url, accounts) =
        (env!("CARGO_PKG_VERSION"), format!("{scheme}://{address}"), accounts.len());
    let file = source.as_ref().map(|path| path.display().to_string());
    if log.format == LogFormat::Json {
        let (store, configuration) = (store.url.to_string(), file);
        return tracing::info!(version, url, store, accounts, configuration, "listening");
    }
    print_note!("Antiphon {version} listening on {url}");
    print_note!("  store: {}", store.url);
    match file {
        Some(file) => print_note!("  {accounts} account(s), configuration: {file}"),
        None => print_note!("  {accounts} account(s), no configuration file"),
    }
}

/// Creates the first admin token and prints it to a terminal. Anything else would keep it, so the log says how to get one.
async fn show_first_admin_token(operations: &Operations) {
    let outcome = if std::io::stderr().is_terminal() {
        operations.create_first_admin_token().await.map(|created| {
            if let Some(token) = created {
                print_note!("  admin token (shown only once): {}", token.expose());
            }
        })
    } else {
        operations.list_admin_tokens().await.map(|list| {
            if !list.tokens.iter().any(|token| token.role == Role::Admin) {
                tracing::info!("there is no admin token; run `antiphon admin token` to create one");
            }
        })
    };
    if let Err(error) = outcome {
        tracing::warn!(%error, "the admin token could not be read or created; run `antiphon admin token` if there is none");
    }
}

/// Does nothing unless systemd, or a manager like it, waits to be told.
fn tell_service_manager(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager cannot be notified");
    }
}

pub async fn bind(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; set {key} to a free address"))
}
