//! `proxy`: the HTTP proxy through which an account's upstream is reached, and the variables that name one for all.

use std::net::IpAddr;

use antiphon_upstream::route::Proxy;
use data_encoding::BASE64;
use http::HeaderValue;
use serde::{Serialize, Serializer};
use url::{Host, Url};

use super::environment::Environment;

/// What an account may say about its proxy.
#[derive(Debug, Clone, PartialEq)]
pub enum ProxyConfig {
    /// No proxy, whatever variables say.
    Direct,
    Through(Proxy),
}

const DIRECT: &str = "direct";
pub(super) const RULE: &str =
    r#"must be the URL of an HTTP proxy such as "http://proxy.example:3128", or "direct""#;

impl ProxyConfig {
    /// `None` if the text is neither.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text == DIRECT { Some(Self::Direct) } else { parse_proxy(text).map(Self::Through) }
    }
}

/// Without the credentials of the proxy.
impl Serialize for ProxyConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Direct => serializer.serialize_str(DIRECT),
            Self::Through(proxy) => serializer.collect_str(&format_args!("http://{}", proxy.authority())),
        }
    }
}

/// The proxy that variables name for an address, as other programs read them. Addresses of this machine have none. The error is
/// the name of a variable that is no proxy.
pub(super) fn from_variables(url: &Url, environment: &Environment) -> Result<Option<Proxy>, &'static str> {
    let (name, lower) =
        if url.scheme() == "https" { ("HTTPS_PROXY", "https_proxy") } else { ("HTTP_PROXY", "http_proxy") };
    let Some(text) = environment.get(name).or_else(|| environment.get(lower)) else { return Ok(None) };
    let excepted = environment.get("NO_PROXY").or_else(|| environment.get("no_proxy")).unwrap_or_default();
    if is_loopback(url) || is_excepted(url, excepted) {
        return Ok(None);
    }
    parse_proxy(text).map(Some).ok_or(name)
}

fn parse_proxy(text: &str) -> Option<Proxy> {
    let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url =
        Url::parse(&text).ok().filter(|url| url.scheme() == "http" && matches!(url.path(), "" | "/"))?;
    let authority = format!("{}:{}", url.host_str()?, url.port_or_known_default()?).parse().ok()?;
    let has_login = !url.username().is_empty() || url.password().is_some();
    let authorization = has_login.then(|| {
        let decode = |part: &str| percent_encoding::percent_decode_str(part).collect::<Vec<u8>>();
        let login = [&decode(url.username())[..], b":", &decode(url.password().unwrap_or_default())].concat();
        HeaderValue::try_from(format!("Basic {}", BASE64.encode(&login)))
    });
    Some(Proxy::new(authority, authorization.transpose().ok()?))
}

pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Whether `NO_PROXY` names the host: `*`, a name and all names below it, an address, or a network; with a port or without.
fn is_excepted(url: &Url, excepted: &str) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    excepted.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let (entry, port) = split_port(entry);
        if port.is_some_and(|port| url.port_or_known_default() != Some(port)) {
            return false;
        }
        let entry = entry.to_ascii_lowercase();
        if entry == "*" {
            return true;
        }
        if let Some(address) = address {
            return is_within(address, &entry);
        }
        let name = entry.trim_start_matches("*.").trim_start_matches('.');
        host.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

/// `host:port`; an IPv6 address with a port is in brackets.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    if let Some((host, rest)) = entry.strip_prefix('[').and_then(|entry| entry.split_once(']')) {
        return (host, rest.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match entry.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, port.parse().ok()),
        _ => (entry, None),
    }
}

