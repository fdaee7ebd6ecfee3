//! `/api/accounts`: how accounts do, and an operator's say in it.

use antiphon_store::{Accounts, Timestamp};
use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;

use super::Operator;
use crate::config::AccountConfig;
use crate::http::Doors;
use crate::http::error::Refused;
use crate::pool::{AccountView, Cooling};
use crate::time::rfc3339;
use crate::turn::Failure;

#[derive(Debug, Serialize)]
pub struct AccountList {
    accounts: Vec<Account>,
}

/// An account as it is configured, without its secrets, and how it does.
#[derive(Debug, Serialize)]
pub struct Account {
    name: String,
    /// `ready`, `cooling`, `disabled` or `paused`.
    state: &'static str,
    /// Until when it is left alone, in RFC 3339, and why.
    cooling_until: Option<String>,
    cooling_reason: Option<&'static str>,
    /// Turns that hold it.
    in_flight: u32,
    config: AccountConfig,
}

#[derive(Debug, Serialize)]
pub struct Tested {
    account: String,
    /// Whether its upstream lists models to it.
    answers: bool,
    error: Option<String>,
}

pub async fn list(_: Operator, State(doors): State<Doors>) -> Json<AccountList> {
    let now = doors.turns.pool.now();
    let view = doors.turns.pool.view().into_iter();
    Json(AccountList { accounts: view.map(|view| Account::of(&view, now)).collect() })
}

pub async fn get(
    _: Operator,
    State(doors): State<Doors>,
    Path(name): Path<String>,
) -> Result<Json<Account>, Refused> {
    Ok(Json(Account::of(&find(&doors, &name)?, doors.turns.pool.now())))
}

/// The account gets no more turns; those that it has go on.
pub async fn pause(
    operator: Operator,
    State(doors): State<Doors>,
    Path(name): Path<String>,
) -> Result<Json<Account>, Refused> {
    find(&doors, &name)?;
    let store = doors.turns.chains.store();
    store.pause_account(&name, doors.turns.clock.now()).await.map_err(Failure::from)?;
    shared(operator, doors, name).await
}

/// The account is back, whatever it was left alone for.
pub async fn resume(
    operator: Operator,
    State(doors): State<Doors>,
    Path(name): Path<String>,
) -> Result<Json<Account>, Refused> {
    find(&doors, &name)?;
    let pool = &doors.turns.pool;
    // What is known here and not yet there would come back.
    pool.share(&**doors.turns.chains.store()).await.map_err(Failure::from)?;
    let store = doors.turns.chains.store();
    store.resume_account(&name, doors.turns.clock.now()).await.map_err(Failure::from)?;
    shared(operator, doors, name).await
}

/// Asks its upstream for its models, with its own credential.
pub async fn test(
    _: Operator,
    State(doors): State<Doors>,
    Path(name): Path<String>,
) -> Result<Json<Tested>, Refused> {
    let AccountView { account, .. } = find(&doors, &name)?;
    let error = doors.turns.upstream.list_models(&account).await.err().map(|error| error.to_string());
    Ok(Json(Tested { account: name, answers: error.is_none(), error }))
}

/// Has the change take effect here at once.
async fn shared(operator: Operator, doors: Doors, name: String) -> Result<Json<Account>, Refused> {
    doors.turns.pool.share(&**doors.turns.chains.store()).await.map_err(Failure::from)?;
    get(operator, State(doors), Path(name)).await
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
            config: account.config.clone(),
        }
    }
}
