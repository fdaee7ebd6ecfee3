use std::path::Path;

use super::super::Config;
use super::Case;

#[test]
fn a_named_file_must_exist() {
    let expected = "cannot read the configuration file missing.toml: No such file or directory (os error 2)";
    assert_eq!(Case::empty().error_from(Some("missing.toml")), expected);
    assert_eq!(Case::empty().variable("ANTIPHON_CONFIG", "missing.toml").error(), expected);
}

#[test]
fn invalid_toml_is_reported_with_its_line_and_column() {
    assert_eq!(
        Case::file("listen = \"127.0.0.1:1\"\n[store]\nurl = sqlite\n").error(),
        "antiphon.toml is not valid TOML at line 3, column 7: invalid string, expected `\"`, `'`"
    );
}

#[test]
fn an_unknown_key_is_reported_with_the_known_keys() {
    assert_eq!(
        Case::file("[store]\nretentoin = \"1d\"").error(),
        "store.retentoin (in antiphon.toml, line 2): unknown key; did you mean store.retention? Known keys: url, \
         migration_url, migrate, key_file, network, retention, conversation_retention, durability, commit_timeout, read_timeout, read_connections, \
         write_connections, cache, purge_interval"
    );
    assert_eq!(
        Case::file("colour = 1").error(),
        "colour (in antiphon.toml, line 1): unknown key. Known keys: listen, admin_listen, dashboard, auth, allowed_hosts, store, accounts, routing, limits, \
         timeouts, turns, background, sockets, usage, log, tls, traces, oidc, proxy_sign_in, prices, projects"
    );
}

#[test]
fn a_variable_with_one_underscore_too_few_is_recognised() {
    assert_eq!(
        Case::empty().variable("ANTIPHON_STORE_URL", "sqlite://x").error(),
        "store_url (environment variable ANTIPHON_STORE_URL): unknown key; did you mean store.url (as a variable \
         ANTIPHON_STORE__URL)? Known keys: listen, admin_listen, dashboard, auth, allowed_hosts, store, accounts, routing, limits, timeouts, turns, background, sockets, usage, log, tls, traces, oidc, proxy_sign_in, prices, projects"
    );
}

#[test]
fn a_value_of_the_wrong_type_is_reported_with_the_rule() {
    assert_eq!(
        Case::file("[store]\nretention = \"30 parsecs\"").error(),
        "store.retention = \"30 parsecs\" (in antiphon.toml, line 2): must be a duration such as \"30d\", above zero and at most \
         \"36500d\", or \"forever\""
    );
    assert_eq!(
        Case::empty().variable("ANTIPHON_LIMITS__MAX_BODY", "lots").error(),
        "limits.max_body = \"lots\" (environment variable ANTIPHON_LIMITS__MAX_BODY): must be a size in bytes such as \
         1048576, \"64MiB\" or \"10MB\", at most 1024 TiB"
    );
    assert_eq!(
        Case::file("[limits]\nmax_chain_depth = 0").error(),
        "limits.max_chain_depth = 0 (in antiphon.toml, line 2): must be a whole number from 1 to 1000000"
    );
    assert_eq!(
        Case::file("[turns]\non_disconnect = 0").error(),
        "turns.on_disconnect = 0 (in antiphon.toml, line 2): must be \"finish\" or \"cancel\""
    );
    assert_eq!(
        Case::file("listen = \"localhost:8080\"").error(),
        "listen = \"localhost:8080\" (in antiphon.toml, line 1): must be an IP address and a port such as \"127.0.0.1:8080\" or \
         \"[::1]:8080\""
    );
    assert_eq!(
        Case::empty().variable("ANTIPHON_LOG", "debug").error(),
        "log (environment variable ANTIPHON_LOG): must be a table"
    );
}

