//! An authorization server that rotates its refresh tokens, and takes one that is used twice for stolen.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::eventually;
use crate::small_server::serve;

/// Listens on a random port. The n-th access token is `access-n`, and its refresh token `refresh-n`; the first refresh token is
/// `refresh-0`.
pub struct AuthorizationServer {
    address: SocketAddr,
    state: Arc<State>,
    serving: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct State {
    inner: Mutex<Inner>,
    opened: Notify,
}

struct Inner {
    issued: u64,
    expires_in: f64,
    /// Answered in place of tokens.
    failure: Option<(u16, String)>,
    is_held: bool,
    was_reused: bool,
    requests: Vec<(HeaderMap, String)>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            issued: 0,
            expires_in: 3600.0,
            failure: None,
            is_held: false,
            was_reused: false,
            requests: Vec::new(),
        }
    }
}

impl AuthorizationServer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let state = Arc::<State>::default();
        let serving = serve(listener, Arc::clone(&state), answer);
        Self { address, state, serving }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lines for an account that gets its tokens here.
    pub fn account(&self) -> String {
        format!(
            "oauth = {{ token_url = \"http://{}/token\", client_id = \"me\", refresh_token = {{ value = \"refresh-0\" }}, \
             scope = \"a b\", headers = {{ x-tenant = \"t\" }} }}",
            self.address
        )
    }

    /// How long the tokens live that are issued from now on.
    pub fn expires_in(&self, seconds: f64) {
        self.state.lock().expires_in = seconds;
    }

    /// Answers this from now on, in place of tokens.
    pub fn fails(&self, failure: Option<(u16, &str)>) {
        self.state.lock().failure = failure.map(|(status, body)| (status, body.to_owned()));
    }

    /// Lets requests wait until [`open`](Self::open).
    pub fn hold(&self) {
        self.state.lock().is_held = true;
    }

    pub fn open(&self) {
        self.state.lock().is_held = false;
        self.state.opened.notify_waiters();
    }

    /// Requests so far: headers and body.
    pub fn requests(&self) -> Vec<(HeaderMap, String)> {
        self.state.lock().requests.clone()
    }

    pub async fn wait_for_requests(&self, count: usize) {
        let what = format!("{count} requests to the authorization server");
        eventually(&what, async || self.requests().len() >= count).await;
    }

    /// Whether a refresh token has come that had been used before.
    pub fn was_reused(&self) -> bool {
        self.state.lock().was_reused
    }
}

impl Drop for AuthorizationServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl State {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let form = String::from_utf8_lossy(&body).into_owned();
    state.lock().requests.push((head.headers, form.clone()));
    loop {
        let opened = state.opened.notified();
        if !state.lock().is_held {
            break;
        }
        opened.await;
    }
    let (status, body) = state.lock().trade(&form);
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status.try_into().expect("a status");
    Ok(reply)
}

impl Inner {
    fn trade(&mut self, form: &str) -> (u16, String) {
        if let Some((status, body)) = self.failure.clone() {
            return (status, body);
        }
        let current = format!("refresh_token=refresh-{}&", self.issued);
        if !form.starts_with("grant_type=refresh_token&") || !form.contains(&current) {
            self.was_reused = true;
            return (400, r#"{"error":"invalid_grant"}"#.to_owned());
        }
        self.issued += 1;
        let n = self.issued;
        let expires_in = self.expires_in;
        let body = format!(
            r#"{{"access_token":"access-{n}","refresh_token":"refresh-{n}","token_type":"Bearer","expires_in":{expires_in}}}"#
        );
        (200, body)
    }
}
