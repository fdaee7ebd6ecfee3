//! Signing in to the dashboard with an admin token, and the page that comes next.

use antiphon_testkit::{Gateway, Reply, header};
use http::{Method, StatusCode};

use crate::administering::Operator;
use crate::gateway;
use crate::signing_in::{cookies, text, value};

async fn get(gateway: &Gateway, path: &str, headers: &[(&'static str, &str)]) -> Reply {
    let headers: Vec<_> = headers.iter().map(|(name, value)| header(name, value)).collect();
    gateway.client.request(Method::GET, path, &headers, "").await
}

async fn post(gateway: &Gateway, form: String) -> Reply {
    let own = [header("sec-fetch-site", "same-origin")];
    gateway.client.request(Method::POST, "/login", &own, form).await
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[tokio::test]
async fn a_link_on_another_site_leads_a_signed_in_operator_to_its_page() {
    let (_upstream, gateway) = gateway().await;
    let token = Operator::of(&gateway).await.token;
    let session = value(&cookies(&post(&gateway, format!("token={token}")).await)[0]).to_owned();
    let elsewhere = ("sec-fetch-site", "cross-site");
    for (page, login) in
        [("/responses?model=m", "/login?next=%2Fresponses%3Fmodel%3Dm"), ("/", "/login?next=%2F")]
    {
        let reply = get(&gateway, page, &[elsewhere]).await;
        assert_eq!(reply.status, StatusCode::SEE_OTHER);
        let reply = get(&gateway, reply.header("location").unwrap(), &[elsewhere]).await;
        assert_eq!(
            (reply.status, reply.header("refresh")),
            (StatusCode::OK, Some(&*format!("0;url={login}")))
        );
        let own = ("sec-fetch-site", "same-origin");
        let reply = get(&gateway, login, &[own, ("cookie", &session)]).await;
        assert_eq!((reply.status, reply.header("location")), (StatusCode::SEE_OTHER, Some(page)));
        let reply = get(&gateway, login, &[own, ("cookie", "antiphon_session=ended")]).await;
        assert!(text(&reply).contains("name=\"token\""), "{}", text(&reply));
    }
    let reply = get(&gateway, "/login", &[("cookie", &session)]).await;
    assert!(text(&reply).contains("name=\"token\""), "to sign in with another token");
}

#[tokio::test]
async fn a_long_address_does_not_keep_from_signing_in() {
    let (_upstream, gateway) = gateway().await;
    let token = Operator::of(&gateway).await.token;
    for (length, is_kept) in [(2048, true), (2049, false), (6000, false)] {
        let page = format!("/responses?model={}", "&".repeat(length - "/responses?model=".len()));
        let form = text(&get(&gateway, &format!("/login?next={}", encoded(&page)), &[]).await);
        assert_eq!(form.contains("name=\"next\""), is_kept, "{length}");
        let next = if is_kept { format!("&next={}", encoded(&page)) } else { String::new() };
        let reply = post(&gateway, format!("token={token}{next}")).await;
        assert_eq!(reply.status, StatusCode::SEE_OTHER, "{length}: {}", text(&reply));
        assert_eq!(reply.header("location"), Some(if is_kept { &*page } else { "/" }));
    }
}
