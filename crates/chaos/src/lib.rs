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
mod rig;
pub mod soak;
pub mod upgrade;
mod upstream;
mod verify;
mod violations;
mod wire;
mod worker;

pub use self::rig::Engine;
pub use self::violations::{Violation, Violations};
