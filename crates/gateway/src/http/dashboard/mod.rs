//! The dashboard: the admin API's operations as pages, for operators with a browser.
//!
//! Pages are rendered here, from templates that the compiler checks. They work without scripts, which only add live figures,
//! the reader's time zone and the like. This file is the table of routes. A handler that takes [`gate::SignedIn`] serves only
//! operators, one that takes [`gate::Change`] only admins, and only forms of our own pages.

mod account_turns;
mod accounts;
mod assets;
mod attention;
mod background;
mod chain;
mod chart;
mod configuration;
mod conversations;
mod gate;
mod items;
mod key_clients;
mod key_form;
mod keys;
mod limits_form;
mod live;
mod login;
mod numbers;
mod overview;
mod page;
mod pieces;
mod proxy_sign_in;
mod responses;
mod series;
mod settings;
mod sign_in;
mod tabs;
mod time_choice;
mod timeline;

use axum::Router;
use axum::routing::{get, post};

use crate::http::app_state::AppState;
use crate::http::fallback::unknown_route;

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/", get(overview::show))
        .route("/live", get(live::watch))
        .route("/login", get(login::form).post(login::sign_in))
        .route("/login/provider", get(sign_in::begin))
        .route("/login/callback", get(sign_in::finish))
        .route("/logout", get(proxy_sign_in::signed_out).post(login::sign_out))
        .route("/assets/{file}", get(assets::get))
        .route("/responses", get(responses::list).fallback(unknown_route))
        .route("/responses/background", get(background::list))
        .route("/responses/conversations", get(conversations::list))
        .route("/responses/conversations/{id}", get(conversations::show))
        .route("/responses/{id}", get(chain::show).post(chain::show_with_items))
        .route("/keys", get(keys::list).post(keys::create))
        .route("/keys/new", get(keys::new))
        .route("/keys/{name}", get(keys::show))
        .route("/keys/{name}/limits", post(keys::change_limits))
        .route("/keys/{name}/rotate", post(keys::rotate))
        .route("/keys/{name}/revoke", post(keys::revoke))
        .route("/keys/{name}/delete", post(keys::delete))
        .route("/accounts", get(accounts::list))
        .route("/accounts/{name}", get(accounts::show))
        .route("/accounts/{name}/pause", post(accounts::pause))
        .route("/accounts/{name}/resume", post(accounts::resume))
        .route("/accounts/{name}/test", post(accounts::test))
        .route("/settings", get(settings::show))
        .route("/settings/audit", get(settings::audit))
        .route("/settings/tokens/viewer", post(settings::replace_viewer_token))
        .route("/settings/sessions/end-all", post(settings::end_all_sessions))
        .route("/settings/sessions/{id}/end", post(settings::end_session))
}
