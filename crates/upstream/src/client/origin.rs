//! The scheme, host and port that a connection leads to.

use std::hash::{Hash, Hasher};

use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Uri, header};

use crate::route::Route;

/// Connections to the same origin along the same route are interchangeable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: Scheme,
    authority: Authority,
    route: Route,
}

// === impl Origin ===

impl Origin {
    /// `None` if the address has no scheme or no host.
    pub fn new(uri: &Uri, route: &Route) -> Option<Self> {
        Some(Self {
            scheme: uri.scheme()?.clone(),
            authority: uri.authority()?.clone(),
            route: route.clone(),
        })
    }

    pub fn route(&self) -> &Route {
        &self.route
    }

    pub fn uri(&self) -> Uri {
        let mut parts = Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
        Uri::from_parts(parts).expect("all parts of an address are set")
    }

    /// Gives a request the form of HTTP/1.1: a `host` header, and only the path in its address, except for a proxy that passes
    /// on requests.
    pub fn prepare<B>(&self, request: &mut Request<B>) {
        match self.route.proxy().filter(|_| self.scheme == Scheme::HTTP) {
            Some(proxy) => {
                let authorization = proxy.authorization().cloned();
                let authorization = authorization.map(|value| (header::PROXY_AUTHORIZATION, value));
                request.headers_mut().extend(authorization);
            }
            None => {
                let path = request.uri().path_and_query().cloned();
                *request.uri_mut() = path.map(Uri::from).unwrap_or_default();
            }
        }
        request.headers_mut().entry(header::HOST).or_insert_with(|| self.host());
    }

    /// Without the port if it is the scheme's default.
    fn host(&self) -> HeaderValue {
        let default_port = if self.scheme == Scheme::HTTPS { 443 } else { 80 };
        let host = match self.authority.port_u16() {
            Some(port) if port != default_port => {
                let authority = self.authority.as_str();
                authority.rsplit_once('@').map_or(authority, |(_user, host)| host)
            }
            _ => self.authority.host(),
        };
        HeaderValue::from_str(host).expect("a host contains only characters that are allowed in a header")
    }
}

/// Most of an address at once: that of its own type takes its characters one by one.
impl Hash for Origin {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut start = [0; 64];
        let authority = self.authority.as_str().as_bytes();
        let len = authority.len().min(start.len());
        start[..len].copy_from_slice(&authority[..len]);
        // Authorities are equal whatever the case of their letters.
        start.make_ascii_lowercase();
        state.write(&start[..len]);
        self.route.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_its_host_without_the_default_port() {
        let addressed = |uri: &'static str| {
            let mut request = Request::new(());
            *request.uri_mut() = Uri::from_static(uri);
            Origin::new(request.uri(), &Route::default()).unwrap().prepare(&mut request);
            (request.headers()[header::HOST].to_str().unwrap().to_owned(), request.uri().to_string())
        };
        let expect = |host: &str, path: &str| (host.to_owned(), path.to_owned());
        assert_eq!(addressed("https://api.example:443/v1/x?y=1"), expect("api.example", "/v1/x?y=1"));
        assert_eq!(addressed("http://user@api.example:8000"), expect("api.example:8000", "/"));
        assert_eq!(addressed("http://[::1]:80/v1"), expect("[::1]", "/v1"));
        assert_eq!(Origin::new(&Uri::from_static("/v1"), &Route::default()), None);
    }
}
