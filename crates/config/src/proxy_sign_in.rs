//! `[proxy_sign_in]`: an authenticating proxy that says in a header who uses the dashboard.

use std::net::IpAddr;

use antiphon_access::admin::Role;
use http::HeaderName;
use ipnet::IpNet;
use serde::{Deserialize, Serialize, Serializer};

use super::error::Problems;
use super::values::{Word, word};

/// Headers that clients send, or that mean something else to the gateway. Those of browsers begin with `sec-`.
const RESERVED: [&str; 22] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "api-key",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "origin",
    "referer",
    "te",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-api-key",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProxySignInConfig {
    /// The header with the operator's name, in lower case.
    pub header: String,

    /// Where the proxy connects from.
    #[serde(serialize_with = "serialize_networks")]
    pub addresses: Vec<IpNet>,

    /// The header with the values that decide on the role. Default: the name decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role_header: Option<String>,

    /// Values that make an admin.
    pub admin_values: Vec<String>,

    /// Values that make a viewer.
    pub viewer_values: Vec<String>,

    /// The role of everybody else. Default: viewer if no values are listed, else none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_role: Option<Role>,
}

/// The section as it is written.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table with header and addresses")]
pub(super) struct ProxySignInDraft {
    header: String,
    addresses: Vec<String>,
    role_header: Option<String>,
    admin_values: Vec<String>,
    viewer_values: Vec<String>,
    #[serde(deserialize_with = "word::deserialize_some")]
    default_role: Option<Role>,
}

impl Word for Role {
    const WORDS: &[(&str, Self)] = &[("viewer", Self::Viewer), ("admin", Self::Admin)];
}

// === impl ProxySignInConfig ===

impl ProxySignInConfig {
    /// Whether the proxy connects from this address.
    pub fn is_proxy(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.addresses.iter().any(|network| network.contains(&address))
    }

    /// The role of somebody with these values.
    pub fn role(&self, values: &[&str]) -> Option<Role> {
        let has_any = |listed: &[String]| listed.iter().any(|listed| values.contains(&listed.as_str()));
        if has_any(&self.admin_values) {
            return Some(Role::Admin);
        }
        if has_any(&self.viewer_values) {
            return Some(Role::Viewer);
        }
        let lists_nothing = self.admin_values.is_empty() && self.viewer_values.is_empty();
        self.default_role.or(lists_nothing.then_some(Role::Viewer))
    }
}

// === impl ProxySignInDraft ===

impl ProxySignInDraft {
    pub(super) fn resolve(self, problems: &mut Problems) -> Option<ProxySignInConfig> {
        let header = resolve_header("proxy_sign_in.header", &self.header, problems);
        let role_header = self
            .role_header
            .as_deref()
            .map(|name| resolve_header("proxy_sign_in.role_header", name, problems));
        self.check_roles(problems);
        if header.is_some() && role_header.as_ref() == Some(&header) {
            let rule = "must be another header; without role_header, the name decides on the role";
            problems.reject("proxy_sign_in.role_header", rule);
        }
        let addresses = resolve_addresses(&self.addresses, problems);
        Some(ProxySignInConfig {
            header: header?,
            addresses,
            role_header: role_header.flatten(),
            admin_values: self.admin_values,
            viewer_values: self.viewer_values,
            default_role: self.default_role,
        })
    }

    fn check_roles(&self, problems: &mut Problems) {
        let lists = [
            ("proxy_sign_in.admin_values", &self.admin_values),
            ("proxy_sign_in.viewer_values", &self.viewer_values),
        ];
        if self.role_header.is_some() && lists.iter().all(|(_, values)| values.is_empty()) {
            let rule = "must be set, or viewer_values: without them, role_header decides nothing";
            problems.reject("proxy_sign_in.admin_values", rule);
        }
        for (key, values) in lists {
            if values.iter().any(|value| value.trim().is_empty()) {
                problems.reject(key, "must not contain empty values");
            }
            if self.role_header.is_some() && values.iter().any(|value| value.contains(',')) {
                problems.reject(key, "must not contain commas, which separate the values of role_header");
            }
        }
    }
}

/// The header's name in lower case.
fn resolve_header(key: &str, text: &str, problems: &mut Problems) -> Option<String> {
    let Ok(name) = HeaderName::try_from(text) else {
        problems.reject(key, r#"must be the name of a header such as "x-forwarded-user""#);
        return None;
    };
    if RESERVED.contains(&name.as_str()) || name.as_str().starts_with("sec-") {
        problems.reject(key, "must be a header that only the proxy sets; clients send this one themselves");
        return None;
    }
    Some(name.as_str().to_owned())
}

fn resolve_addresses(written: &[String], problems: &mut Problems) -> Vec<IpNet> {
    if written.is_empty() {
        problems.reject(
            "proxy_sign_in.addresses",
            r#"must be set to where the proxy connects from, such as ["127.0.0.1"] or ["10.0.7.0/24"]"#,
        );
    }
    let mut networks = Vec::with_capacity(written.len());
    for (index, text) in written.iter().enumerate() {
        let single = text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
        let rule = match single.or_else(|_| text.parse::<IpNet>()) {
            Ok(network) if network.prefix_len() > 0 => {
                networks.push(network);
                continue;
            }
            Ok(_) => "must not be everybody: whoever connects from there can call themselves what they like",
            Err(_) => r#"must be an IP address or a network such as "10.0.7.0/24""#,
        };
        problems.reject(format!("proxy_sign_in.addresses[{index}]"), rule);
    }
    networks
}

fn serialize_networks<S: Serializer>(networks: &[IpNet], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(networks.iter().map(IpNet::to_string))
}
