//! A decorator of stores: it lets something happen around the calls, and otherwise does what the store behind it does.

use std::sync::Arc;
use std::time::Duration;

use antiphon_protocol::id::{ConversationId, ItemId, KeyId, ProjectId, ResponseId};
use antiphon_store::{
    Abandoned, AccountSum, Accounts, Admin, Appended, Audit, AuditEntry, AuditQuery, Background,
    BackgroundEnd, BackgroundQuery, BackgroundRequest, BackgroundSummary, BackgroundTurn, ChainLink,
    ChainQuery, Claimable, ConversationItem, ConversationLock, ConversationQuery, Conversations, Count,
    CounterId, Counters, CredentialLock, EventChunk, FoundItems, Inspection, ItemPage, Json, KeyClient,
    KeyClients, KeyTerms, Keys, LatencySum, Limits, LogPage, LogQuery, LogRow, NewBackgroundTurn, OutcomeSum,
    Overview, OverviewQuery, Post, ProjectStats, PurgeProgress, Purged, QueueLimits, Record, Replica,
    Replicas, RequestLog, Reservation, Reserved, Responses, Rotation, SecretHash, Sessions, Settlement,
    SignIns, Store, StoreError, StoreSize, StoredAccount, StoredConversation, StoredCredential, StoredKey,
    StoredResponse, StoredSession, StoredSignIn, StoredTurn, Timestamp, Totals, TurnLease, TurnProgress,
    TurnSummary, UpstreamTurn, Usage, UsageGroup, UsageQuery,
};
use async_trait::async_trait;
use prometheus_client::registry::Registry;
use uuid::Uuid;

/// What happens around the calls to a store.
#[async_trait]
pub trait Interceptor: Send + Sync + 'static {
    /// Runs before a read. After an error the store is not called.
    async fn before_read(&self, _method: &str) -> Result<(), StoreError> {
        Ok(())
    }

    /// Runs before a write. After an error the store is not called.
    async fn before_write(&self, _method: &str) -> Result<(), StoreError> {
        Ok(())
    }

    /// Runs after a write, before the caller has its result, which an error replaces.
    async fn after_write(&self, _method: &str) -> Result<(), StoreError> {
        Ok(())
    }

    /// Runs after a read, before the caller has its result.
    async fn after_read(&self) {}

    /// Whether the store may say that it is available.
    fn is_available(&self) -> bool {
        true
    }
}

/// A store with an interceptor. It sees neither what nobody waits for, nor `list_log` and `stats`, by which tests look into the
/// store.
pub struct Decorated<I> {
    inner: Arc<dyn Store>,
    interceptor: I,
}

impl<I: Interceptor> Decorated<I> {
    pub fn new(inner: Arc<dyn Store>, interceptor: I) -> Self {
        Self { inner, interceptor }
    }

    pub fn interceptor(&self) -> &I {
        &self.interceptor
    }

    async fn read<T>(
        &self,
        method: &str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.interceptor.before_read(method).await?;
        let result = call.await;
        self.interceptor.after_read().await;
        result
    }

    async fn write<T>(
        &self,
        method: &str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.interceptor.before_write(method).await?;
        let result = call.await;
        self.interceptor.after_write(method).await?;
        result
    }
}

/// Implements a trait of the store. The word before each method says what the interceptor takes it for; it does not see those
/// after an arrow, which nobody waits for.
macro_rules! intercept {
    ($trait:ident {
        $($access:ident $method:ident($($name:ident: $type:ty),*) -> $result:ty;)+
        $(=> $unseen:ident($argument:ident: $of:ty);)*
    }) => {
        #[async_trait]
        impl<I: Interceptor> $trait for Decorated<I> {
            $(async fn $method(&self, $($name: $type),*) -> Result<$result, StoreError> {
                self.$access(stringify!($method), self.inner.$method($($name),*)).await
            })+

            $(fn $unseen(&self, $argument: $of) {
                self.inner.$unseen($argument);
            })*
        }
    };
}

intercept!(Responses {
    write record(record: Record) -> Appended;
    read load(project: &ProjectId, id: ResponseId, now: Timestamp) -> Option<StoredResponse>;
    read load_chain(project: &ProjectId, query: ChainQuery) -> Vec<StoredTurn>;
    read load_items(project: &ProjectId, ids: &[ItemId], now: Timestamp, max_bytes: usize) -> FoundItems;
    write delete(project: &ProjectId, id: ResponseId, now: Timestamp) -> bool;
    read list_deleted(since: Timestamp) -> Vec<(ProjectId, ResponseId)>;
    write purge(progress: &mut PurgeProgress, now: Timestamp, log_before: Option<Timestamp>, max_rows: u32) -> Purged;
});

