//! An identity provider that speaks OpenID Connect and knows one person.

mod signer;

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use antiphon_store::{Clock, SystemClock};
use bytes::Bytes;
use data_encoding::{BASE64, BASE64URL_NOPAD};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use url::{Url, form_urlencoded};

use self::signer::Signer;
use crate::small_server::serve;

const CLIENT_ID: &str = "antiphon";
const CLIENT_SECRET: &str = "a+secret/of=the&client";

/// Listens on a random port. Whoever comes is signed in at once.
pub struct IdentityProvider {
    issuer: String,
    state: Arc<Mutex<State>>,
    serving: tokio::task::JoinHandle<()>,
}

struct State {
    issuer: String,
    /// Of the person; they override those of the token.
    claims: Map<String, Value>,
    /// Override what discovery says.
    metadata: Map<String, Value>,
    signer: Signer,
    published: Vec<Value>,
    codes: HashMap<String, HashMap<String, String>>,
    issued: u32,
    /// Answered to requests for a path that begins so.
    failure: Option<(String, u16, String)>,
    asks: bool,
    paths: Vec<String>,
}

type Reply = Response<Full<Bytes>>;

impl IdentityProvider {
    pub async fn start() -> Self {
        Self::start_as("127.0.0.1").await
    }

    /// By another name of this machine.
    pub async fn start_as(host: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address: SocketAddr = listener.local_addr().expect("a bound listener");
        let issuer = format!("http://{host}:{}/realm", address.port());
        let signer = Signer::rsa("first");
        let state = Arc::new(Mutex::new(State {
            issuer: issuer.clone(),
            claims: Map::new(),
            metadata: Map::new(),
            published: vec![signer.jwk()],
            signer,
            codes: HashMap::new(),
            issued: 0,
            failure: None,
            asks: false,
            paths: Vec::new(),
        }));
        let serving = serve(listener, Arc::clone(&state), answer);
        let provider = Self { issuer, state, serving };
        provider.person(
            json!({"sub": "person-1", "email": "ada@example.com", "email_verified": true, "groups": ["ops"]}),
        );
        provider
    }

