//! The memory for the bodies of requests, and for long replies: one pool for all, and a share of it for each tenant.
//!
//! A reservation counts against both. What cannot be reserved at once waits in line: first for the tenant's share, without
//! holding anything of the pool, then for the pool.

mod budget;
mod metrics;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use antiphon_access::keys::{Caller, network_of};
use antiphon_protocol::id::ProjectId;
use bytes::Bytes;
use prometheus_client::registry::Registry;
use tokio::time::{Instant, timeout_at};

use self::budget::Budget;
use self::metrics::BodyMemoryCollector;

/// With this many shares, those that nobody uses are removed before one is added.
const MIN_SWEEP: usize = 1024;

/// Who shares memory: the callers of a project, or those without a key at one address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Tenant {
    Project(ProjectId),
    /// A canonical IPv4 address, or the /64 network of an IPv6 address.
    Network(IpAddr),
    Operators,
}

/// The pool, and the shares of all tenants.
#[derive(Debug)]
pub struct BodyMemory {
    pool: Arc<Budget>,
    share_bytes: usize,
    shares: RwLock<Shares>,
}

#[derive(Debug)]
struct Shares {
    by_tenant: HashMap<Tenant, Arc<Share>>,
    sweep_at: usize,
}

/// What one tenant may hold of the pool.
#[derive(Debug)]
pub struct Share {
    tenant: Tenant,
    own: Budget,
    pool: Arc<Budget>,
}

/// Memory that is set aside. Dropping it releases the memory.
#[derive(Debug)]
pub struct Reservation {
    share: Arc<Share>,
    bytes: usize,
}

/// A text that holds its memory.
struct Held {
    text: Bytes,
    _memory: Reservation,
}

/// No memory was released in time. The text is the message that clients get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoMemory {
    #[error("The gateway has no memory left for request and reply bodies. Please retry in a moment.")]
    Pool,
    /// The tenant's share is taken; holds what kind of tenant it is.
    #[error(
        "The gateway has no memory left for request and reply bodies of this {0}: its other requests hold its share. Please \
         retry in a moment."
    )]
    Share(&'static str),
}

// === impl Tenant ===

impl Tenant {
    pub fn new(caller: &Caller, address: Option<IpAddr>) -> Self {
        match (&caller.key, address) {
            (None, Some(address)) => Self::of_address(address),
            _ => Self::Project(caller.project.clone()),
        }
    }

    /// Those without a key at this address.
    pub fn of_address(address: IpAddr) -> Self {
        Self::Network(network_of(address))
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Project(_) => "project",
            Self::Network(_) => "address",
            Self::Operators => "API",
        }
    }
}

// === impl BodyMemory ===

impl BodyMemory {
    pub fn new(pool_bytes: usize, share_bytes: usize) -> Self {
        let shares = Shares { by_tenant: HashMap::new(), sweep_at: MIN_SWEEP };
        Self { pool: Arc::new(Budget::new(pool_bytes)), share_bytes, shares: RwLock::new(shares) }
    }

    /// The bytes that are reserved.
    pub fn used_bytes(&self) -> usize {
        self.pool.used_bytes()
    }

    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        registry.register_collector(Box::new(BodyMemoryCollector(Arc::clone(self))));
    }

    pub fn share(&self, tenant: Tenant) -> Arc<Share> {
        if let Some(share) = self.shares.read().unwrap_or_else(PoisonError::into_inner).by_tenant.get(&tenant)
        {
            return Arc::clone(share);
        }
        let mut shares = self.shares.write().unwrap_or_else(PoisonError::into_inner);
        if shares.by_tenant.len() >= shares.sweep_at {
            shares.by_tenant.retain(|_, share| Arc::strong_count(share) > 1);
            shares.sweep_at = MIN_SWEEP.max(shares.by_tenant.len() * 2);
        }
        let (own, pool) = (|| Budget::new(self.share_bytes), || Arc::clone(&self.pool));
        let share = shares
            .by_tenant
            .entry(tenant.clone())
            .or_insert_with(|| Arc::new(Share { tenant, own: own(), pool: pool() }));
        Arc::clone(share)
    }
}

// === impl Share ===

impl Share {
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }
}

// === impl Reservation ===

impl Reservation {
    /// A reservation that holds nothing yet.
    pub fn empty(share: &Arc<Share>) -> Self {
        Self { share: Arc::clone(share), bytes: 0 }
    }

    /// The reservation, leaving an empty one.
    pub fn take(&mut self) -> Self {
        let empty = Self::empty(&self.share);
        std::mem::replace(self, empty)
    }

