//! Requests that change something but run no turn: they count as requests of their key and project.

use std::time::Duration;

use antiphon_access::keys::Caller;
use antiphon_access::limits::{HeldReservation, KeyRules, ReservationRequest, ReserveError};
use antiphon_protocol::id::ResponseId;
use antiphon_store::Spent;
use axum::response::Response;
use rand::RngExt;

use crate::http::app_state::AppState;
use crate::http::error::RequestError;
use crate::http::error_reply::ErrorReply;
use crate::turn::{Failure, TurnError};

/// After that, a reservation is released whose replica was never found dead. No such request takes as long.
const RESERVED_FOR: Duration = Duration::from_mins(10);

/// A request that is being served. One that fails counts nothing. One whose client goes away counts, as its change may be made.
pub struct Counted(Option<HeldReservation>);

// === impl Counted ===

impl Counted {
    /// Reserves the request. Does no work for a caller without limits.
    pub async fn reserve(state: &AppState, caller: &Caller) -> Result<Self, ErrorReply> {
        let limits = &state.turns.limits;
        let key = caller.key.as_deref().map(|key| KeyRules { id: key.id, rules: &key.limits });
        if !limits.apply_to(&caller.project, key) {
            return Ok(Self(None));
        }
        let now = state.turns.env.clock.now();
        let request = ReservationRequest {
            // It names the reservation only.
            id: ResponseId::mint(now.unix_ms().unsigned_abs(), &rand::rng().random()),
            project: &caller.project,
            key,
            now,
            expires_at: now.plus(RESERVED_FOR),
        };
        match limits.reserve_request(request).await {
            Ok(held) => Ok(Self(held)),
            Err(ReserveError::Exceeded(exceeded)) => {
                let rates = Some(Box::new(exceeded.rates));
                Err(TurnError { failure: Failure::LimitReached(exceeded), rates }.into())
            }
            Err(ReserveError::Store(error)) => Err(RequestError::from(error).into()),
        }
    }

    /// Waits for the change, and releases the reservation if it fails.
    pub async fn change<T, E: Into<RequestError>>(
        &mut self,
        change: impl Future<Output = Result<T, E>>,
    ) -> Result<T, RequestError> {
        let result = change.await;
        if result.is_err() {
            self.0 = None;
        }
        result.map_err(Into::into)
    }

    /// Counts the request, and tells the client what its limits have left.
    pub fn settle(self, mut reply: Response) -> Response {
        if let Some(held) = &self.0 {
            held.rates.replace(reply.headers_mut());
        }
        reply
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(held) = self.0.take() {
            held.settle(Spent { requests: 1, ..Spent::default() }, None);
        }
    }
}
