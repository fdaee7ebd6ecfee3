//! Has the TLS certificate read again when one of its files changes.

use std::sync::Arc;
use std::time::Duration;

use crate::tls::Tls;

/// How often the files are looked at. A change is applied once two looks in a row agree: the certificate and its key are
/// rarely written at once.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Runs for as long as the gateway does. A file may have changed since it was loaded.
pub async fn watch(tls: Arc<Tls>) {
    let mut known = tls.loaded_versions().to_vec();
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let seen = tls.versions();
        if seen == known {
            continue;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
        if tls.versions() == seen {
            known = seen;
            tls.reload();
        }
    }
}

#[cfg(test)]
mod tests {
    use antiphon_runtime::SystemClock;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;
    use antiphon_config::TlsConfig;

    #[tokio::test]
    async fn a_file_that_changed_before_the_watch_began_is_read_again_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let write = |name: &str| {
            let identity = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
            std::fs::write(path("certificate"), identity.cert.pem()).unwrap();
            std::fs::write(path("key"), identity.signing_key.serialize_pem()).unwrap();
        };
        write("localhost");
        let files = TlsConfig { certificate: path("certificate"), key: path("key"), client_ca: None };
        let tls = Arc::new(Tls::load(files, Arc::new(SystemClock)).unwrap());
        let mut registry = Registry::default();
        tls.register_metrics(&mut registry);
        let reloads = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            let count = |line: &str| {
                line.strip_prefix("tls_certificate_reloads_total{outcome=\"taken_over\"} ")?
                    .parse::<u32>()
                    .ok()
            };
            text.lines().find_map(count).unwrap()
        };
        // The size differs as well: a clock may stand still for so short a time.
        write("another.name.than.localhost");
        // The clock moves on by itself while nothing else happens.
        tokio::time::pause();
        assert!(tokio::time::timeout(POLL_INTERVAL * 9, watch(Arc::clone(&tls))).await.is_err());
        assert_eq!(reloads(), 1);
    }
}