    pub fn share(&self) -> &Arc<Share> {
        &self.share
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The most that the tenant can reserve.
    pub fn max_bytes(&self) -> usize {
        self.share.own.total_bytes()
    }

    /// Reserves so many bytes more; `false` if that is not possible at once.
    pub fn try_grow(&mut self, bytes: usize) -> bool {
        let Share { own, pool, .. } = &*self.share;
        let Some(of_share) = own.try_take(bytes) else { return false };
        let Some(of_pool) = pool.try_take(bytes) else { return false };
        of_share.keep();
        of_pool.keep();
        self.bytes += bytes;
        true
    }

    /// Reserves so many bytes more, and waits for them. `patience` is how long, and is reduced by the wait.
    ///
    /// # Errors
    ///
    /// [`NoMemory`] if they are not free in time, or if too much is held by others who wait.
    pub async fn grow(&mut self, bytes: usize, patience: &mut Duration) -> Result<(), NoMemory> {
        if self.try_grow(bytes) {
            return Ok(());
        }
        let until = Instant::now() + *patience;
        let Share { tenant, own, pool } = &*self.share;
        let taken = async {
            let of_share = timeout_at(until, own.take(bytes, self.bytes)).await.ok().flatten();
            let of_share = of_share.ok_or(NoMemory::Share(tenant.kind()))?;
            let of_pool = timeout_at(until, pool.take(bytes, self.bytes)).await.ok().flatten();
            let of_pool = of_pool.ok_or(NoMemory::Pool)?;
            of_share.keep();
            of_pool.keep();
            Ok(())
        };
        let taken = taken.await;
        *patience = until.saturating_duration_since(Instant::now());
        match taken {
            Ok(()) => self.bytes += bytes,
            Err(error) => tracing::info!(?tenant, ?error, "no memory for a body"),
        }
        taken
    }

    /// The text, whose memory stays reserved until all of it was dropped.
    pub fn hold(mut self, text: Bytes) -> Bytes {
        self.shrink_to(text.len());
        if self.bytes == 0 {
            return text;
        }
        Bytes::from_owner(Held { text, _memory: self })
    }

    /// Releases all but so many bytes.
    pub fn shrink_to(&mut self, bytes: usize) {
        let released = self.bytes.saturating_sub(bytes);
        self.bytes -= released;
        self.share.own.give_back(released);
        self.share.pool.give_back(released);
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn project(name: &str) -> Tenant {
        Tenant::Project(ProjectId::new(name))
    }

    async fn grow(reservation: &mut Reservation, bytes: usize) -> Result<(), NoMemory> {
        reservation.grow(bytes, &mut PATIENCE.clone()).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_gets_its_share_and_others_the_rest() {
        let memory = BodyMemory::new(100, 40);
        let mut one = Reservation::empty(&memory.share(project("a")));
        grow(&mut one, 40).await.unwrap();
        let mut same = Reservation::empty(&memory.share(project("a")));
        assert_eq!(grow(&mut same, 1).await, Err(NoMemory::Share("project")));
        let mut others = Vec::new();
        for (name, bytes) in [("b", 40), ("c", 20)] {
            others.push(Reservation::empty(&memory.share(project(name))));
            grow(others.last_mut().unwrap(), bytes).await.unwrap();
        }
        assert_eq!(memory.used_bytes(), 100);
        assert_eq!(grow(&mut others[1], 1).await, Err(NoMemory::Pool));
        one.shrink_to(10);
        grow(&mut others[1], 20).await.unwrap();
        assert_eq!((one.bytes(), memory.used_bytes()), (10, 90));
        drop((one, others));
        assert_eq!(memory.used_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_its_share_holds_nothing_of_the_pool() {
        let memory = BodyMemory::new(100, 60);
        let mut first = Reservation::empty(&memory.share(project("a")));
        grow(&mut first, 50).await.unwrap();
        let mut second = Reservation::empty(&memory.share(project("a")));
        let mut waiting = Box::pin(grow(&mut second, 50));
        assert!(waiting.as_mut().now_or_never().is_none());
        let mut other = Reservation::empty(&memory.share(project("b")));
        assert!(other.try_grow(50));
        drop(first);
        waiting.await.unwrap();
        assert_eq!((second.bytes(), memory.used_bytes()), (50, 100));
    }

    #[tokio::test(start_paused = true)]
    async fn two_that_wait_for_each_other_fail_one_after_the_other() {
        let memory = BodyMemory::new(100, 100);
        let share = memory.share(project("a"));
        let (mut one, mut two) = (Reservation::empty(&share), Reservation::empty(&share));
        assert!(one.try_grow(10) && two.try_grow(40));
        let mut turn = Reservation::empty(&share);
        assert!(turn.try_grow(50));
        let mut short = PATIENCE / 2;
        let first = async {
            let result = one.grow(10, &mut short).await;
            drop(one);
            result
        };
        let (first, second) = tokio::join!(first, grow(&mut two, 10));
        assert_eq!((first, second, short), (Err(NoMemory::Share("project")), Ok(()), Duration::ZERO));
    }

    #[test]
    fn callers_without_a_key_share_by_network() {
        let memory = BodyMemory::new(100, 40);
        let of = |address: &str| memory.share(Tenant::Network(network_of(address.parse().unwrap())));
        assert!(Arc::ptr_eq(&of("2001:db8::1"), &of("2001:db8::ffff:2")));
        assert!(Arc::ptr_eq(&of("192.0.2.1"), &of("::ffff:192.0.2.1")));
        assert!(!Arc::ptr_eq(&of("192.0.2.1"), &of("192.0.2.2")));
    }

    #[test]
    fn unused_shares_are_removed_and_used_ones_stay() {
        let memory = BodyMemory::new(100, 40);
        let used = memory.share(Tenant::Operators);
        for number in 0..4 * MIN_SWEEP {
            memory.share(project(&number.to_string()));
        }
        assert!(memory.shares.read().unwrap().by_tenant.len() <= MIN_SWEEP);
        assert!(Arc::ptr_eq(&used, &memory.share(Tenant::Operators)));
    }
}
