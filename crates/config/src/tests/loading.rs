use std::collections::BTreeSet;
use std::time::Duration;

use secrecy::ExposeSecret;

use antiphon_protocol::replay::ReplayIds;
use antiphon_upstream::settings::Strategy;

use super::super::{Auth, Config, Durability, OnDisconnect, Retention};
use super::Case;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/antiphon.example.toml");

/// Every key with a value that is not its default.
const EVERYTHING: &str = r#"
listen = "127.0.0.1:9000"
admin_listen = "[::1]:9001"
dashboard = false
auth = "none"
allowed_hosts = ["box.lan"]

[store]
url = "sqlite://other.db"
network = "private"
retention = "forever"
conversation_retention = "90d"
durability = "normal"
commit_timeout = "1500ms"
migration_url = "postgres://u@h/d"
migrate = "manual"
key_file = "tokens.key"
read_timeout = "2s"
read_connections = 9
write_connections = 1
cache = 0
purge_interval = "90s"

[[accounts]]
name = "a"
base_url = "https://one.example/v1/"
api_key = { value = "sk-literal" }
models = ["gpt-*", "o?"]
boundary = "shared"
aliases = { "gpt-5" = "mine" }
headers = { "X-Org" = "org", "api-key" = { value = "sk-literal" }, "x-token" = "tok" }
query = { "api.version" = "1 2" }
proxy = "http://ada:sk-literal@proxy.example:3128"
ca_file = "ca.pem"
transport = "auto"
stream_only = true
chat = { unsupported_tools = "reject", reasoning_as = "summary", think_tags = true, merge_system = true }
state = "native"
background = "native"
replay_ids = "keep"
priority = 2
weight = 3
max_in_flight = 4

[[accounts]]
name = "b"
base_url = "http://127.0.0.1:11434"

[accounts.oauth]
token_url = "https://auth.example/token"
client_id = "c"
client_secret = { value = "sk-literal" }
refresh_token = { value = "sk-literal" }
scope = "a b"
headers = { x-tenant = "t" }

[routing]
strategy = "fill_first"
max_queued = 5
queue_timeout = "2s"
patience = "3s"
probe_interval = "3s"

[limits]
max_body = "10 MB"
memory = "3GiB"
body_memory = 20000000
max_chain_depth = 7
max_history = "1GiB"
max_conversation_items = 7
max_conversation = "7MiB"
max_project_conversations = "8MiB"
max_connections = 8
assumed_output_tokens = 7

[timeouts]
connect = "1s"
first_byte = "1m 30s"
idle = "3s"
keep_alive = "4s"
turn = "4h"
header_read = "5s"
body_read = "6s"
write_stall = "7s"
shutdown = "1d"

[turns]
on_disconnect = "cancel"
finish_timeout = "9s"

[background]
max_running = 5
max_queued = 6
max_queued_bytes = "7MiB"
max_duration = "7h"
log_retention = "8h"
retries = 0
lease = "9s"

[sockets]
enabled = false
max_age = "10m"
ping_interval = "11s"
memory = "1MiB"

[usage]
raw_retention = "10d"
hour_retention = "20d"
day_retention = "forever"

[[prices]]
model = "my-*"
input = 1
cached_input = 0.125
output = "4.5"
reasoning = 3.75

[projects.team]
limits = { requests_per_minute = 6, budgets = [{ cost = 2.5, window = "month" }] }

[log]
format = "json"
filter = "debug,antiphon[turn{model=\"sim\"}]=info"

[tls]
certificate = "/etc/antiphon/fullchain.pem"
key = "/etc/antiphon/key.pem"
client_ca = "/etc/antiphon/clients.pem"

[traces]
endpoint = "https://collector.example/otlp"
headers = { authorization = { value = "sk-literal" } }
sample_ratio = 0.25
service_name = "gateway"
trust_parent = true

[oidc]
issuer = "https://id.example/realm"
client_id = "gateway"
client_secret = { value = "sk-literal" }
public_url = "https://gateway.example"
scopes = ["groups"]
role_claim = "roles"
admin_values = ["ops"]
viewer_values = ["staff"]
proxy = "direct"
ca_file = "ca.pem"

[proxy_sign_in]
header = "x-forwarded-user"
addresses = ["10.0.0.7/32", "fd00::/8"]
role_header = "x-forwarded-groups"
admin_values = ["ops"]
viewer_values = ["staff"]
default_role = "viewer"
"#;

