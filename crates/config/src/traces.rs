//! `[traces]`: traces of turns for an OpenTelemetry collector. Without the section, there are none.
//!
//! Where the section says nothing, the variables `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_HEADERS` and
//! `OTEL_SERVICE_NAME` count. They never turn traces on.

use std::collections::BTreeMap;
use std::path::Path;

use antiphon_upstream::route::Route;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde::{Deserialize, Serialize};
use url::Url;

use super::environment::Environment;
use super::error::Problems;
use super::headers::{AccountHeaders, HeaderDraft};
use super::route::Reach;
use super::values::{boolean, ratio};

const ENDPOINT_RULE: &str = r#"must be an http or https URL without user, password, query and fragment, such as "http://localhost:4318""#;
const ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const HEADERS_VARIABLE: &str = "OTEL_EXPORTER_OTLP_HEADERS";
const PROTOCOL_VARIABLE: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const SERVICE_VARIABLE: &str = "OTEL_SERVICE_NAME";
/// The path for traces below an endpoint.
const TRACES_PATH: &str = "/v1/traces";

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TracesConfig {
    /// The collector, which must speak OTLP over HTTP (`http/protobuf`). `/v1/traces` is appended.
    #[serde(serialize_with = "super::accounts::serialize_url")]
    pub endpoint: Url,

    /// Headers for the collector, such as its credential.
    #[serde(skip_serializing_if = "AccountHeaders::is_empty")]
    pub headers: AccountHeaders,

    /// The share of turns that are traced. Default: 1.
    pub sample_ratio: f64,

    /// The name of the service in traces. Default: antiphon.
    pub service_name: String,

    /// Whether the `traceparent` of a client decides if its turn is traced. Default: false.
    pub trust_parent: bool,

    /// Headers from the variable. They may be secrets, and are read from there again when the configuration is.
    #[serde(skip)]
    variable_headers: HeaderMap,

    /// The way to the collector.
    #[serde(skip)]
    pub route: Route,
}

/// The section as it is written.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct TracesDraft {
    endpoint: Option<String>,
    headers: BTreeMap<String, HeaderDraft>,
    #[serde(deserialize_with = "ratio::deserialize")]
    sample_ratio: f64,
    service_name: Option<String>,
    #[serde(deserialize_with = "boolean::deserialize")]
    trust_parent: bool,
}

// === impl TracesConfig ===

impl TracesConfig {
    /// Where spans are sent.
    pub fn uri(&self) -> Uri {
        let base = self.endpoint.as_str().trim_end_matches('/');
        let path = if base.ends_with(TRACES_PATH) { "" } else { TRACES_PATH };
        format!("{base}{path}").parse().expect("validated when it was parsed")
    }

    pub fn headers(&self) -> HeaderMap {
        if self.headers.is_empty() { self.variable_headers.clone() } else { self.headers.to_map() }
    }
}

// === impl TracesDraft ===

impl Default for TracesDraft {
    fn default() -> Self {
        Self {
            endpoint: None,
            headers: BTreeMap::new(),
            sample_ratio: 1.0,
            service_name: None,
            trust_parent: false,
        }
    }
}

impl TracesDraft {
    /// Checks the section and reads its secrets, and the variables for what it leaves out.
    pub(super) fn resolve(
        self,
        cwd: &Path,
        environment: &Environment,
        problems: &mut Problems,
    ) -> Option<TracesConfig> {
        let endpoint = resolve_endpoint(self.endpoint.as_deref(), environment, problems);
        let headers = AccountHeaders::resolve(self.headers, "traces.headers", cwd, environment, problems);
        let variable_headers = match environment.get(HEADERS_VARIABLE).filter(|_| headers.is_empty()) {
            Some(text) => parse_headers(text).unwrap_or_else(|| {
                let rule = format!(
                    "environment variable {HEADERS_VARIABLE}: must be a list such as \"name=value,other=value\", with \
                     values percent-encoded"
                );
                problems.reject_hidden("traces.headers", rule);
                HeaderMap::new()
            }),
            None => HeaderMap::new(),
        };
        let named = self.service_name.as_deref().or_else(|| environment.get(SERVICE_VARIABLE));
        let service_name = named.unwrap_or("antiphon").to_owned();
        if service_name.trim().is_empty() {
            problems.reject("traces.service_name", "must not be empty");
        }
        let endpoint = endpoint?;
        let reach = Reach::resolve(None, None, "traces".to_owned(), cwd, problems);
        Some(TracesConfig {
            route: reach.route(&endpoint, environment, problems),
            endpoint,
            headers,
            sample_ratio: self.sample_ratio,
            service_name,
            trust_parent: self.trust_parent,
            variable_headers,
        })
    }
}

fn resolve_endpoint(
    configured: Option<&str>,
    environment: &Environment,
    problems: &mut Problems,
) -> Option<Url> {
    if let Some(text) = configured {
        let endpoint = parse_endpoint(text);
        if endpoint.is_none() {
            problems.reject_hidden("traces.endpoint", ENDPOINT_RULE);
        }
        return endpoint;
    }
    let Some(text) = environment.get(ENDPOINT_VARIABLE) else {
        let rule = format!("must be set, here or with {ENDPOINT_VARIABLE}");
        problems.reject("traces.endpoint", rule);
        return None;
    };
    if let Some(protocol) = environment.get(PROTOCOL_VARIABLE).filter(|name| *name != "http/protobuf") {
        let rule = format!(
            "environment variable {PROTOCOL_VARIABLE}: {protocol:?} is not supported; set traces.endpoint to where the \
             collector speaks http/protobuf"
        );
        problems.reject_hidden("traces.endpoint", rule);
        return None;
    }
    let endpoint = parse_endpoint(text);
    if endpoint.is_none() {
        let rule = format!("environment variable {ENDPOINT_VARIABLE}: {ENDPOINT_RULE}");
        problems.reject_hidden("traces.endpoint", rule);
    }
    endpoint
}

fn parse_endpoint(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    let is_plain = url.username().is_empty() && url.password().is_none();
    let is_base = url.query().is_none() && url.fragment().is_none();
    (is_plain && is_base && url.as_str().parse::<Uri>().is_ok()).then_some(url)
}

/// `None` if an entry of the list is no header.
fn parse_headers(text: &str) -> Option<HeaderMap> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let header = |entry: &str| {
        let (name, value) = entry.split_once('=')?;
        let value: Vec<u8> = percent_encoding::percent_decode_str(value.trim()).collect();
        let mut value = HeaderValue::from_bytes(&value).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::try_from(name.trim()).ok()?, value))
    };
    entries.map(header).collect()
}
