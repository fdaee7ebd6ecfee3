//! What an ID token says: who somebody is, and which role they have.

use antiphon_access::admin::Role;
use antiphon_access::sessions::Identity;
use antiphon_config::OidcConfig;
use openidconnect::core::CoreGenderClaim;
use openidconnect::{AdditionalClaims, IdTokenClaims};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Names are shortened, as they are shown in lists and kept in the audit log for good.
const MAX_NAME_CHARS: usize = 200;

pub(super) type Claims = Map<String, Value>;

/// Claims without a meaning in OpenID Connect, such as groups.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct OtherClaims(Claims);

impl AdditionalClaims for OtherClaims {}

/// All claims of a token by their names.
pub(super) fn all(claims: &IdTokenClaims<OtherClaims, CoreGenderClaim>) -> Option<Claims> {
    match serde_json::to_value(claims) {
        Ok(Value::Object(claims)) => Some(claims),
        _ => None,
    }
}

/// The role that the configured claim gives. It is text or a list of texts; anything else gives none.
pub(super) fn role(claims: &Claims, config: &OidcConfig) -> Option<Role> {
    let values: Vec<&str> = match claim(claims, &config.role_claim)? {
        Value::String(text) => vec![text],
        Value::Array(values) => values.iter().filter_map(Value::as_str).collect(),
        _ => return None,
    };
    let has_any = |wanted: &[String]| wanted.iter().any(|wanted| values.contains(&wanted.as_str()));
    if has_any(&config.admin_values) {
        Some(Role::Admin)
    } else {
        has_any(&config.viewer_values).then_some(Role::Viewer)
    }
}

/// A claim by its name, or by its path in other claims. An address that the provider has not verified is no claim, as people
/// can choose it.
fn claim<'a>(claims: &'a Claims, name: &str) -> Option<&'a Value> {
    if name == "email" {
        return claims.get(name).filter(|_| claims.get("email_verified") == Some(&Value::Bool(true)));
    }
    claims.get(name).or_else(|| {
        let (first, rest) = name.split_once('.')?;
        rest.split('.').try_fold(claims.get(first)?, |claim, name| claim.get(name))
    })
}

/// Who it is. The address or the name is for people to read; only the subject is sure to stay the same.
pub(super) fn identity(claims: &Claims) -> Identity {
    let text = |name| claim(claims, name).and_then(Value::as_str).map(printable);
    let subject = text("sub").unwrap_or_default();
    let names = ["email", "preferred_username"].into_iter().filter_map(text);
    let name = names.into_iter().find(|name| !name.is_empty()).unwrap_or_else(|| subject.clone());
    Identity { subject, name }
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_NAME_CHARS).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use antiphon_config::{Config, Environment, Overrides};

    fn config(role_claim: &str) -> OidcConfig {
        let text = format!(
            "store.url = \"sqlite::memory:\"\n[oidc]\nissuer = \"https://id.example\"\nclient_id = \"c\"\n\
             client_secret = {{ value = \"s\" }}\npublic_url = \"https://gateway.example\"\nrole_claim = \"{role_claim}\"\n\
             admin_values = [\"ops\", \"root\"]\nviewer_values = [\"staff\"]"
        );
        let file = Some((std::path::Path::new("antiphon.toml"), text.as_str()));
        let environment = Environment::default();
        let config =
            Config::parse(file, std::path::Path::new("/"), &environment, Overrides::default()).unwrap();
        config.oidc.unwrap()
    }

    fn role_of(role_claim: &str, claims: &Value) -> Option<Role> {
        role(claims.as_object().unwrap(), &config(role_claim))
    }

    #[test]
    fn only_listed_values_give_a_role() {
        for (groups, expected) in [
            (json!(["staff", "ops"]), Some(Role::Admin)),
            (json!(["staff"]), Some(Role::Viewer)),
            (json!("root"), Some(Role::Admin)),
            (json!("staff"), Some(Role::Viewer)),
            (json!(["x", 7, null, ["ops"], {"ops": true}]), None),
            (json!([]), None),
            (json!(""), None),
            (json!("ops staff"), None),
            (json!("OPS"), None),
            (json!(true), None),
            (json!({"ops": "ops"}), None),
            (json!(null), None),
        ] {
            assert_eq!(role_of("groups", &json!({"groups": groups})), expected, "{groups}");
        }
        assert_eq!(role_of("groups", &json!({"roles": ["ops"]})), None);
    }

    #[test]
    fn a_claim_may_be_inside_of_another_one() {
        let nested = json!({"realm_access": {"roles": ["ops"]}});
        assert_eq!(role_of("realm_access.roles", &nested), Some(Role::Admin));
        assert_eq!(role_of("realm_access.roles.more", &nested), None);
        let named = json!({"https://id.example/roles": ["staff"]});
        assert_eq!(role_of("https://id.example/roles", &named), Some(Role::Viewer));
    }

    #[test]
    fn an_address_counts_only_if_the_provider_has_verified_it() {
        for (verified, expected) in [
            (json!(true), Some(Role::Admin)),
            (json!(false), None),
            (json!(null), None),
            (json!("true"), None),
        ] {
            let claims = json!({"sub": "7", "email": "ops", "email_verified": verified});
            assert_eq!(role_of("email", &claims), expected, "{verified}");
            let name = identity(claims.as_object().unwrap()).name;
            assert_eq!(name, if expected.is_some() { "ops" } else { "7" });
        }
    }

    #[test]
    fn names_are_short_and_printable() {
        let long = "ü".repeat(500);
        for (name, shown) in [("a\u{1b}[2J\nb", "a[2Jb"), ("\u{7f}", "sub"), (&long, &long[..400])] {
            let claims = json!({"sub": "sub", "preferred_username": name});
            assert_eq!(identity(claims.as_object().unwrap()).name, shown);
        }
    }
}
