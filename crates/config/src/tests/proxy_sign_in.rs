//! `[proxy_sign_in]`.

use antiphon_access::admin::Role;

use super::Case;
use crate::ProxySignInConfig;

const VALID: &str = r#"[proxy_sign_in]
header = "X-Forwarded-User"
addresses = ["10.0.7.0/24", "::1", "::ffff:192.0.2.1"]
"#;

fn with(lines: &str) -> ProxySignInConfig {
    Case::file(&format!("{VALID}{lines}")).load().proxy_sign_in.unwrap()
}

fn error(written: &str, instead: &str) -> String {
    assert!(VALID.contains(written), "{written}");
    Case::file(&VALID.replace(written, instead)).error()
}

#[test]
fn only_addresses_of_the_proxy_count() {
    let proxy = with("");
    assert_eq!(proxy.header, "x-forwarded-user");
    for address in ["10.0.7.1", "10.0.7.255", "::ffff:10.0.7.9", "::1", "192.0.2.1", "::ffff:192.0.2.1"] {
        assert!(proxy.is_proxy(address.parse().unwrap()), "{address}");
    }
    for address in ["10.0.8.1", "127.0.0.1", "::2", "::10.0.7.1", "192.0.2.2"] {
        assert!(!proxy.is_proxy(address.parse().unwrap()), "{address}");
    }
}

#[test]
fn whoever_is_on_no_list_has_the_default_role() {
    let lists = "admin_values = [\"ops\"]\nviewer_values = [\"staff\"]\n";
    let (admin, viewer) = (Some(Role::Admin), Some(Role::Viewer));
    for (lines, roles) in [
        (String::new(), [viewer, viewer, viewer]),
        ("default_role = \"admin\"".to_owned(), [admin, admin, admin]),
        (lists.to_owned(), [admin, viewer, None]),
        (format!("{lists}default_role = \"viewer\""), [admin, viewer, viewer]),
        ("admin_values = [\"ops\"]".to_owned(), [admin, None, None]),
    ] {
        let proxy = with(&lines);
        let given = [&["x", "staff", "ops"][..], &["staff"], &["OPS", "ops staff", ""]];
        assert_eq!(given.map(|values| proxy.role(values)), roles, "{lines}");
    }
}

#[test]
fn a_section_that_cannot_work_is_refused_with_its_line() {
    assert_eq!(
        error("[\"10.0.7.0/24\", \"::1\", \"::ffff:192.0.2.1\"]", "[\"127.0.0.1\", \"::/0\"]"),
        "proxy_sign_in.addresses[1] = \"::/0\" (in antiphon.toml, line 3): must not be everybody: whoever connects from \
         there can call themselves what they like"
    );
    assert_eq!(
        error("X-Forwarded-User", "Authorization"),
        "proxy_sign_in.header = \"Authorization\" (in antiphon.toml, line 2): must be a header that only the proxy sets; \
         clients send this one themselves"
    );
    for header in ["cookie", "Host", "x-forwarded-for", "Sec-Fetch-Site", "x-api-key"] {
        assert!(error("X-Forwarded-User", header).contains("must be a header that only the proxy sets"));
    }
    for header in ["", "x user", "x-üser"] {
        assert!(error("X-Forwarded-User", header).contains("must be the name of a header"), "{header}");
    }
    for address in ["", "localhost", "10.0.7.0/33", "10.0.7", "10.0.7.1:80", "*"] {
        assert!(error("::1", address).contains("must be an IP address or a network"), "{address}");
    }
    assert!(error("10.0.7.0/24", "0.0.0.0/0").contains("must not be everybody"));
    assert!(error("[\"10.0.7.0/24\", \"::1\", \"::ffff:192.0.2.1\"]", "[]").contains("must be set to where"));
    let more = |lines: &str| Case::file(&format!("{VALID}{lines}")).error();
    assert!(more("role_header = \"x-groups\"").contains("role_header decides nothing"));
    let admins = "admin_values = [\"ops\"]";
    assert!(
        more(&format!("role_header = \"x-forwarded-USER\"\n{admins}")).contains("must be another header")
    );
    assert!(more(&format!("role_header = \"cookie\"\n{admins}")).contains("proxy_sign_in.role_header"));
    assert!(more("viewer_values = [\" \"]").contains("must not contain empty values"));
    assert!(more("role_header = \"x-groups\"\nadmin_values = [\"a,b\"]").contains("must not contain commas"));
    assert!(more("default_role = \"none\"").contains("must be \"viewer\" or \"admin\""));
    assert!(more("color = 1").contains("proxy_sign_in.color (in antiphon.toml, line 4): unknown key"));
    assert!(Case::file("proxy_sign_in = {}").error().contains("proxy_sign_in.header"));
}