#[test]
fn zero_timeouts_are_rejected() {
    assert_eq!(
        Case::file("[timeouts]\nidle = \"0s\"").error(),
        "timeouts.idle = \"0s\" (in antiphon.toml, line 2): must be a duration such as \"30s\" or \"5m\", above zero and at most \
         \"365d\""
    );
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = "listen = 1\nauth = \"open\"\n[log]\nformat = \"xml\"\nlevel = \"info\"\n[[accounts]]\nnom = \"a\"\n\
                [[accounts]]\nmodels = [\"a\", 2]\n";
    assert_eq!(
        Case::file(text).error(),
        "9 problems in the configuration:
  listen = 1 (in antiphon.toml, line 1): must be an IP address and a port such as \"127.0.0.1:8080\" or \"[::1]:8080\"
  auth = \"open\" (in antiphon.toml, line 2): must be \"none\"
  log.format = \"xml\" (in antiphon.toml, line 4): must be \"text\" or \"json\"
  log.level (in antiphon.toml, line 5): unknown key. Known keys: format, filter
  accounts[0].base_url (in antiphon.toml, line 6): must be an http or https URL such as \"https://api.openai.com/v1\"
  accounts[0].nom (in antiphon.toml, line 7): unknown key; did you mean accounts[0].name? Known keys: name, base_url, api_key, \
oauth, models, boundary, aliases, headers, query, proxy, ca_file, api, chat, transport, stream_only, state, background, replay_ids, priority, weight, max_in_flight
  accounts[1].name (in antiphon.toml, line 8): must be 1 to 64 characters of A-Z a-z 0-9 _ . -, and neither . nor ..
  accounts[1].base_url (in antiphon.toml, line 8): must be an http or https URL such as \"https://api.openai.com/v1\"
  accounts[1].models[1] = 2 (in antiphon.toml, line 9): must be a string"
    );
}