fn keys(config: &Config) -> BTreeSet<String> {
    let toml = config.show();
    toml.lines().filter_map(|line| Some(line.split_once(" = ")?.0.to_owned())).collect()
}

#[test]
fn an_empty_configuration_uses_the_defaults_and_a_database_in_the_home_directory() {
    let loaded = Case::empty().load_from(None).unwrap();
    assert_eq!(loaded.source, None);
    assert_eq!(loaded.config.store.url.expose(), "sqlite:///home/ada/.local/share/antiphon/antiphon.db");
    let url = format!("url = {:?}\n", loaded.config.store.url.expose());
    assert_eq!(
        loaded.config.show().replace(&url, "url = \"sqlite://antiphon.db\"\n"),
        Config::default().show()
    );
}

#[test]
fn an_absolute_data_directory_is_used() {
    let case = Case::empty().variable("XDG_DATA_HOME", "/data");
    assert_eq!(case.load().store.url.expose(), "sqlite:///data/antiphon/antiphon.db");
    let case = Case::empty().variable("XDG_DATA_HOME", "data");
    assert_eq!(case.load().store.url.expose(), "sqlite:///home/ada/.local/share/antiphon/antiphon.db");
}

#[test]
fn a_boolean_can_be_set_by_a_variable() {
    assert!(Case::empty().load().sockets.enabled);
    assert!(!Case::empty().variable("ANTIPHON_SOCKETS__ENABLED", "false").load().sockets.enabled);
    assert_eq!(
        Case::empty().variable("ANTIPHON_SOCKETS__ENABLED", "maybe").error(),
        "sockets.enabled = \"maybe\" (environment variable ANTIPHON_SOCKETS__ENABLED): must be true or false"
    );
}

