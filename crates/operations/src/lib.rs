//! What operators do. The command line and the admin API both call these operations.
//!
//! They need no running gateway: a command has a store and a pool of its own.

mod account_turns;
mod accounts;
mod admin;
mod asking;
mod attention;
mod audit;
mod background;
mod chain;
mod conversations;
mod error;
mod keys;
mod live;
mod log;
pub mod oidc;
mod overview;
mod page;
mod process;
mod proxy_sign_in;
mod request;
mod responses;
mod sessions;
mod settings;
mod sign_in;
mod time_range;
mod usage;
mod watchers;

use std::sync::Arc;
use std::time::Duration;

use antiphon_access::keys::Keys;
use antiphon_access::limits::Limits;
use antiphon_config::ProxySignInConfig;
use antiphon_store::{Clock, Store};
use antiphon_upstream::pool::Pool;
use antiphon_upstream::transport::Upstream;

use crate::oidc::Provider;

pub use self::account_turns::{AccountTurns, TurnsOfAccount};
pub use self::accounts::{Account, AccountList, AskModel, TestedAccount};
pub use self::admin::{IssuedToken, TokenList, TokenView};
pub use self::asking::Answer;
pub use self::attention::{Attention, AttentionKind};
pub use self::audit::{AuditEntry, AuditList, AuditSearch};
pub use self::background::{BackgroundList, BackgroundParameters, BackgroundView};
pub use self::chain::{Chain, ChainParameters, ChainTurn, ConversationTurnParameters};
pub use self::conversations::{Conversation, ConversationList, ConversationParameters};
pub use self::error::OperationError;
pub use self::keys::{DeletedKey, KeyClientList, KeyClientView, KeyList, LimitList, RotateRequest};
pub use self::live::{INTERVAL as LIVE_INTERVAL, LiveFrame};
pub use self::log::{AttemptView, LogList, LogParameters, LoggedTurn, OUTCOMES};
pub use self::overview::{Overview, OverviewParameters, Running};
pub use self::page::Page;
pub use self::process::{CurrentConfig, Process};
pub use self::proxy_sign_in::ProxiedOperator;
pub use self::request::{InvalidRequest, parse_object, parse_query};
pub use self::responses::{Bodies, ResponseDetail, ResponseParameters};
pub use self::sessions::{EndedSession, SessionList, SessionView};
pub use self::settings::{ConfigReport, StoreReport};
pub use self::sign_in::{ProviderReply, SignInError};
pub use self::time_range::{TimeRange, Window, parse_time};
pub use self::watchers::{Watcher, WatcherPlace};

/// What operators do.
#[derive(Clone)]
pub struct Operations {
    pub store: Arc<dyn Store>,
    pub pool: Arc<Pool>,
    pub upstream: Upstream,
    pub keys: Arc<Keys>,
    pub limits: Arc<Limits>,
    pub clock: Arc<dyn Clock>,
    /// With which operators can sign in to the dashboard.
    pub provider: Option<Arc<Provider>>,
    /// The proxy that signs operators in.
    pub proxy_sign_in: Option<Arc<ProxySignInConfig>>,
    /// How long usage is kept by the hour; `None` means for ever.
    pub hour_retention: Option<Duration>,
    pub process: Process,
}