#[test]
fn both_listeners_cannot_share_an_address() {
    assert_eq!(
        Case::file("admin_listen = \"127.0.0.1:8080\"").error(),
        "admin_listen = \"127.0.0.1:8080\" (in antiphon.toml, line 1): must differ from listen; leave it out to serve both on one \
         address"
    );
    Case::file("listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"").load();
}

#[test]
fn body_memory_must_fit_at_least_one_body() {
    assert_eq!(
        Case::file("[limits]\nmax_body = \"2GiB\"").error(),
        "limits.body_memory (in antiphon.toml, line 1): is 1GiB and must be at least limits.max_body, which is 2GiB"
    );
}

#[test]
fn a_price_requires_a_model_and_a_decimal_number() {
    assert_eq!(
        Case::file("[[prices]]\nmodel = \"a b\"\noutput = 1").error(),
        "2 problems in the configuration:
  prices[0].input (in antiphon.toml, line 1): must be set; use 0 for tokens that are free
  prices[0].model = \"a b\" (in antiphon.toml, line 2): must be a model name or a pattern with * (any characters) and ? (one \
character), such as \"gpt-*\""
    );
    for wrong in ["-1", "\"1,5\"", "1e7", "true"] {
        let error = Case::file(&format!("[[prices]]\nmodel = \"m\"\ninput = {wrong}\noutput = 1")).error();
        assert!(error.contains("must be a price in US dollars"), "{error}");
    }
}

#[test]
fn coarser_usage_must_be_kept_at_least_as_long_as_finer_usage() {
    assert_eq!(
        Case::file("[usage]\nraw_retention = \"100d\"").error(),
        "usage.hour_retention (in antiphon.toml, line 1): must be at least usage.raw_retention, which is 100d"
    );
    assert_eq!(
        Case::file("[usage]\nhour_retention = \"forever\"").error(),
        "usage.day_retention (in antiphon.toml, line 1): must be at least usage.hour_retention, which is forever"
    );
    let all = "raw_retention = \"forever\"\nhour_retention = \"forever\"\nday_retention = \"forever\"";
    Case::file(&format!("[usage]\n{all}")).load();
}

#[test]
fn store_url_is_required_without_a_home_directory() {
    assert_eq!(
        Case::empty().variable("HOME", "").error(),
        "store.url (default): must be set, such as \"sqlite://antiphon.db\": there is no default because neither \
         XDG_DATA_HOME nor HOME is set"
    );
    Case::empty().variable("HOME", "").variable("ANTIPHON_STORE__URL", "sqlite://x.db").load();
}

#[test]
fn accounts_require_a_unique_name_and_a_plain_url() {
    let text = "[[accounts]]\nname = \"a\"\nbase_url = \"ftp://x\"\n[[accounts]]\nname = \"a\"\n\
                base_url = \"https://x/v1/responses\"\nmodels = [\"gpt-[45]\"]\nboundary = \"\"\n\
                [[accounts]]\nname = \"b c\"\nmodels = []\n";
    assert_eq!(
        Case::file(text).error(),
        "8 problems in the configuration:
  accounts[0].base_url = \"ftp://x\" (in antiphon.toml, line 3): must be an http or https URL such as \"https://api.openai.com/v1\"
  accounts[1].name = \"a\" (in antiphon.toml, line 5): is already the name of accounts[0]
  accounts[1].base_url = \"https://x/v1/responses\" (in antiphon.toml, line 6): must not include /responses, which Antiphon \
appends: write base_url = \"https://x/v1\"
  accounts[1].models[0] = \"gpt-[45]\" (in antiphon.toml, line 7): must be a model name or a pattern with * (any characters) \
and ? (one character), such as \"gpt-*\"
  accounts[1].boundary = \"\" (in antiphon.toml, line 8): must be 1 to 64 characters of A-Z a-z 0-9 _ . -, and neither . nor ..
  accounts[2].base_url (in antiphon.toml, line 9): must be an http or https URL such as \"https://api.openai.com/v1\"
  accounts[2].name = \"b c\" (in antiphon.toml, line 10): must be 1 to 64 characters of A-Z a-z 0-9 _ . -, and neither . nor ..
  accounts[2].models (in antiphon.toml, line 11): must not be empty; leave it out to offer all models"
    );
}

#[test]
fn no_account_has_a_name_that_no_url_can_contain() {
    for name in [".", ".."] {
        let text = format!("[[accounts]]\nname = \"{name}\"\nbase_url = \"https://x/v1\"\n");
        assert!(Case::file(&text).error().contains("neither . nor .."));
    }
}

#[test]
fn a_bad_url_from_the_openai_variable_names_that_variable() {
    assert_eq!(
        Case::empty().variable("OPENAI_BASE_URL", "api.example").error(),
        "accounts[0].base_url = \"api.example\" (environment variable OPENAI_BASE_URL): must be an http or https URL such as \
         \"https://api.openai.com/v1\": write \"https://api.example\""
    );
}

#[test]
fn invalid_project_limits_are_reported() {
    let error = |limits: &str| Case::file(&format!("[projects.team]\nlimits = {limits}")).error();
    assert!(
        error("{ rpm = 1 }").contains("projects.team.limits (in antiphon.toml, line 2): unknown field `rpm`")
    );
    let zero = error("{ budgets = [{ tokens = 0, window = \"day\" }] }");
    assert!(zero.contains("the limit of tokens per day must be from 1 to"), "{zero}");
    let name = Case::file("[projects.\"a b\"]\nlimits = { concurrent_turns = 1 }").error();
    assert!(
        name.contains("is not a valid project name: use 1 to 64 characters of A-Z a-z 0-9 _ . -"),
        "{name}"
    );
}

#[test]
fn serving_requires_an_account() {
    assert_eq!(
        Config::default().require_accounts().unwrap_err().to_string(),
        "no account is configured: set OPENAI_API_KEY (and OPENAI_BASE_URL for an upstream other than OpenAI), or add an \
         [[accounts]] section to the configuration file"
    );
}

#[test]
fn an_account_has_one_credential_and_oauth_requires_a_key_file_and_all_its_fields() {
    let oauth = r#"oauth = { token_url = "https://a/t", client_id = "c", refresh_token = { value = "r" } }"#;
    let account = |lines: &str| format!("[[accounts]]\nname = \"a\"\nbase_url = \"http://a\"\n{lines}\n");
    let both = Case::file(&account(&format!("api_key = {{ value = \"k\" }}\n{oauth}")));
    assert!(
        both.error()
            .contains("accounts[0].oauth (in antiphon.toml, line 5): cannot be combined with api_key")
    );
    for url in ["postgres://u@h/d", "sqlite::memory:"] {
        let error = Case::file(&format!("store.url = \"{url}\"\n{}", account(oauth))).error();
        assert!(error.starts_with("store.key_file"), "{error}");
    }
    let empty = Case::file(&account("oauth = { }")).error();
    for key in ["token_url", "client_id", "refresh_token"] {
        assert!(empty.contains(&format!("accounts[0].oauth.{key}")), "{empty}");
    }
    let login = oauth.replace("https://a", "https://u:p@a");
    assert!(Case::file(&account(&login)).error().contains("token_url"));
    let config = Case::file(&account(oauth)).load();
    assert_eq!(config.store.key_file().unwrap(), Path::new("/home/ada/.local/share/antiphon/antiphon.key"));
    assert!(!config.show().contains("\"r\""), "{}", config.show());
}

#[test]
fn an_account_with_chat_completions_has_neither_sockets_nor_state_nor_encrypted_items() {
    let text = "[[accounts]]\nname = \"a\"\nbase_url = \"https://x/v1\"\nboundary = \"one\"\n\
                [[accounts]]\nname = \"b\"\nbase_url = \"https://y/v1\"\nboundary = \"one\"\napi = \"chat\"\n\
                transport = \"auto\"\nstate = \"native\"\nbackground = \"native\"\n\
                [[accounts]]\nname = \"c\"\nbase_url = \"https://z/v1/chat/completions\"\n";
    assert_eq!(
        Case::file(text).error(),
        "5 problems in the configuration:
  accounts[1].boundary = \"one\" (in antiphon.toml, line 8): must differ from that of \"a\", whose encrypted items an account \
with api = \"chat\" can't read
  accounts[1].transport = \"auto\" (in antiphon.toml, line 10): must be \"http\" with api = \"chat\"
  accounts[1].state = \"native\" (in antiphon.toml, line 11): must be \"replay\" with api = \"chat\": chat completions store no \
responses
  accounts[1].background = \"native\" (in antiphon.toml, line 12): must be \"gateway\" with api = \"chat\": chat completions run \
nothing in the background
  accounts[2].base_url = \"https://z/v1/chat/completions\" (in antiphon.toml, line 15): must not include /chat/completions, \
which Antiphon appends: write base_url = \"https://z/v1\" and api = \"chat\""
    );
}

#[test]
fn the_api_is_found_out_unless_the_address_or_the_configuration_tells_it() {
    let api = |url: &str, lines: &str| {
        let config =
            Case::file(&format!("[[accounts]]\nname = \"a\"\nbase_url = \"{url}\"\n{lines}\n")).load();
        config.accounts[0].settings().shown["api"].as_str().unwrap().to_owned()
    };
    for (url, lines, expected) in [
        ("http://127.0.0.1:11434/v1", "", "auto"),
        ("https://openai.com.example/v1", "", "auto"),
        ("https://api.openai.com/v1", "", "responses"),
        ("https://x.openai.azure.com/openai/v1", "", "responses"),
        ("https://chatgpt.com/backend-api/codex", "", "responses"),
        ("https://x/v1", "transport = \"auto\"", "responses"),
        ("https://x/v1", "state = \"native\"", "responses"),
        ("https://x/v1", "api = \"chat\"", "chat"),
        ("https://api.openai.com/v1", "api = \"auto\"", "auto"),
    ] {
        assert_eq!(api(url, lines), expected, "{url} {lines}");
    }
    let sockets =
        "[[accounts]]\nname = \"a\"\nbase_url = \"https://x/v1\"\napi = \"auto\"\ntransport = \"auto\"\n";
    assert!(Case::file(sockets).error().ends_with("must be \"http\" with api = \"auto\""));
}

#[test]
fn a_proxy_and_a_file_of_authorities_are_checked_without_showing_a_password() {
    let account = |lines: &str| {
        Case::file(&format!("[[accounts]]\nname = \"a\"\nbase_url = \"https://x/v1\"\n{lines}\n"))
    };
    let rule = "must be the URL of an HTTP proxy such as \"http://proxy.example:3128\", or \"direct\"";
    assert_eq!(
        account("proxy = \"socks5://ada:secret@p:1\"").error(),
        format!("accounts[0].proxy (in antiphon.toml, line 4): {rule}")
    );
    let error = account("").variable("HTTPS_PROXY", "socks5://ada:secret@p:1").error();
    assert!(error.contains(&format!("environment variable HTTPS_PROXY: {rule}")), "{error}");
    assert!(!error.contains("secret"), "{error}");
    account("proxy = \"direct\"").variable("HTTPS_PROXY", "socks5://p:1").load();
    assert!(account("ca_file = \"none.pem\"").error().contains("cannot read file: No such file"));
    let empty = account("ca_file = \"empty.pem\"");
    empty.write("empty.pem", "nothing");
    assert!(empty.error().ends_with("is no file of certificates: it has no certificate in PEM format"));
    let shown = account("proxy = \"http://ada:secret@p:3128\"\nca_file = \"ca.pem\"").load().show();
    assert!(
        shown.contains("proxy = \"http://p:3128\"\nca_file = \"ca.pem\"") && !shown.contains("secret"),
        "{shown}"
    );
}
