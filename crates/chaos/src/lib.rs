//! Long fault tests of the real gateway: what it has acknowledged must survive whatever happens.

pub mod chaos;
mod damage;
mod door;
mod fault;
mod history;
mod hostile_clients;
mod hostility;
mod ledger;
mod report;
pub mod soak;
mod stand;
mod upstream;
mod verify;
mod violations;
mod wire;
mod worker;

pub use self::stand::Engine;
pub use self::violations::{Violation, Violations};
