//! Responses, items, the request log, accounts, keys and limits on disk.
//!
//! [`Store`] is the sum of narrow traits; each method is one domain operation and one transaction, and everything is scoped by
//! project. SQL is private to this crate.
//!
//! An engine implements [`Responses`] and [`Store`], and a crate-private trait that runs statements. Over that, the other
//! traits are implemented once, with statements that all engines understand. What is not SQL (the chain cache, group commit,
//! replay bytes) exists once, too. The contract suite in `tests/contract` runs on every engine.
//!
//! Adding an engine: a folder beside [`sqlite`] with its own `migrations/<engine>`, an arm in each function of `open.rs`, and
//! a line in `tests/contract/main.rs`.

mod account_sums;
mod accounts;
mod admin;
mod assemble;
mod audit;
mod background;
mod backup;
mod body;
pub mod chain;
mod checksum;
mod conversations;
mod copy;
mod error;
mod examine;
mod group;
mod inspection;
mod items;
mod key_clients;
mod keys;
mod limits;
mod log_search;
mod migration;
mod open;
mod options;
mod overview;
pub mod postgres;
mod probe;
mod purge;
mod replicas;
mod request_log;
mod responses;
mod sessions;
mod sign_ins;
mod sql;
pub mod sqlite;
mod store;
mod url;
mod usage;
mod verify;

pub use self::account_sums::AccountSum;
pub use self::accounts::{Accounts, CredentialLock, StoredAccount, StoredCredential};
pub use self::admin::Admin;
pub use self::assemble::MAX_COST_NANO_USD;
pub use self::audit::{Audit, AuditEntry, AuditQuery};
pub use self::background::{
    Background, BackgroundEnd, BackgroundRequest, BackgroundResult, BackgroundStatus, BackgroundTurn,
    Claimable, EventChunk, NewBackgroundTurn, QueueLimits, TurnLease, TurnProgress, UpstreamTurn,
};
pub use self::backup::{BackupReport, backup};
pub use self::conversations::{
    Append, Appended, AppendedItem, ConversationItem, ConversationLock, ConversationQuery, Conversations,
    ItemLocation, ItemPage, PageEnd, Post, StoredConversation,
};
pub use self::copy::{CopyProgress, CopyReport, CopyStep, Digested, TableReport, copy};
pub use self::error::StoreError;
pub use self::examine::{Examination, examine};
pub use self::inspection::{BackgroundQuery, BackgroundSummary, ChainLink, Inspection, TurnSummary};
pub use self::key_clients::{KeyClient, KeyClients};
pub use self::keys::{Expiry, KeyTerms, Keys, Rotation, SecretHash, StoredKey};
pub use self::limits::{
    Abandoned, Count, CounterId, Counters, Hold, Limits, Measure, Reservation, Reserved, Settlement, Spent,
};
pub use self::log_search::{LogPage, LogPosition, LogQuery};
pub use self::open::{migrate, open, pending};
pub use self::options::{Durability, Migrate, StoreOptions};
pub use self::overview::{Latency, LatencySum, OutcomeSum, Overview, OverviewQuery};
pub use self::purge::PurgeProgress;
pub use self::replicas::{Replica, Replicas};
pub use self::request_log::{LogRow, RequestLog};
pub use self::responses::{
    ChainQuery, FoundItems, IndexedItem, Maker, Purged, Record, Responses, Status, StoredResponse, StoredTurn,
};
pub use self::sessions::{SESSIONS_PER_OPERATOR, Sessions, StoredSession};
pub use self::sign_ins::{SignIns, StoredSignIn};
pub use self::store::{ProjectStats, Store, StoreSize, TableSize};
pub use self::url::{
    AddressKind, Network, PostgresTarget, Reason, Refusal, SqliteTarget, StoreUrl, StoreUrlError,
    UnknownNetwork,
};
pub use self::usage::{DAY_MS, HOUR_MS, Span, Totals, Usage, UsageGroup, UsageQuery};
pub use self::verify::{Damage, VerifyProgress, VerifyReport, VerifyStep, verify};
pub use antiphon_runtime::{Clock, SystemClock, Timestamp};

/// Raw JSON: an item, an array of items, or a response object.
pub type Json = bytes::Bytes;
