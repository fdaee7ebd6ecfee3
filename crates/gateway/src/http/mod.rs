//! The doors: they parse framing, call the one path of a turn or the store, and render what comes back.
//!
//! This file is the table of routes, but for those of the admin API, which are in [`operator`] with what they are described by; [`server`] accepts the connections, [`error`] turns failures into HTTP.

mod api;
pub mod auth;
mod body;
pub mod doors;
mod error;
mod fallback;
mod operator;
mod parsing;
mod query;
mod segment;
pub mod server;
pub mod socket;
mod stall;

use axum::Router;
use axum::routing::{get, post};

use self::api::{create, models, stored};
use self::doors::Doors;
use self::fallback::{unknown_route, wrong_method};
use self::operator::health;

/// What a listener serves.
#[derive(Debug, Clone, Copy)]
pub enum Endpoints {
    All,
    /// What clients call.
    Api,
    /// What operators call.
    Operations,
}

pub fn router(doors: &Doors, endpoints: Endpoints) -> Router {
    let routes = match endpoints {
        Endpoints::All => api().merge(operations()),
        Endpoints::Api => api(),
        Endpoints::Operations => operations(),
    };
    routes.fallback(unknown_route).method_not_allowed_fallback(wrong_method).with_state(doors.clone())
}

fn api() -> Router<Doors> {
    responses("/v1").merge(responses("/backend-api/codex"))
}

fn responses(prefix: &str) -> Router<Doors> {
    Router::new()
        .route(&format!("{prefix}/responses"), post(create::create).get(socket::open))
        .route(&format!("{prefix}/responses/compact"), post(create::compact))
        .route(&format!("{prefix}/responses/input_tokens"), post(create::count_input))
        .route(&format!("{prefix}/responses/{{id}}"), get(stored::get).delete(stored::delete))
        .route(&format!("{prefix}/responses/{{id}}/cancel"), post(stored::cancel))
        .route(&format!("{prefix}/responses/{{id}}/input_items"), get(stored::input_items))
        .route(&format!("{prefix}/models"), get(models::list))
        .route(&format!("{prefix}/models/{{*id}}"), get(models::get))
}

fn operations() -> Router<Doors> {
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .merge(operator::router())
}
