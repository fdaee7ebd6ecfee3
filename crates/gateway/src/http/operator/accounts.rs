//! `/api/accounts`: how accounts do, and an operator's say in it.

use antiphon_store::Timestamp;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Operator;
use super::page::Page;
use crate::http::doors::Doors;
use crate::http::error::Refused;
use crate::http::segment::Segment;
use crate::turn::Failure;
use antiphon_access::audit::{Actor, entry};
use antiphon_runtime::rfc3339;
use antiphon_upstream::pool::{AccountView, Cooling};

#[derive(Debug, Serialize, ToSchema)]
pub struct AccountList {
    /// In the configuration's order.
    accounts: Vec<Account>,
    has_more: bool,
}

/// An account as it is configured, without its secrets, and how it does.
#[derive(Debug, Serialize, ToSchema)]
pub struct Account {
    name: String,
    /// `ready`, `cooling`, `disabled` or `paused`.
    state: &'static str,
    /// Until when it is left alone, in RFC 3339, and why.
    cooling_until: Option<String>,
    cooling_reason: Option<&'static str>,
    /// Turns that hold it.
    in_flight: u32,
    /// Secrets are redacted.
    #[schema(value_type = Object)]
    config: serde_json::Value,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Tested {
    account: String,
    /// Whether its upstream lists models to it.
    answers: bool,
    error: Option<String>,
}

/// Every account; `after` takes an account's `name`.
#[utoipa::path(
    get,
    path = "/api/accounts",
    operation_id = "list_accounts",
    tag = "accounts",
    params(Page),
    responses((status = OK, body = AccountList))
)]
pub async fn list(_: Operator, State(doors): State<Doors>, page: Page) -> Result<Json<AccountList>, Refused> {
    let now = doors.turns.pool.now();
    let view = doors.turns.pool.view();
    let place = |after: &String| view.iter().position(|view| view.account.name == *after);
    let from = match &page.after {
        Some(after) => place(after).ok_or_else(|| page.unknown_cursor())? + 1,
        None => 0,
    };
    let (accounts, has_more) = page.cut(view[from..].iter().map(|view| Account::of(view, now)).collect());
    Ok(Json(AccountList { accounts, has_more }))
}

/// One account.
#[utoipa::path(
    get,
    path = "/api/accounts/{name}",
    operation_id = "get_account",
    tag = "accounts",
    params(("name" = String, Path)),
    responses((status = OK, body = Account))
)]
pub async fn get(
    _: Operator,
    State(doors): State<Doors>,
    Segment(name): Segment,
) -> Result<Json<Account>, Refused> {
    Ok(Json(Account::of(&find(&doors, &name)?, doors.turns.pool.now())))
}

/// The account gets no more turns; those that it has go on.
#[utoipa::path(
    post,
    path = "/api/accounts/{name}/pause",
    operation_id = "pause_account",
    tag = "accounts",
    params(("name" = String, Path)),
    responses((status = OK, body = Account))
)]
pub async fn pause(
    operator: Operator,
    State(doors): State<Doors>,
    Segment(name): Segment,
) -> Result<Json<Account>, Refused> {
    find(&doors, &name)?;
    let store = doors.turns.chains.store();
    let audit = entry(&*doors.turns.env.clock, Actor::AdminApi, "account.paused", &name);
    store.pause_account(&name, audit).await.map_err(Failure::from)?;
    shared(operator, doors, name).await
}

/// The account is back, whatever it was left alone for.
#[utoipa::path(
    post,
    path = "/api/accounts/{name}/resume",
    operation_id = "resume_account",
    tag = "accounts",
    params(("name" = String, Path)),
    responses((status = OK, body = Account))
)]
pub async fn resume(
    operator: Operator,
    State(doors): State<Doors>,
    Segment(name): Segment,
) -> Result<Json<Account>, Refused> {
    find(&doors, &name)?;
    let pool = &doors.turns.pool;
    // What is known here and not yet there would come back.
    pool.share(&**doors.turns.chains.store()).await.map_err(Failure::from)?;
    let store = doors.turns.chains.store();
    let audit = entry(&*doors.turns.env.clock, Actor::AdminApi, "account.resumed", &name);
    store.resume_account(&name, audit).await.map_err(Failure::from)?;
    shared(operator, doors, name).await
}

/// Asks its upstream for its models, with its own credential.
#[utoipa::path(
    post,
    path = "/api/accounts/{name}/test",
    operation_id = "test_account",
    tag = "accounts",
    params(("name" = String, Path)),
    responses((status = OK, body = Tested))
)]
pub async fn test(
    _: Operator,
    State(doors): State<Doors>,
    Segment(name): Segment,
) -> Result<Json<Tested>, Refused> {
    let AccountView { account, .. } = find(&doors, &name)?;
    let error = doors.turns.upstream.list_models(&account).await.err().map(|error| error.to_string());
    Ok(Json(Tested { account: name, answers: error.is_none(), error }))
}

/// Has the change take effect here at once.
async fn shared(operator: Operator, doors: Doors, name: String) -> Result<Json<Account>, Refused> {
    doors.turns.pool.share(&**doors.turns.chains.store()).await.map_err(Failure::from)?;
    get(operator, State(doors), Segment(name)).await
}

fn find(doors: &Doors, name: &str) -> Result<AccountView, Failure> {
    let found = doors.turns.pool.view().into_iter().find(|view| view.account.name == name);
    found.ok_or_else(|| Failure::AccountNotFound(name.to_owned()))
}

// === impl Account ===

impl Account {
    fn of(AccountView { account, state }: &AccountView, now: Timestamp) -> Self {
        let cooling = state.cooling.filter(|cooling| cooling.until > now);
        Self {
            name: account.name.clone(),
            state: state.name(now),
            cooling_until: cooling.map(|Cooling { until, .. }| rfc3339(until)),
            cooling_reason: cooling.map(|Cooling { reason, .. }| reason.as_str()),
            in_flight: state.in_flight,
            config: account.settings.shown.clone(),
        }
    }
}