/// Whether an address is another one, or in a network such as `10.0.0.0/8`.
fn is_within(address: IpAddr, network: &str) -> bool {
    let (base, length) = network.split_once('/').unwrap_or((network, "128"));
    let Ok(length) = length.parse::<u32>() else { return false };
    match (address, base.parse()) {
        (IpAddr::V4(address), Ok(IpAddr::V4(base))) => {
            let shift = 32 - length.min(32);
            u32::from(address).checked_shr(shift) == u32::from(base).checked_shr(shift)
        }
        (IpAddr::V6(address), Ok(IpAddr::V6(base))) => {
            let shift = 128 - length.min(128);
            u128::from(address).checked_shr(shift) == u128::from(base).checked_shr(shift)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(url: &str, variables: &[(&str, &str)]) -> Result<Option<String>, &'static str> {
        let environment = variables.iter().copied().collect();
        let proxy = from_variables(&Url::parse(url).unwrap(), &environment)?;
        Ok(proxy.map(|proxy| proxy.authority().to_string()))
    }

    #[test]
    fn the_scheme_decides_which_variable_counts() {
        let both = [("HTTPS_PROXY", "http://secure:1"), ("http_proxy", "plain:2")];
        assert_eq!(proxy("https://a.example/v1", &both), Ok(Some("secure:1".to_owned())));
        assert_eq!(proxy("http://a.example/v1", &both), Ok(Some("plain:2".to_owned())));
        assert_eq!(proxy("https://a.example/v1", &both[1..]), Ok(None));
        for local in ["http://localhost:1/", "http://127.0.0.2/", "http://[::1]:3/"] {
            assert_eq!(proxy(local, &both), Ok(None));
        }
        assert_eq!(proxy("https://a.example", &[("HTTPS_PROXY", "socks5://x:1")]), Err("HTTPS_PROXY"));
    }

    #[test]
    fn exceptions_are_names_addresses_and_networks() {
        let is_direct = |url: &str, excepted: &str| {
            proxy(url, &[("HTTP_PROXY", "p:1"), ("NO_PROXY", excepted)]) == Ok(None)
        };
        for (url, excepted) in [
            ("http://a.example", "*"),
            ("http://a.example", "b, a.example"),
            ("http://a.B.example", ".b.example"),
            ("http://a.b.example", "*.b.example"),
            ("http://a.example:8080", "a.example:8080"),
            ("http://10.1.2.3", "10.0.0.0/8"),
            ("http://10.1.2.3", "10.1.2.3"),
            ("http://10.1.2.3", "0.0.0.0/0"),
            ("http://[fd00::1]:8080", "[fd00::1]:8080"),
            ("http://[fd00::1]", "fd00::/8"),
        ] {
            assert!(is_direct(url, excepted), "{url} {excepted}");
        }
        for (url, excepted) in [
            ("http://a.example", "example.a"),
            ("http://nota.example", "a.example"),
            ("http://a.example:8080", "a.example:81"),
            ("http://11.1.2.3", "10.0.0.0/8"),
            ("http://10.1.2.3", "1.2.3"),
            ("http://[fd00::1]", "10.0.0.0/8"),
        ] {
            assert!(!is_direct(url, excepted), "{url} {excepted}");
        }
    }

    #[test]
    fn credentials_are_decoded_and_never_shown() {
        let Some(ProxyConfig::Through(proxy)) = ProxyConfig::parse("http://Aladdin:open%3Asesame@p:3128")
        else {
            panic!("it is a proxy");
        };
        let expected = Proxy::new(
            "p:3128".parse().unwrap(),
            Some(HeaderValue::from_static("Basic QWxhZGRpbjpvcGVuOnNlc2FtZQ==")),
        );
        assert_eq!(proxy, expected);
        let shown = serde_json::to_string(&ProxyConfig::Through(proxy.clone())).unwrap();
        assert_eq!(
            (shown.as_str(), format!("{proxy:?}").as_str()),
            ("\"http://p:3128\"", "Proxy(\"p:3128\")")
        );
        for text in ["https://p:1", "ftp://p", "http://p/path", "", "http://"] {
            assert_eq!(ProxyConfig::parse(text), None, "{text}");
        }
    }
}