intercept!(Conversations {
    write add_conversation(conversation: StoredConversation) -> ();
    read load_conversation(project: &ProjectId, conversation: ConversationId) -> Option<StoredConversation>;
    read load_conversation_of_turn(project: &ProjectId, conversation: ConversationId)
        -> Option<StoredConversation>;
    read list_conversations(project: &ProjectId, after: Option<ConversationId>, max_rows: u32)
        -> Vec<StoredConversation>;
    write set_conversation_metadata(project: &ProjectId, conversation: ConversationId, metadata: Json,
        now: Timestamp) -> bool;
    write delete_conversation(project: &ProjectId, conversation: ConversationId, now: Timestamp,
        retention: Option<Duration>) -> bool;
    write expire_conversations(unused_since: Timestamp, now: Timestamp, retention: Option<Duration>, max_rows: u32)
        -> bool;
    read size_of_conversations(project: &ProjectId) -> u64;
    write post(post: Post) -> Appended;
    write lock_conversation(lock: &ConversationLock, version: u64, now: Timestamp, until: Timestamp) -> bool;
    write renew_conversation_locks(locks: Vec<ConversationLock>, until: Timestamp) -> ();
    read list_conversation_items(query: ConversationQuery) -> ItemPage;
    read find_conversation_items(project: &ProjectId, conversation: ConversationId, ids: &[ItemId])
        -> Vec<ConversationItem>;
    read find_items_of_conversations(project: &ProjectId, ids: &[ItemId], max_bytes: usize)
        -> Vec<ConversationItem>;
    write purge_conversations(deleted_by: Timestamp, max_rows: u32) -> bool;
    => unlock_conversation(lock: ConversationLock);
});

intercept!(Accounts {
    read list_accounts() -> Vec<StoredAccount>;
    write put_account(account: StoredAccount) -> ();
    write pause_account(name: &str, audit: AuditEntry) -> ();
    write resume_account(name: &str, audit: AuditEntry) -> bool;
    read load_credential(account: &str) -> Option<StoredCredential>;
    write lock_credential(account: &str, lock: CredentialLock) -> bool;
    write put_credential(account: &str, credential: StoredCredential, lock: CredentialLock) -> bool;
    write unlock_credential(account: &str, lock: CredentialLock) -> ();
});

intercept!(Keys {
    read keys_version() -> i64;
    read list_keys() -> Vec<StoredKey>;
    read list_keys_after(after: &str, max_rows: u32) -> Vec<StoredKey>;
    read load_key(name: &str) -> Option<StoredKey>;
    write add_key(key: StoredKey, audit: AuditEntry) -> bool;
    write rotate_key(key: KeyId, rotation: Rotation, audit: AuditEntry) -> bool;
    write change_key(key: KeyId, terms: KeyTerms, audit: AuditEntry) -> bool;
    write revoke_key(key: KeyId, audit: AuditEntry) -> bool;
    write delete_key(key: KeyId, audit: AuditEntry) -> bool;
    write note_key_use(key: KeyId, at: Timestamp) -> ();
});

intercept!(KeyClients {
    write note_key_client(key: KeyId, client: KeyClient) -> ();
    read list_key_clients(key: KeyId) -> Vec<KeyClient>;
});

intercept!(Usage {
    read list_usage(query: UsageQuery) -> Vec<(UsageGroup, Totals)>;
    write roll_up_hour(from: Timestamp, until: Timestamp) -> Option<Timestamp>;
    read rolled_up_until() -> Timestamp;
    write purge_usage(hours: Option<Timestamp>, days: Option<Timestamp>, max_rows: u32) -> bool;
});

intercept!(Overview {
    read list_outcomes(query: OverviewQuery) -> Vec<OutcomeSum>;
    read list_latencies(query: OverviewQuery) -> Vec<LatencySum>;
    read list_account_sums(query: OverviewQuery) -> Vec<AccountSum>;
});

intercept!(Inspection {
    read find_project(response: ResponseId) -> Option<ProjectId>;
    read find_log_row(response: ResponseId) -> Option<LogRow>;
    read list_turns(project: &ProjectId, from: ResponseId, max_turns: u32) -> Vec<TurnSummary>;
    read list_links(project: &ProjectId, from: ResponseId, max_turns: u32) -> Vec<ChainLink>;
    read list_descendants(project: &ProjectId, from: ResponseId, max_turns: u32) -> Vec<ChainLink>;
    read list_children(project: &ProjectId, from: ResponseId, max_turns: u32, max_rows: u32)
        -> Vec<(ResponseId, ResponseId)>;
    read list_background(query: BackgroundQuery) -> Vec<BackgroundSummary>;
    read count_abandoned_background(leased_until: Timestamp) -> u64;
});

intercept!(Admin {
    read load_admin_token(name: &str) -> Option<Vec<u8>>;
    write add_admin_token(name: &str, hash: Vec<u8>, audit: AuditEntry) -> bool;
    write replace_admin_token(name: &str, hash: Vec<u8>, audit: AuditEntry) -> ();
    read list_admin_tokens() -> Vec<(String, Timestamp)>;
});

intercept!(Sessions {
    write add_session(session: StoredSession, audit: AuditEntry) -> ();
    write add_token_session(session: StoredSession, token: Vec<u8>, audit: AuditEntry) -> bool;
    read load_session(hash: SecretHash, now: Timestamp) -> Option<StoredSession>;
    read list_sessions(now: Timestamp, max_rows: u32) -> Vec<StoredSession>;
    read list_surplus_sessions(role: &str, operator: Option<&str>) -> Vec<Uuid>;
    write end_session(session: Uuid, audit: AuditEntry) -> bool;
    write end_sessions(audit: AuditEntry) -> bool;
});

