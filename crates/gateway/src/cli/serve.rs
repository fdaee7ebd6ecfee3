//! `antiphon serve`.

use std::net::SocketAddr;
use std::sync::Arc;

use antiphon_store::SystemClock;
use anyhow::Context;
use sd_notify::NotifyState;
use tokio::net::TcpListener;

use super::serve_on_threads;
use super::signals::stop_requested;
use crate::app::App;
use crate::config::Loaded;
use crate::reload::ConfigLoader;
use crate::telemetry;

/// `reload` loads the configuration again.
pub fn run(loaded: Loaded, reload: ConfigLoader) -> anyhow::Result<()> {
    let Loaded { config, source } = loaded;
    config.require_accounts()?;
    let _log = telemetry::init(&config.log)?;
    serve_on_threads(async move {
        let listener = bind(config.listen, "listen").await?;
        let admin = match config.admin_listen {
            Some(address) => Some(bind(address, "admin_listen").await?),
            None => None,
        };
        let store = config.store.url.to_string();
        let accounts = config.accounts.len();
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let app = App::build(config, Arc::new(SystemClock)).await?;
        eprintln!(
            "Antiphon {} listening on {scheme}://{}",
            env!("CARGO_PKG_VERSION"),
            listener.local_addr()?
        );
        eprintln!("  store: {store}");
        match &source {
            Some(path) => eprintln!("  {accounts} account(s), configuration: {}", path.display()),
            None => eprintln!("  {accounts} account(s), no configuration file"),
        }
        match app.operations().create_first_admin_token().await {
            Ok(Some(token)) => eprintln!("  admin token (shown only once): {}", token.expose()),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "could not create the admin token; run `antiphon admin token`");
            }
        }
        tell_service_manager(NotifyState::Ready);
        let stop = async {
            stop_requested().await;
            tell_service_manager(NotifyState::Stopping);
        };
        app.with_reload(source, reload).run(listener, admin, stop).await;
        Ok(())
    })
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
