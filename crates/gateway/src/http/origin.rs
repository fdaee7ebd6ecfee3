//! Requests without a key: only local clients may send them, and no web page of another origin.
//!
//! A browser lets any page send requests to loopback: by DNS rebinding, or as a form. So until there is a key, `Host` must name
//! this machine, and `Origin` must match it. `Host` is also checked where a proxy on loopback names an operator.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, header};

use super::error::RequestError;

/// What the client speaks, as a proxy with TLS tells it: `https` makes the dashboard's cookie one for HTTPS alone.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Checks requests without a key.
#[derive(Debug)]
pub struct LocalOnly {
    /// In lower case.
    allowed_hosts: Vec<String>,
}

// === impl LocalOnly ===

impl LocalOnly {
    pub fn new(allowed_hosts: &[String]) -> Self {
        Self { allowed_hosts: allowed_hosts.iter().map(|host| host.to_ascii_lowercase()).collect() }
    }

    /// # Errors
    ///
    /// [`RequestError::HostNotAllowed`] and [`RequestError::CrossSite`].
    pub fn check(&self, headers: &HeaderMap) -> Result<(), RequestError> {
        let text =
            |name| headers.get(name).map(|value: &http::HeaderValue| value.to_str().unwrap_or_default());
        let authority = text(header::HOST).unwrap_or_default();
        self.check_host(authority).map_err(RequestError::HostNotAllowed)?;
        let is_of_a_page_elsewhere = text(header::ORIGIN).is_some_and(|origin| {
            origin.split_once("://").is_none_or(|(_, origin)| !origin.eq_ignore_ascii_case(authority))
        });
        let site = text(SEC_FETCH_SITE);
        if is_of_a_page_elsewhere || site.is_some_and(|site| !matches!(site, "same-origin" | "none")) {
            return Err(RequestError::CrossSite);
        }
        Ok(())
    }

    /// # Errors
    ///
    /// The host, if it is neither this machine's nor allowed.
    pub fn check_host(&self, authority: &str) -> Result<(), String> {
        let host = without_port(authority).to_ascii_lowercase();
        if is_loopback(&host) || self.allowed_hosts.contains(&host) { Ok(()) } else { Err(host) }
    }
}

fn without_port(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&'static str, &str)]) -> Result<(), RequestError> {
        let headers =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        LocalOnly::new(&["Box.lan".to_owned()]).check(&headers.collect())
    }

    #[test]
    fn only_names_of_this_machine_are_served() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "a.localhost.",
            "127.0.0.1:8080",
            "127.9.9.9",
            "[::1]:8080",
            "box.LAN:1",
        ] {
            assert!(check(&[("host", host)]).is_ok(), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "10.0.0.1", "[::2]", "127.0.0.1.evil.example", ""]
        {
            assert!(matches!(check(&[("host", host)]), Err(RequestError::HostNotAllowed(_))), "{host}");
        }
        assert!(check(&[]).is_err());
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        let host = ("host", "127.0.0.1:8080");
        assert!(
            check(&[host, ("origin", "http://127.0.0.1:8080"), ("sec-fetch-site", "same-origin")]).is_ok()
        );
        assert!(check(&[host, ("sec-fetch-site", "none")]).is_ok());
        for (name, value) in [
            ("origin", "https://evil.example"),
            ("origin", "http://127.0.0.1:9999"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert!(matches!(check(&[host, (name, value)]), Err(RequestError::CrossSite)), "{name} {value}");
        }
    }
}
