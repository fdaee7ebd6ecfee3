//! `[oidc]`.

use super::Case;

const VALID: &str = r#"[oidc]
issuer = "https://id.example/realm/"
client_id = "gateway"
client_secret = { value = "secret" }
public_url = "https://gateway.example"
admin_values = ["ops"]
"#;

fn error(written: &str, instead: &str) -> String {
    assert!(VALID.contains(written), "{written}");
    Case::file(&VALID.replace(written, instead)).error()
}

#[test]
fn what_the_provider_is_compared_with_is_kept_to_the_letter() {
    let oidc = Case::file(VALID).load().oidc.unwrap();
    assert_eq!(oidc.issuer, "https://id.example/realm/");
    assert_eq!(oidc.public_url.as_str(), "https://gateway.example/");
    assert_eq!(
        (oidc.scopes, oidc.role_claim),
        (vec!["email".to_owned(), "profile".to_owned()], "groups".to_owned())
    );
    assert!(oidc.viewer_values.is_empty());
}

#[test]
fn this_machine_needs_no_tls() {
    for url in ["http://127.0.0.1:8080", "http://localhost:8080", "http://[::1]:8080"] {
        let text = VALID.replace("https://id.example/realm/", url).replace("https://gateway.example", url);
        assert_eq!(Case::file(&text).load().oidc.unwrap().issuer, url);
    }
}

#[test]
fn a_section_that_cannot_work_is_refused() {
    for url in [
        "http://id.example",
        "ftp://id.example",
        "id.example",
        "",
        "https://a:b@id.example",
        "https://id.example?a",
    ] {
        let message = error("https://id.example/realm/", url);
        assert!(message.starts_with("oidc.issuer") && message.contains("must be an https URL"), "{message}");
    }
    for url in ["http://gateway.example", "https://gateway.example/path", "https://gateway.example?a", ""] {
        let message = error("https://gateway.example", url);
        assert!(message.starts_with("oidc.public_url"), "{message}");
    }
    assert!(error("client_id = \"gateway\"", "").contains("oidc.client_id"));
    assert!(error("client_secret = { value = \"secret\" }", "").contains("oidc.client_secret"));
    assert!(error("admin_values = [\"ops\"]", "").contains("nobody else may sign in"));
    assert!(error("[\"ops\"]", "[\"ops\", \" \"]").contains("must not contain empty values"));
    assert!(error("admin_values", "scopes = [\"a b\"]\nadmin_values").contains("oidc.scopes"));
    let message = error("{ value = \"secret\" }", "{ env = \"A_SECRET\" }");
    assert!(message.contains("environment variable A_SECRET is not set"), "{message}");
    let message = error("{ value = \"secret\" }", "\"sk-literal\"");
    assert!(!message.contains("sk-literal"), "{message}");
}