#[test]
fn every_key_can_be_set_in_the_file() {
    let config = Case::file(EVERYTHING).load();
    assert_eq!(config.admin_listen, Some("[::1]:9001".parse().unwrap()));
    assert_eq!(config.auth, Some(Auth::None));
    assert_eq!(config.store.retention, Retention::Forever);
    assert_eq!(config.store.durability, Durability::Normal);
    assert_eq!(config.store.commit_timeout, Duration::from_millis(1500));
    assert_eq!(config.store.cache, 0);
    let options = config.store.options().unwrap();
    assert_eq!((options.read_connections, options.write_connections), (9, 1));
    assert_eq!(options.migrate, antiphon_store::Migrate::Manual);
    assert_eq!(config.accounts[0].base_url.as_str(), "https://one.example/v1");
    assert_eq!(config.accounts[0].api_key.as_ref().unwrap().secret().expose_secret(), "sk-literal");
    assert_eq!(config.accounts[0].boundary, "shared");
    assert_eq!(config.accounts[0].replay_ids, ReplayIds::Keep);
    assert!(config.accounts[0].models[1].matches("o3") && !config.accounts[0].models[1].matches("o3-mini"));
    assert_eq!(config.accounts[1].boundary, "b");
    assert!(config.accounts[1].api_key.is_none() && config.accounts[1].models.is_empty());
    let account = &config.accounts[0];
    assert_eq!((account.aliases["gpt-5"].as_str(), account.stream_only), ("mine", true));
    let headers: Vec<_> =
        account.headers.to_map().into_iter().map(|(name, value)| (name.unwrap(), value)).collect();
    assert_eq!((headers.len(), headers[1].0.as_str(), headers[1].1.to_str().unwrap()), (3, "x-org", "org"));
    assert!(!headers[1].1.is_sensitive() && headers[0].1.is_sensitive() && headers[2].1.is_sensitive());
    let shown = r#"headers = { api-key = { value = "<redacted>" }, x-org = "org", x-token = "<redacted>" }"#;
    assert!(config.show().contains(shown), "{}", config.show());
    assert!(config.show().contains(r#"query = { "api.version" = "1 2" }"#), "{}", config.show());
    assert_eq!((account.priority, account.weight, account.max_in_flight), (2, 3, Some(4)));
    assert_eq!((config.accounts[1].priority, config.accounts[1].weight), (0, 1));
    assert_eq!(config.routing.strategy, Strategy::FillFirst);
    assert_eq!(config.routing.max_queued, 5);
    assert_eq!(config.limits.max_body, 10_000_000);
    assert_eq!(config.limits.max_chain_depth, 7);
    assert_eq!(config.timeouts.first_byte, Duration::from_secs(90));
    assert_eq!(config.turns.on_disconnect, OnDisconnect::Cancel);
    assert_eq!(config.log.filter, "debug,antiphon[turn{model=\"sim\"}]=info");
    let (defaults, all) = (Config::default().show(), config.show());
    for line in all.lines().filter(|line| line.contains(" = ")) {
        assert!(!defaults.lines().any(|default| default == line), "{line} is the default");
    }
}

#[test]
fn the_database_host_must_match_the_network_policy() {
    for (network, allowed) in [("any", true), ("private", true), ("public", false)] {
        let config =
            Case::file(&format!("[store]\nurl = \"postgres://u:p@127.0.0.1/d\"\nnetwork = \"{network}\""));
        if allowed {
            config.load();
        } else {
            assert!(config.error().ends_with("refuses loopback addresses"), "{}", config.error());
        }
    }
}

#[test]
fn the_shown_configuration_loads_as_the_same_configuration() {
    let shown = Case::file(EVERYTHING).load().show();
    assert_eq!(Case::file(&shown.replace("<redacted>", "sk-literal")).load().show(), shown);
    let shown = Case::empty().load().show();
    assert_eq!(Case::file(&shown).load().show(), shown);
    let shown = Case::file("[projects]\n\"a.b\".limits.concurrent_turns = 1").load().show();
    assert_eq!(Case::file(&shown).load().projects.keys().collect::<Vec<_>>(), ["a.b"]);
}

#[test]
fn a_variable_keeps_the_lower_case_of_a_project() {
    let config = Case::empty()
        .variable("ANTIPHON_PROJECTS__Team__LIMITS__CONCURRENT_TURNS", "1")
        .variable("ANTIPHON_PROJECTS__OTHER__LIMITS__CONCURRENT_TURNS", "2")
        .load();
    assert_eq!(config.projects.keys().collect::<Vec<_>>(), ["Team", "other"]);
}

#[test]
fn the_environment_wins_over_the_file_and_flags_win_over_both() {
    let case = Case::file("listen = \"127.0.0.1:1\"\n[store]\nretention = \"1d\"\ndurability = \"normal\"")
        .variable("ANTIPHON_LISTEN", "[::1]:2")
        .variable("ANTIPHON_STORE__RETENTION", "2d")
        .variable("ANTIPHON_LIMITS__MAX_CHAIN_DEPTH", "3")
        .variable("ANTIPHON_LOG__FILTER", "\"warn\"");
    let config = case.load();
    assert_eq!(config.listen, "[::1]:2".parse().unwrap());
    assert_eq!(config.store.retention, Retention::For(Duration::from_hours(48)));
    assert_eq!(config.store.durability, Durability::Normal);
    assert_eq!(config.limits.max_chain_depth, 3);
    assert_eq!(config.log.filter, "warn");
    assert_eq!(case.listen("127.0.0.1:4").load().listen, "127.0.0.1:4".parse().unwrap());
}

#[test]
fn accounts_can_be_given_in_one_variable() {
    let list = r#"[{ name = "a", base_url = "http://a", api_key = { env = "A" } }, { name = "b", base_url = "http://b" }]"#;
    let case = Case::file("[[accounts]]\nname = \"c\"\nbase_url = \"http://c\"")
        .variable("A", "secret")
        .variable("ANTIPHON_ACCOUNTS", list);
    let names: Vec<String> = case.load().accounts.into_iter().map(|account| account.name).collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn variables_of_kubernetes_and_empty_variables_are_not_keys() {
    Case::empty()
        .variable("ANTIPHON_SERVICE_HOST", "10.0.0.1")
        .variable("ANTIPHON_SERVICE_PORT_HTTP", "80")
        .variable("ANTIPHON_PORT", "tcp://10.0.0.1:80")
        .variable("ANTIPHON_PORT_80_TCP_ADDR", "10.0.0.1")
        .variable("ANTIPHON_ADMIN_PORT", "tcp://10.0.0.2:80")
        .variable("ANTIPHON_ADMIN_LISTEN", "")
        .load();
}

#[test]
fn the_file_is_named_by_the_flag_or_else_by_a_variable() {
    let case = Case::file("listen = \"127.0.0.1:1\"").variable("ANTIPHON_CONFIG", "two.toml");
    case.write("two.toml", "listen = \"127.0.0.1:2\"");
    case.write("three.toml", "listen = \"127.0.0.1:3\"");
    assert_eq!(case.load().listen.port(), 2);
    let loaded = case.load_from(Some("three.toml")).unwrap();
    assert_eq!((loaded.config.listen.port(), loaded.source), (3, Some(case.path().join("three.toml"))));
}

#[test]
fn without_accounts_the_variables_of_openai_clients_define_one() {
    let case = Case::empty().variable("OPENAI_API_KEY", "sk-env");
    let shown = "[[accounts]]\nname = \"openai\"\nbase_url = \"https://api.openai.com/v1\"\n\
                 api_key = { env = \"OPENAI_API_KEY\" }\nboundary = \"openai\"\napi = \"responses\"\ntransport = \"http\"\nstream_only = false\nstate = \"replay\"\nbackground = \"gateway\"\nreplay_ids = \"drop\"\npriority = 0\nweight = 1\n";
    assert!(case.load().show().contains(shown), "{}", case.load().show());
    case.load().require_accounts().unwrap();

    let account =
        Case::empty().variable("OPENAI_BASE_URL", "http://127.0.0.1:1/v1").load().accounts.remove(0);
    assert_eq!((account.base_url.as_str(), account.api_key.is_none()), ("http://127.0.0.1:1/v1", true));

    let with_file = Case::file("[[accounts]]\nname = \"a\"\nbase_url = \"http://a\"")
        .variable("OPENAI_API_KEY", "sk-env");
    assert_eq!(with_file.load().accounts.len(), 1);
    assert_eq!(with_file.load().accounts[0].name, "a");
}

#[test]
fn the_example_file_has_every_key_with_its_default() {
    let example = std::fs::read_to_string(EXAMPLE).unwrap();
    let mut config = Case::file(&example).variable("OPENAI_API_KEY", "sk").load();
    let account = config.accounts.remove(0);
    assert_eq!(
        (&account.name, &account.boundary, account.models.len()),
        (&"openai".to_owned(), &account.name, 0)
    );
    assert_eq!(config.show_json(), Case::empty().load().show_json());
}

#[test]
fn commented_out_keys_of_the_example_file_are_complete_and_valid() {
    let is_key = |word: &str| word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let uncomment = |line: &str| match line.strip_prefix("# ") {
        Some(rest) if rest.split_once(" = ").is_some_and(|(word, _)| is_key(word)) => format!("{rest}\n"),
        Some(section) if section.starts_with('[') => format!("{section}\n"),
        _ => format!("{line}\n"),
    };
    let all: String = std::fs::read_to_string(EXAMPLE).unwrap().lines().map(uncomment).collect();
    // An account has one credential, so the file is loaded once with each kind.
    let keys_without = |left_out: &str| {
        let lines = all.split_inclusive('\n').filter(|line| !line.starts_with(left_out));
        let case = Case::file(&lines.collect::<String>());
        keys(
            &case
                .variable("OPENAI_API_KEY", "sk")
                .variable("REFRESH_TOKEN", "rt")
                .variable("COLLECTOR_KEY", "ck")
                .variable("OIDC_CLIENT_SECRET", "s")
                .load(),
        )
    };
    let documented: BTreeSet<String> =
        keys_without("oauth = ").union(&keys_without("api_key = ")).cloned().collect();
    assert_eq!(documented, keys(&Case::file(EVERYTHING).load()));
}

#[test]
fn the_json_form_has_the_same_content() {
    let json: serde_json::Value = serde_json::from_str(&Case::file(EVERYTHING).load().show_json()).unwrap();
    assert_eq!(json["accounts"][0]["api_key"], serde_json::json!({ "value": "<redacted>" }));
    assert_eq!(json["limits"]["max_history"], "1GiB");
    assert_eq!(json["timeouts"]["shutdown"], "1d");
}

#[test]
fn accounts_in_the_documentation_are_valid() {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/accounts.md")).unwrap();
    let blocks = page.split("```toml\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0));
    let accounts = blocks.filter(|block| block.contains("[[accounts]]"));
    let mut count = 0;
    for block in accounts {
        let names = ["OPENAI_API_KEY", "PROJECT_A_KEY", "PROJECT_B_KEY", "AZURE_KEY", "REFRESH_TOKEN"];
        let case = names.into_iter().fold(Case::file(block), |case, name| case.variable(name, "sk"));
        for account in &case.load().accounts {
            antiphon_upstream::account::Account::new(account.settings()).unwrap();
        }
        count += 1;
    }
    assert_eq!(count, 5);
}
