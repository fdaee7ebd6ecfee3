//! Upstreams behind an HTTP proxy, and behind TLS with an authority of their own.

use antiphon_simulator::upstream::Simulator;
use antiphon_testkit::{AuthorizationServer, HttpProxy, Setup, TlsFront};
use serde_json::json;

use crate::simulator;

const NAME: &str = "upstream.test";
/// `ada:pa ss`
const LOGIN: &str = "Basic YWRhOnBhIHNz";

/// An account whose upstream only a proxy can find.
fn over(url: &str, lines: &str) -> Setup {
    Setup::with_accounts([("one", url)]).account(0, lines)
}

async fn serves(setup: Setup) {
    let gateway = setup.start().await;
    for _ in 0..2 {
        gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    }
}

fn tunnels(proxy: &HttpProxy) -> usize {
    proxy.heads().iter().filter(|head| head.starts_with(&format!("CONNECT {NAME}:443 HTTP/1.1"))).count()
}

async fn over_tls() -> (Simulator, TlsFront) {
    let upstream = simulator().await;
    let front = TlsFront::start(upstream.address(), NAME).await;
    (upstream, front)
}

#[tokio::test]
async fn plain_requests_are_passed_on_with_their_whole_address() {
    let upstream = simulator().await;
    let proxy = HttpProxy::start(upstream.address(), Some(LOGIN)).await;
    let lines = format!("proxy = \"http://ada:pa%20ss@{}\"", proxy.address());
    serves(over(&format!("http://{NAME}/v1"), &lines)).await;
    for head in proxy.heads() {
        assert!(head.contains(&format!(" http://{NAME}/v1/")), "{head}");
        assert!(head.contains(&format!("\r\nhost: {NAME}\r\n")), "{head}");
    }
    assert_eq!(upstream.counts().requests, 2);
}

#[tokio::test]
async fn tls_goes_through_a_tunnel_for_requests_and_for_websockets() {
    let (upstream, front) = over_tls().await;
    let proxy = HttpProxy::start(front.address(), Some(LOGIN)).await;
    let lines = format!("proxy = \"http://ada:pa%20ss@{}\"\nca_file = \"ca.pem\"", proxy.address());
    for (transport, sockets) in [("http", 0), ("websocket", 1)] {
        let setup = over(&format!("https://{NAME}/v1"), &lines);
        let setup = setup.account(0, &format!("transport = \"{transport}\""));
        std::fs::write(setup.folder().join("ca.pem"), &front.authority_pem).unwrap();
        serves(setup).await;
        assert_eq!(upstream.sockets().len().min(1), sockets);
        assert!(
            upstream.requests().iter().all(|request| !request.headers.contains_key("proxy-authorization"))
        );
    }
    assert!(tunnels(&proxy) >= 2, "{:?}", proxy.heads());
    assert_eq!(upstream.counts().requests, 4);
}

#[tokio::test]
async fn variables_name_a_proxy_and_its_exceptions() {
    let upstream = simulator().await;
    let proxy = HttpProxy::start(upstream.address(), None).await;
    let address = format!("http://{}", proxy.address());
    let url = format!("http://{NAME}/v1");
    serves(over(&url, "").environment(&[("HTTP_PROXY", &address)])).await;
    let seen = proxy.heads().len();
    assert!(seen > 0);

    let refuses = async |setup: Setup| {
        let gateway = setup.config("timeouts.connect = \"2s\"").start().await;
        let reply = gateway.client.create(json!({"model": "sim", "input": "x"})).await;
        let code = reply.refusal().1.unwrap();
        assert!(code == "upstream_unreachable" || code == "upstream_timeout", "{code}");
    };
    refuses(over(&url, "").environment(&[("HTTP_PROXY", &address), ("NO_PROXY", ".test")])).await;
    refuses(over(&url, "proxy = \"direct\"").environment(&[("HTTP_PROXY", &address)])).await;
    assert_eq!(proxy.heads().len(), seen);
    // This machine is never behind a proxy.
    serves(over(&upstream.url(), "").environment(&[("HTTP_PROXY", &address)])).await;
    assert_eq!(proxy.heads().len(), seen);
}

#[tokio::test]
async fn a_proxy_that_refuses_is_no_upstream_that_can_be_reached() {
    let (_upstream, front) = over_tls().await;
    let proxy = HttpProxy::start(front.address(), Some(LOGIN)).await;
    let lines = format!("proxy = \"http://ada:wrong@{}\"", proxy.address());
    let gateway = over(&format!("https://{NAME}/v1"), &lines).start().await;
    let reply = gateway.client.create(json!({"model": "sim", "input": "x"})).await;
    assert_eq!(reply.refusal(), (502, Some("upstream_unreachable".to_owned()), None));
}

#[tokio::test]
async fn a_certificate_is_trusted_only_if_its_authority_is() {
    let (upstream, front) = over_tls().await;
    let proxy = HttpProxy::start(front.address(), None).await;
    let setup = over(&format!("https://{NAME}/v1"), &format!("proxy = \"{}\"", proxy.address()));
    std::fs::write(setup.folder().join("ca.pem"), &front.authority_pem).unwrap();
    let gateway = setup.clone().start().await;
    let reply = gateway.client.create(json!({"model": "sim", "input": "x"})).await;
    assert_eq!(reply.refusal(), (502, Some("upstream_unreachable".to_owned()), None));
    gateway.stop().await;
    serves(setup.account(0, "ca_file = \"ca.pem\"")).await;
    assert_eq!(upstream.counts().requests, 2);
}

#[tokio::test]
async fn tokens_are_requested_through_the_proxy_as_well() {
    let (upstream, server) = (simulator().await, AuthorizationServer::start().await);
    let proxy = HttpProxy::start(server.address(), None).await;
    let lines = server.account().replace(&format!("http://{}", server.address()), "http://auth.test");
    let setup = Setup::over(&upstream).account(0, &lines);
    let key_file = setup.database().with_extension("key");
    let setup = setup.config(&format!("store.key_file = \"{}\"", key_file.display()));
    serves(setup.environment(&[("HTTP_PROXY", &format!("http://{}", proxy.address()))])).await;
    let head = proxy.heads().into_iter().next().unwrap();
    assert!(head.starts_with("POST http://auth.test/token HTTP/1.1\r\n"), "{head}");
}
