//! Whether clients need keys, and have some.

use std::net::SocketAddr;

use antiphon_config::{Auth, Config};
use antiphon_operations::{Operations, Page};

use super::Finding;

/// `None` for a gateway that only this machine can reach.
pub async fn check(config: &Config, operations: &Operations) -> Option<Finding> {
    let is_public = |address: &SocketAddr| !address.ip().to_canonical().is_loopback();
    let public = [Some(config.listen), config.admin_listen].into_iter().flatten().find(is_public)?;
    let reachable = format!("other machines can reach {public}");
    if config.auth == Some(Auth::None) {
        let message = format!("{reachable}, and auth = \"none\" serves every client");
        let advice = "make sure that something in front of Antiphon authenticates clients";
        return Some(Finding::warning("keys", message, advice));
    }
    Some(match operations.list_keys(&Page::new(1, None)).await {
        Err(error) => Finding::warning("keys", format!("the keys are not known: {error}"), ""),
        Ok(list) if list.keys.is_empty() => {
            let message = format!("{reachable}, and there is no key: the gateway refuses to start");
            Finding::problem("keys", message, "run `antiphon keys create NAME`")
        }
        Ok(_) => Finding::ok("keys", format!("{reachable}, and clients need keys")),
    })
}
