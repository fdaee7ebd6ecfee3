//! Configuration files: what is accepted is shown in a form that is accepted again, without a secret.

use std::path::Path;

use antiphon_config::{Config, ConfigError, Environment, Overrides};
use antiphon_upstream::account::Account;
use secrecy::ExposeSecret;

/// Nothing is there, so that no credential is read from a file.
const DIRECTORY: &str = "/nonexistent";
const ENVIRONMENT_KEY: &str = "sk-of-the-environment";

pub fn check(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    // A device may never end.
    if text.contains("/dev") || text.contains("/proc") {
        return;
    }
    match load(text) {
        Ok(config) => check_accepted(&config, text),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn load(text: &str) -> Result<Config, ConfigError> {
    let environment = Environment::from_iter([("HOME", "/home/ada"), ("A_KEY", ENVIRONMENT_KEY)]);
    let file = (Path::new("antiphon.toml"), text);
    Config::parse(Some(file), Path::new(DIRECTORY), &environment, Overrides::default())
}

fn check_accepted(config: &Config, text: &str) {
    let shown = config.show();
    let spaced = load(&format!("\n# first\n{text}\n\n# last\n"));
    assert_eq!(spaced.map(|spaced| spaced.show()).ok().as_ref(), Some(&shown), "comments make a difference");
    // Parameters of a database's URL are hidden altogether: nothing is one that can be accepted.
    let without_parameters = |shown: &str| shown.replace("?<redacted>", "");
    let again = load(&without_parameters(&shown));
    let again = again.unwrap_or_else(|error| panic!("what is shown is refused: {error}\n{shown}"));
    assert_eq!(again.show(), without_parameters(&shown));
    assert_eq!(again.show_json(), without_parameters(&config.show_json()));
    check_secrets(config, &shown, text);
    // What a gateway makes of it, before it opens anything.
    let _ = (config.store.options(), config.store.target().map(|url| url.to_string()));
    for account in &config.accounts {
        let _ = Account::new(account.settings());
    }
}

/// A key that stands in the text once, as a key, is not shown.
fn check_secrets(config: &Config, shown: &str, text: &str) {
    let printed = [shown.to_owned(), config.show_json(), format!("{config:?}")];
    for key in config.accounts.iter().filter_map(|account| account.api_key.as_ref()) {
        let secret = key.secret().expose_secret();
        let uses = if secret == ENVIRONMENT_KEY { 0 } else { 1 };
        let is_telling =
            secret.starts_with("sk-") && secret.len() >= 8 && text.matches(secret).count() <= uses;
        let shows = |printed: &String| printed.contains(secret);
        assert!(!is_telling || !printed.iter().any(shows), "a secret is shown");
    }
}
