//! For tests only: the gateway on a random port over a real store, a client that speaks its API, throw-away PostgreSQL,
//! and faults to order.

mod authorization;
mod browser;
mod client;
mod clock;
mod collector;
mod decorated;
mod eventually;
mod faulty;
mod flood;
mod gateway;
mod identity;
mod memory;
mod postgres;
mod process;
mod proxy;
mod reference;
mod said;
mod small_server;
mod socket;

pub use self::authorization::AuthorizationServer;
pub use self::browser::Browser;
pub use self::client::{Client, Event, Events, Reply, header};
pub use self::clock::ManualClock;
pub use self::collector::{CollectedSpan, Collector};
pub use self::decorated::{Decorated, Interceptor};
pub use self::eventually::{Awaited, eventually};
pub use self::faulty::{Fault, Faults, Faulty};
pub use self::flood::flood;
pub use self::gateway::{Gateway, Setup};
pub use self::identity::IdentityProvider;
pub use self::memory::ManualMemory;
pub use self::postgres::{Postgres, PostgresOptions, SharedDatabase};
pub use self::process::{Process, binary_under_test, client_tool};
pub use self::proxy::{HttpProxy, TlsFront};
pub use self::reference::{assert_reference, repository};
pub use self::said::said;
pub use self::socket::{Came, Message, Socket};
pub use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
pub use rustix::process::Signal;
