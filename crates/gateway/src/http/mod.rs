//! The doors: they parse requests, run a turn or an operation, and render the result.
//!
//! This file is the table of routes; those of the admin API are in [`operator`], those of the dashboard in
//! [`dashboard`]. [`server`] accepts connections, and
//! [`error_reply`] renders failures.

mod api;
pub mod app_state;
pub mod auth;
mod body;
mod dashboard;
mod error;
mod error_reply;
mod fallback;
mod json_reply;
mod loading;
mod operator;
pub mod origin;
mod pace;
mod parsing;
mod path_segment;
mod query;
pub mod readiness;
pub mod server;
pub mod socket;
mod stall;
mod streams;

use antiphon_protocol::request::Operation;
use axum::Router;
use axum::routing::{get, post};

use self::api::{conversations, create, models, stored};
use self::app_state::AppState;
use self::fallback::{method_not_allowed, unknown_route};
use self::operator::health;

/// The endpoints of a listener.
#[derive(Debug, Clone, Copy)]
pub enum Endpoints {
    All,
    /// For clients.
    Api,
    /// For operators.
    Operations,
}

pub fn router(state: &AppState, endpoints: Endpoints) -> Router {
    let routes = match endpoints {
        Endpoints::All => api().merge(operations(state.serves_dashboard)),
        Endpoints::Api => api(),
        Endpoints::Operations => operations(state.serves_dashboard),
    };
    routes.fallback(unknown_route).method_not_allowed_fallback(method_not_allowed).with_state(state.clone())
}

fn api() -> Router<AppState> {
    responses("/v1")
        .merge(responses("/backend-api/codex"))
        .merge(conversation_routes())
        .route("/v1/chat/completions", create::serve(Operation::ChatCompletion))
        .route("/v1/embeddings", create::serve(Operation::Embed))
}

fn conversation_routes() -> Router<AppState> {
    Router::new()
        .route("/v1/conversations", post(conversations::create))
        .route(
            "/v1/conversations/{id}",
            get(conversations::get).post(conversations::update).delete(conversations::delete),
        )
        .route("/v1/conversations/{id}/items", get(conversations::list_items).post(conversations::add_items))
        .route(
            "/v1/conversations/{id}/items/{item}",
            get(conversations::get_item).delete(conversations::delete_item),
        )
}

fn responses(prefix: &str) -> Router<AppState> {
    Router::new()
        .route(&format!("{prefix}/responses"), create::serve(Operation::Create).get(socket::open))
        .route(&format!("{prefix}/responses/compact"), create::serve(Operation::Compact))
        .route(&format!("{prefix}/responses/input_tokens"), create::serve(Operation::CountInput))
        .route(&format!("{prefix}/responses/{{id}}"), get(stored::get).delete(stored::delete))
        .route(&format!("{prefix}/responses/{{id}}/cancel"), post(stored::cancel))
        .route(&format!("{prefix}/responses/{{id}}/input_items"), get(stored::input_items))
        .route(&format!("{prefix}/models"), get(models::list))
        .route(&format!("{prefix}/models/{{*id}}"), get(models::get))
}

fn operations(with_dashboard: bool) -> Router<AppState> {
    let operations = Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .merge(operator::router());
    if with_dashboard { operations.merge(dashboard::router()) } else { operations }
}
