use secrecy::ExposeSecret;
use serde_json::json;

use super::Case;
use crate::StoreConfig;

fn with_api_key(api_key: &str) -> Case {
    Case::file(&format!("[[accounts]]\nname = \"a\"\nbase_url = \"http://a\"\napi_key = {api_key}\n"))
}

fn secret(case: &Case) -> String {
    case.load().accounts[0].api_key.as_ref().unwrap().secret().expose_secret().to_owned()
}

fn api_key_error(api_key: &str) -> String {
    with_api_key(api_key).error()
}

#[test]
fn a_key_is_read_from_a_variable_a_file_or_the_configuration() {
    assert_eq!(secret(&with_api_key(r#"{ env = "A_KEY" }"#).variable("A_KEY", "sk-1")), "sk-1");
    assert_eq!(secret(&with_api_key(r#"{ value = "sk-2" }"#)), "sk-2");
    let case = with_api_key(r#"{ file = "key.txt" }"#);
    case.write("key.txt", "sk-3\r\n");
    assert_eq!(secret(&case), "sk-3");
    assert!(case.load().show().contains(r#"api_key = { file = "key.txt" }"#));
}

#[test]
fn a_credential_that_cannot_be_read_is_reported_with_account_and_source() {
    let start = "accounts[0].api_key (in antiphon.toml, line 4): account \"a\": ";
    assert_eq!(
        api_key_error(r#"{ env = "A_KEY" }"#),
        format!("{start}environment variable A_KEY is not set or empty")
    );
    assert_eq!(
        api_key_error(r#"{ file = "key.txt" }"#),
        format!("{start}cannot read file key.txt: No such file or directory (os error 2)")
    );
    let case = with_api_key(r#"{ file = "key.txt" }"#);
    case.write("key.txt", "\n");
    assert_eq!(case.error(), format!("{start}file key.txt is empty"));
    case.write("key.txt", &"k".repeat((64 << 10) + 1));
    assert_eq!(case.error(), format!("{start}file key.txt is larger than 64 KiB"));
    for broken in ["sk\u{0}", "sk\u{1b}[2J", "sk\u{7f}", "sk\n1", "sk\u{a0}"] {
        case.write("key.txt", broken);
        let rule = "not a valid key; a key consists of visible ASCII characters without spaces";
        assert_eq!(case.error(), format!("{start}file key.txt: {rule}"));
    }
    assert_eq!(
        api_key_error(r#"{ env = "A", value = "sk-secret" }"#),
        format!("{start}needs exactly one of env, file and value")
    );
    assert_eq!(
        with_api_key(r#"{ env = "A_KEY" }"#).variable("A_KEY", "sk secret").error(),
        format!(
            "{start}environment variable A_KEY: not a valid key; a key consists of visible ASCII characters without spaces"
        )
    );
}

#[test]
fn errors_never_show_secrets() {
    let account = |line: &str| Case::file(&format!("[[accounts]]\nname = \"a\"\n{line}\n"));
    let cases = [
        with_api_key(r#""sk-secret""#),
        with_api_key(r#"{ env = "sk-secret" }"#),
        with_api_key(r#"{ value = "sk-secret\n" }"#),
        with_api_key(r#"{ value = ["sk-secret"] }"#),
        with_api_key(r#"{ vaule = "sk-secret" }"#),
        with_api_key(r#"{ value = "sk-secret }"#),
        with_api_key("sk-secret"),
        account(r#"token = "sk-secret""#),
        account(r#"base_url = "https://user:sk-secret@host""#),
        account(r#"base_url = "https://host/v1?key=sk-secret""#),
        account(r#"base_url = "user:sk-secret@host""#),
        Case::file("store = \"postgres://u:sk-secret@host\""),
        Case::file("[store]\nurl = [\"postgres://u:sk-secret@host\"]"),
        Case::file("accounts = [\"sk-secret\"]"),
        account(r#"headers = { authorization = "Bearer sk-secret\n" }"#),
        account(r#"headers = { x-tenant = "sk-secret\r" }"#),
        account(r#"headers = { proxy-authorization = "Basic sk-secret" }"#),
        account(r#"headers = { "authorization: Bearer sk-secret" = "" }"#),
        account(r#"headers = { x-key = "sk-secret", X-Key = "sk-secret" }"#),
        account("headers.authorization = [\"sk-secret\"]"),
        Case::file(
            "[traces]\nendpoint = \"http://a\"\nheaders = { authorization = \"Bearer sk-secret\\n\" }",
        ),
        Case::empty().variable("ANTIPHON_ACCOUNTS", "sk-secret"),
        Case::empty()
            .variable("ANTIPHON_ACCOUNTS", "[{name = \"a\", headers = {cookie = \"sk-secret\\n\"}}]"),
        Case::empty().variable("ANTIPHON_API_KEY", "sk-secret"),
        Case::empty().variable("OPENAI_BASE_URL", "https://u:sk-secret@host"),
    ];
    for case in cases {
        let error = case.load_from(None).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("sk-secret"), "{error}");
    }
}

#[test]
fn a_number_in_the_place_of_a_secret_is_not_shown() {
    for case in [
        with_api_key("12345678"),
        with_api_key("{ value = 12345678 }"),
        Case::file("[oidc]\nclient_secret = 12345678"),
        Case::file("[oidc]\nclient_secret = { value = 12345678 }"),
        Case::empty().variable("ANTIPHON_OIDC__CLIENT_SECRET", "12345678"),
    ] {
        let error = case.error();
        assert!(!error.contains("12345678"), "{error}");
    }
}

#[test]
fn a_loaded_configuration_shows_no_secret() {
    let config = with_api_key("{ value = \"sk-secret\" }")
        .variable("ANTIPHON_STORE__URL", "postgres://u:sk-secret@h/d")
        .load();
    let shown = format!("{config:?} {:#?} {} {}", config, config.show(), config.show_json());
    assert!(!shown.contains("sk-secret"), "{shown}");
    assert!(config.show().contains("api_key = { value = \"<redacted>\" }"));
}

#[test]
fn headers_and_parameters_that_may_be_secrets_are_not_shown() {
    let config = Case::file(
        r#"
        [[accounts]]
        name = "a"
        base_url = "http://a"
        headers = { x-pass = "sk-secret", x-credential = "sk-secret", x-codex-beta = "shown-1" }
        query = { code = "sk-secret", function_code = "sk-secret", encoding = "shown-2" }
        [accounts.oauth]
        token_url = "https://auth.example/t?client=shown-not&secret=sk-secret"
        client_id = "c"
        refresh_token = { value = "sk-secret" }
        "#,
    );
    let config = config.load();
    for shown in [config.show(), config.show_json()] {
        assert!(!shown.contains("sk-secret") && !shown.contains("shown-not"), "{shown}");
        for kept in ["shown-1", "shown-2", "https://auth.example/t?<redacted>"] {
            assert!(shown.contains(kept), "{kept}: {shown}");
        }
    }
    let token_url = &config.accounts[0].oauth.as_ref().unwrap().token_url;
    assert!(token_url.as_str().ends_with("secret=sk-secret"));
}

#[test]
fn a_database_url_is_shown_without_secrets() {
    let shown = |url: &str| {
        let store: StoreConfig = serde_json::from_value(json!({ "url": url })).unwrap();
        store.url.to_string()
    };
    assert_eq!(shown("sqlite:///a@b/x.db"), "sqlite:///a@b/x.db");
    assert_eq!(shown("sqlite://x.db?mode=ro"), "sqlite://x.db?<redacted>");
    assert_eq!(shown("postgres://host:5432/db"), "postgres://host:5432/db");
    assert_eq!(shown("postgres://u:p@host/db?password=p"), "postgres://<redacted>@host/db?<redacted>");
    assert_eq!(shown("postgres://u:p/p@p@host/db"), "postgres://<redacted>@host/db");
    assert_eq!(shown("postgres://u:p?p@host/db"), "<redacted>");
    assert_eq!(shown("host=h password=p"), "<redacted>");
    assert_eq!(shown("password?x://host"), "<redacted>");
    assert_eq!(shown("postgres://u:p"), "<redacted>");
    assert_eq!(shown("postgres://u:p/p"), "<redacted>");
    assert_eq!(shown("postgres://[::1]:5432/db"), "postgres://[::1]:5432/db");
    assert_eq!(shown("sqlite://u:p@host/db"), "sqlite://<redacted>");
}