    /// Lines of configuration for a gateway that browsers reach at this address.
    pub fn config(&self, public_url: &str) -> String {
        format!(
            "oidc.issuer = \"{}\"\noidc.client_id = \"{CLIENT_ID}\"\noidc.client_secret = {{ value = \"{CLIENT_SECRET}\" }}\n\
             oidc.public_url = \"{public_url}\"\noidc.admin_values = [\"ops\"]\noidc.viewer_values = [\"staff\"]",
            self.issuer
        )
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Claims of the ID tokens from now on, besides earlier ones. Null removes a claim.
    pub fn person(&self, claims: Value) {
        let Value::Object(claims) = claims else { panic!("claims are an object") };
        self.lock().claims.extend(claims);
    }

    /// Leaves a claim as it would be.
    pub fn forget(&self, claim: &str) {
        self.lock().claims.remove(claim);
    }

    /// What discovery says from now on. Null removes a member.
    pub fn metadata(&self, metadata: Value) {
        let Value::Object(metadata) = metadata else { panic!("metadata is an object") };
        self.lock().metadata.extend(metadata);
    }

    /// Replaces the key by one of another kind.
    pub fn replace_key(&self) {
        let mut state = self.lock();
        state.signer = Signer::ec("second");
        state.published = vec![state.signer.jwk()];
    }

    /// Replaces the key by another one under the same id.
    pub fn renew_key(&self) {
        let mut state = self.lock();
        state.signer = state.signer.renewed();
        state.published = vec![state.signer.jwk()];
    }

    /// Signs with a key from now on that nobody knows, under the id of a known one.
    pub fn forge(&self) {
        let mut state = self.lock();
        state.signer = state.signer.renewed();
    }

    /// Signs from now on with the client's secret.
    pub fn sign_with_secret(&self) {
        let mut state = self.lock();
        state.signer = Signer::shared("first", CLIENT_SECRET.as_bytes());
        let jwk = state.signer.jwk();
        state.published.push(jwk);
    }

    /// Answers this to all requests for paths that begin so.
    pub fn fail(&self, path: &str, status: u16, body: &str) {
        self.lock().failure = Some((path.to_owned(), status, body.to_owned()));
    }

    pub fn recover(&self) {
        self.lock().failure = None;
    }

    /// Asks whoever comes, on a page with a link.
    pub fn ask(&self) {
        self.lock().asks = true;
    }

    /// How many requests have come for a path.
    pub fn count(&self, path: &str) -> usize {
        self.lock().paths.iter().filter(|other| *other == path).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for IdentityProvider {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Result<Reply, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let path = head.uri.path().strip_prefix("/realm").unwrap_or_default().to_owned();
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.paths.push(path.clone());
    if let Some((_, status, body)) = state.failure.as_ref().filter(|(failing, ..)| path.starts_with(failing))
    {
        return Ok(json_reply(*status, body.clone()));
    }
    Ok(match path.as_str() {
        "/.well-known/openid-configuration" => json_reply(200, state.discovery().to_string()),
        "/jwks" => json_reply(200, json!({"keys": state.published}).to_string()),
        "/authorize" => state.authorize(&pairs(head.uri.query().unwrap_or_default().as_bytes())),
        "/token" => match state.trade(&head.headers, &pairs(&body)) {
            Ok(tokens) => json_reply(200, tokens.to_string()),
            Err(why) => {
                json_reply(400, json!({"error": "invalid_grant", "error_description": why}).to_string())
            }
        },
        _ => json_reply(404, "{}".to_owned()),
    })
}

fn pairs(form: &[u8]) -> HashMap<String, String> {
    form_urlencoded::parse(form).into_owned().collect()
}

fn json_reply(status: u16, body: String) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status.try_into().expect("a status");
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// Takes over what overrides something; null removes it.
fn merged(mut values: Value, overriding: &Map<String, Value>) -> Value {
    for (name, value) in overriding {
        values[name] = value.clone();
    }
    if let Value::Object(values) = &mut values {
        values.retain(|_, value| !value.is_null());
    }
    values
}

impl State {
    fn discovery(&self) -> Value {
        let issuer = &self.issuer;
        let metadata = json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/authorize"),
            "token_endpoint": format!("{issuer}/token"),
            "jwks_uri": format!("{issuer}/jwks"),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256", "HS256"],
        });
        merged(metadata, &self.metadata)
    }

    /// Sends the browser back with a code.
    fn authorize(&mut self, query: &HashMap<String, String>) -> Reply {
        let is = |name: &str, wanted: &str| query.get(name).is_some_and(|value| value == wanted);
        let has_scope =
            query.get("scope").is_some_and(|scopes| scopes.split(' ').any(|scope| scope == "openid"));
        let is_right = is("response_type", "code") && is("client_id", CLIENT_ID) && has_scope;
        let back = query.get("redirect_uri").and_then(|uri| Url::parse(uri).ok());
        let Some(mut back) = back.filter(|_| is_right && is("code_challenge_method", "S256")) else {
            return json_reply(400, json!({"wrong": query}).to_string());
        };
        self.issued += 1;
        let code = format!("code-{}", self.issued);
        let state = query.get("state").map(String::as_str).unwrap_or_default();
        back.query_pairs_mut()
            .append_pair("code", &code)
            .append_pair("state", state)
            .append_pair("iss", &self.issuer)
            .append_pair("session_state", "x");
        self.codes.insert(code, query.clone());
        if self.asks {
            let page = format!(
                "<!doctype html><title>Sign in</title><a id=allow href=\"{}\">Allow</a>",
                back.as_str().replace('&', "&amp;")
            );
            let mut reply = Response::new(Full::new(Bytes::from(page)));
            reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
            return reply;
        }
        let mut reply = json_reply(302, String::new());
        let location = HeaderValue::from_str(back.as_str()).expect("an address");
        reply.headers_mut().insert(header::LOCATION, location);
        reply
    }

    /// Trades a code for tokens.
    fn trade(&mut self, headers: &HeaderMap, form: &HashMap<String, String>) -> Result<Value, &'static str> {
        let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let login = format!("{}:{}", encode(CLIENT_ID), encode(CLIENT_SECRET));
        let wanted = format!("Basic {}", BASE64.encode(login.as_bytes()));
        let is_in_body = form.get("client_secret").is_some_and(|secret| secret == CLIENT_SECRET);
        if headers.get(header::AUTHORIZATION).is_none_or(|value| *value != wanted) && !is_in_body {
            return Err("the client is not authenticated");
        }
        let code = form.get("code").ok_or("there is no code")?;
        let asked = self.codes.remove(code).ok_or("the code is unknown, or has been used")?;
        if form.get("redirect_uri") != asked.get("redirect_uri") {
            return Err("the redirect URI is another one");
        }
        let verifier = form.get("code_verifier").ok_or("there is no verifier")?;
        let challenge = BASE64URL_NOPAD.encode(&Sha256::digest(verifier));
        if asked.get("code_challenge") != Some(&challenge) {
            return Err("the verifier is wrong");
        }
        let now = SystemClock.now().unix_ms() / 1000;
        let claims = json!({
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 300,
            "nonce": asked.get("nonce"),
        });
        let token = self.signer.token(&merged(claims, &self.claims));
        // A number in OAuth, but not from everybody.
        Ok(json!({"access_token": "a", "token_type": "Bearer", "expires_in": "300", "id_token": token}))
    }
}
