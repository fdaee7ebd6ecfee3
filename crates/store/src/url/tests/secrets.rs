//! Credentials never appear in errors, wherever they are in a URL.

use proptest::prelude::*;

use super::*;

const SECRET: &str = "hunter2";

fn shown(result: &Result<StoreUrl, StoreUrlError>) -> String {
    match result {
        Ok(StoreUrl::Postgres(target)) => {
            let url = StoreUrl::Postgres(target.clone());
            format!("{target} {target:?} {url} {url:?}")
        }
        Ok(url) => format!("{url} {url:?}"),
        Err(error) => format!("{error} {error:?}"),
    }
}

#[test]
fn credentials_are_never_shown() {
    let logins =
        ["hunter2", "u:hunter2", "hunter2:hunter2", ":hunter2", "u:hunter2@x", "u:x/hunter2", "u:x#hunter2"]
            .map(|login| format!("{login}@"));
    let logins =
        logins.iter().map(String::as_str).chain(["u:x?hunter2@", "u:x?y=hunter2@", "u:%hunter2@", ""]);
    let rests = [
        "h/d",
        "h",
        "",
        "/d",
        "h:1/d",
        "h:x/d",
        "h:0/d",
        "h,i/d",
        "[::1/d",
        "127.1/d",
        "169.254.169.254/d",
        "h/d/e",
        "h/d?password=hunter2",
        "h/d?user=hunter2&password=hunter2",
        "h/d?sslmode=hunter2",
        "h/d?port=hunter2",
        "h/d?sslmode=allow",
        "h/d?options=hunter2",
        "h/d?nonsense=hunter2",
        "h/d?application_name=%hunter2",
        "h/d?hostaddr=hunter2",
        "h/d?connect_timeout=hunter2",
        "h/d?sslpassword=hunter2",
        "h/d?host=hunter2",
        "h/d?sslcert=hunter2",
        "h/d?sslrootcert=hunter2",
        "h/d?password=hunter2&password=hunter2",
        "h/d#hunter2",
    ];
    for login in logins {
        for rest in rests {
            for scheme in ["postgres", "postgresql", "sqlite", "mysql"] {
                let text = format!("{scheme}://{login}{rest}");
                for network in [Network::Any, Network::Public, Network::Private] {
                    let parsed = StoreUrl::parse(&text, network);
                    if let Ok(StoreUrl::Sqlite(_)) = parsed {
                        // A path is no secret.
                        continue;
                    }
                    let shown = shown(&parsed);
                    assert!(!shown.contains(SECRET), "{text}: {shown}");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn no_password_is_shown_however_it_is_written(
        before in "[a-zA-Z0-9:/?#@%&=+.,\\[\\] -]{0,6}",
        after in "[a-zA-Z0-9:/?#@%&=+.,\\[\\] -]{0,6}",
        tail in "(|:5432)(|/d)(|\\?sslmode=(require|allow)|\\?nonsense=1)",
    ) {
        let text = format!("postgres://user:{before}{SECRET}{after}@db.example.com{tail}");
        let shown = shown(&parse(&text));
        prop_assert!(!shown.contains(SECRET), "{}: {}", text, shown);
    }
}