intercept!(SignIns {
    write add_sign_in(sign_in: StoredSignIn, now: Timestamp, max_rows: u32) -> ();
    read load_sign_in(hash: SecretHash, now: Timestamp) -> Option<StoredSignIn>;
    write end_sign_in(hash: SecretHash) -> bool;
});

intercept!(Audit {
    read list_audit(query: AuditQuery) -> Vec<AuditEntry>;
    write add_audit(entry: AuditEntry) -> ();
});

intercept!(Counters {
    read list_counters(scope: &str, now: Timestamp) -> Vec<(CounterId, Count)>;
    read list_current_counters(now: Timestamp, max_rows: u32) -> Vec<(CounterId, Count)>;
    read count_reservations() -> u64;
    write purge_counters(before: Timestamp, max_rows: u32) -> bool;
});

intercept!(Background {
    write queue_background(turn: NewBackgroundTurn, limits: QueueLimits) -> bool;
    read load_background(project: &ProjectId, id: ResponseId) -> Option<BackgroundTurn>;
    read load_progress(project: &ProjectId, id: ResponseId) -> Option<TurnProgress>;
    read load_background_request(project: &ProjectId, id: ResponseId, now: Timestamp) -> Option<BackgroundRequest>;
    write begin_background(lease: &TurnLease) -> bool;
    write renew_leases(owner: Uuid, until: Timestamp) -> ();
    read list_owned(owner: Uuid, after: Option<ResponseId>, max_rows: u32) -> Vec<TurnLease>;
    write release_lease(lease: &TurnLease) -> bool;
    read list_claimable(owner: Uuid, which: Claimable, now: Timestamp, max_rows: u32) -> Vec<TurnLease>;
    write claim_background(from: &TurnLease, owner: Uuid, which: Claimable, term: (Timestamp, Timestamp)) -> Option<TurnLease>;
    write append_events(lease: &TurnLease, events: EventChunk) -> bool;
    read list_events(project: &ProjectId, id: ResponseId, after: Option<u64>) -> Vec<EventChunk>;
    write set_upstream_turn(lease: &TurnLease, upstream: UpstreamTurn) -> bool;
    write request_cancel(project: &ProjectId, id: ResponseId) -> bool;
    read list_cancel_requested(owner: Uuid) -> Vec<ResponseId>;
    write end_background(end: BackgroundEnd) -> Option<Appended>;
    write hide_background(project: &ProjectId, id: ResponseId, now: Timestamp) -> bool;
    write purge_background(now: Timestamp, max_rows: u32) -> bool;
});

intercept!(Replicas {
    write beat(replica: Uuid, now: Timestamp) -> ();
    read list_replicas() -> Vec<Replica>;
    write forget_replica(replica: Replica) -> ();
});

#[async_trait]
impl<I: Interceptor> RequestLog for Decorated<I> {
    fn append_log(&self, row: LogRow) {
        self.inner.append_log(row);
    }

    fn lost_rows(&self) -> u64 {
        self.inner.lost_rows()
    }

    fn take_earliest_written(&self) -> Option<Timestamp> {
        self.inner.take_earliest_written()
    }

    async fn list_log(&self, max_rows: u32) -> Result<Vec<LogRow>, StoreError> {
        self.inner.list_log(max_rows).await
    }

    async fn search_log(&self, query: LogQuery) -> Result<LogPage, StoreError> {
        self.read("search_log", self.inner.search_log(query)).await
    }
}

#[async_trait]
impl<I: Interceptor> Limits for Decorated<I> {
    async fn reserve(&self, reservation: Reservation) -> Result<Reserved, StoreError> {
        self.write("reserve", self.inner.reserve(reservation)).await
    }

    fn settle(&self, settlement: Settlement, row: Option<LogRow>) {
        self.inner.settle(settlement, row);
    }

    async fn sweep(&self, abandoned: Abandoned, now: Timestamp, max_rows: u32) -> Result<u64, StoreError> {
        self.write("sweep", self.inner.sweep(abandoned, now, max_rows)).await
    }
}

#[async_trait]
impl<I: Interceptor> Store for Decorated<I> {
    fn is_available(&self) -> bool {
        self.interceptor.is_available() && self.inner.is_available()
    }

    fn missing_connections(&self) -> u64 {
        self.inner.missing_connections()
    }

    fn register_metrics(&self, registry: &mut Registry) {
        self.inner.register_metrics(registry);
    }

    fn has_its_file(&self) -> bool {
        self.inner.has_its_file()
    }

    async fn stats(&self, now: Timestamp) -> Result<Vec<ProjectStats>, StoreError> {
        self.inner.stats(now).await
    }

    async fn size(&self) -> Result<StoreSize, StoreError> {
        self.read("size", self.inner.size()).await
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.write("check", self.inner.check()).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
