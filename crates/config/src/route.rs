//! How an account's upstream is reached: `proxy`, `ca_file`, and the variables for proxies.

use std::path::{Path, PathBuf};

use antiphon_upstream::route::{CertificateDer, Route, parse_authorities};
use url::Url;

use super::environment::Environment;
use super::error::Problems;
use super::proxy::{self, ProxyConfig};

/// The part of an account that says how to reach its upstream.
pub(super) struct Reach {
    pub(super) proxy: Option<ProxyConfig>,
    pub(super) ca_file: Option<PathBuf>,
    authorities: Vec<CertificateDer<'static>>,
    /// The account's path in the configuration.
    key: String,
}

impl Reach {
    /// Checks the proxy, and reads the file of authorities.
    pub(super) fn resolve(
        proxy: Option<String>,
        ca_file: Option<PathBuf>,
        key: String,
        cwd: &Path,
        problems: &mut Problems,
    ) -> Self {
        let proxy = proxy.and_then(|text| {
            let parsed = ProxyConfig::parse(&text);
            if parsed.is_none() {
                problems.reject_hidden(format!("{key}.proxy"), proxy::RULE);
            }
            parsed
        });
        let read = ca_file.as_ref().map(|path| read_authorities(&cwd.join(path)));
        let authorities = read.transpose().unwrap_or_else(|rule| {
            problems.reject(format!("{key}.ca_file"), rule);
            None
        });
        Self { proxy, ca_file, authorities: authorities.unwrap_or_default(), key }
    }

    /// The way to an address.
    pub(super) fn route(&self, url: &Url, environment: &Environment, problems: &mut Problems) -> Route {
        let proxy = match &self.proxy {
            Some(ProxyConfig::Direct) => None,
            Some(ProxyConfig::Through(proxy)) => Some(proxy.clone()),
            None => proxy::from_variables(url, environment).unwrap_or_else(|variable| {
                let rule = format!("environment variable {variable}: {}", proxy::RULE);
                problems.reject_hidden(format!("{}.proxy", self.key), rule);
                None
            }),
        };
        Route::new(proxy, &self.authorities)
    }
}

fn read_authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = std::fs::read(path).map_err(|error| format!("cannot read file: {error}"))?;
    parse_authorities(&pem).map_err(|error| format!("is no file of certificates: {error}"))
}
