//! What operators do. The command line and the admin API both call these operations.
//!
//! They need no running gateway: a command has a store and a pool of its own.

mod accounts;
mod admin;
mod audit;
mod conversations;
mod error;
mod keys;
mod page;
mod request;
mod sessions;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use antiphon_access::keys::Keys;
use antiphon_access::limits::Limits;
use antiphon_store::{Clock, Store};
use antiphon_upstream::pool::Pool;
use antiphon_upstream::transport::Upstream;

pub use self::accounts::{Account, AccountList, TestedAccount};
pub use self::admin::{IssuedToken, TokenList, TokenView};
pub use self::audit::{AuditEntry, AuditList};
pub use self::conversations::{ConversationList, ConversationParameters};
pub use self::error::OperationError;
pub use self::keys::{DeletedKey, KeyList, LimitList, RotateRequest};
pub use self::page::Page;
pub use self::request::{InvalidRequest, parse_object, parse_query};
pub use self::sessions::{EndedSession, SessionList, SessionView};

/// What operators do.
#[derive(Clone)]
pub struct Operations {
    pub store: Arc<dyn Store>,
    pub pool: Arc<Pool>,
    pub upstream: Upstream,
    pub keys: Arc<Keys>,
    pub limits: Arc<Limits>,
    pub clock: Arc<dyn Clock>,
    /// How long usage is kept by the hour; `None` means for ever.
    pub hour_retention: Option<Duration>,
}
