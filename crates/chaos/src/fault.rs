//! The faults, and how each is brought about while the load goes on.

use std::time::Duration;

use antiphon_testkit::Signal;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::sleep;

use crate::hostile_clients;
use crate::rig::{Engine, Rig};
use crate::worker::Load;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    KillGateway,
    RestartGateway,
    KillPostgres,
    StopPostgres,
    FreezeGateway,
    FreezePostgres,
    FreezeUpstream,
    FullDisk,
    ClientsLeave,
    HostileClients,
    HostileUpstream,
}

/// Of a hundred turns, while clients leave.
const ABORTS_PERCENT: u32 = 60;
const SQLITE_FILE_BYTES: u64 = 4 << 10;
/// Above the files of its write-ahead log, whose loss would end it.
const POSTGRES_FILE_BYTES: u64 = (1 << 20) + 1000;

impl Fault {
    const ALL: [Self; 11] = [
        Self::KillGateway,
        Self::RestartGateway,
        Self::KillPostgres,
        Self::StopPostgres,
        Self::FreezeGateway,
        Self::FreezePostgres,
        Self::FreezeUpstream,
        Self::FullDisk,
        Self::ClientsLeave,
        Self::HostileClients,
        Self::HostileUpstream,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::KillGateway => "gateway killed",
            Self::RestartGateway => "gateway restarted",
            Self::KillPostgres => "PostgreSQL killed",
            Self::StopPostgres => "PostgreSQL restarted",
            Self::FreezeGateway => "gateway frozen",
            Self::FreezePostgres => "PostgreSQL frozen",
            Self::FreezeUpstream => "upstreams frozen",
            Self::FullDisk => "disk full",
            Self::ClientsLeave => "clients leave",
            Self::HostileClients => "hostile clients",
            Self::HostileUpstream => "hostile upstream",
        }
    }

    /// How often it happens, compared with the others.
    fn weight(self, engine: Engine) -> usize {
        match (self, engine) {
            (Self::KillPostgres | Self::StopPostgres | Self::FreezePostgres, Engine::Sqlite) => 0,
            (Self::KillGateway, _) => 8,
            (Self::KillPostgres, _) => 2,
            _ => 1,
        }
    }

    /// Every fault that this engine can have.
    pub fn possible(engine: Engine) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |fault| fault.weight(engine) > 0)
    }

    pub fn random(engine: Engine, rng: &mut StdRng) -> Self {
        let weighted = |fault: Self| std::iter::repeat_n(fault, fault.weight(engine));
        let faults: Vec<Self> = Self::ALL.into_iter().flat_map(weighted).collect();
        faults[rng.random_range(0..faults.len())]
    }

    /// How long it goes on, if it is not over at once.
    pub fn random_time(rng: &mut StdRng) -> Duration {
        Duration::from_millis(rng.random_range(100..1500))
    }

    /// Lets it happen for this time; afterwards everything is as it was.
    pub async fn inject(self, rig: &mut Rig, load: &Load, time: Duration, rng: &mut StdRng) {
        match self {
            Self::KillGateway | Self::RestartGateway => {
                let index = rng.random_range(0..rig.gateways.len());
                rig.restart_gateway(index, self == Self::KillGateway).await;
            }
            Self::KillPostgres | Self::StopPostgres => {
                let Some(postgres) = &mut rig.postgres else { return };
                tokio::task::block_in_place(|| {
                    if self == Self::KillPostgres {
                        postgres.kill9();
                    }
                    postgres.restart();
                });
            }
            Self::FreezeGateway => {
                let process = &rig.gateways[rng.random_range(0..rig.gateways.len())].process;
                process.signal(Signal::STOP);
                sleep(time).await;
                process.signal(Signal::CONT);
            }
            Self::FreezePostgres => {
                let Some(postgres) = &rig.postgres else { return };
                postgres.signal_all(Signal::STOP);
                sleep(time).await;
                postgres.signal_all(Signal::CONT);
            }
            Self::FreezeUpstream => {
                rig.upstreams.iter().for_each(|upstream| upstream.freeze(time));
                sleep(time).await;
            }
            Self::FullDisk => full_disk(rig, time).await,
            Self::ClientsLeave => {
                load.set_aborts(Some(ABORTS_PERCENT));
                sleep(time).await;
                load.set_aborts(None);
            }
            Self::HostileClients => hostile_clients::attack(rig, time, rng).await,
            Self::HostileUpstream => {
                rig.upstreams[1].set_hostile(true);
                sleep(time).await;
                rig.upstreams[1].set_hostile(false);
            }
        }
    }
}

/// The process that writes the database can let no file grow, or not beyond a size that its tables soon reach.
async fn full_disk(rig: &Rig, time: Duration) {
    if let Some(postgres) = &rig.postgres {
        postgres.limit_files(Some(POSTGRES_FILE_BYTES));
        sleep(time).await;
        postgres.limit_files(None);
    } else {
        let process = &rig.gateways[0].process;
        process.limit_files(Some(SQLITE_FILE_BYTES));
        sleep(time).await;
        process.limit_files(None);
    }
}
