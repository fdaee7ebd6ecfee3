//! Likely mistakes, and what an operator is told to write instead.

use super::super::{Overrides, Secrets};
use super::Case;

/// The end of the only error.
fn assert_told(text: &str, end: &str) {
    let error = Case::file(text).error();
    assert!(error.ends_with(end) && !error.contains("problems in"), "{text}: {error}");
}

#[test]
fn single_and_double_brackets_are_told_apart() {
    assert_told(
        "[accounts]\nname = \"a\"",
        "accounts (in antiphon.toml, line 1): must be a list: write [[accounts]] instead of [accounts]",
    );
    assert_told("\n[prices]\nmodel = \"a\"", "line 2): must be a list: write [[prices]] instead of [prices]");
    for table in ["store", "traces", "oidc", "proxy_sign_in"] {
        let end = format!("line 1): must be a table: write [{table}] instead of [[{table}]]");
        assert_told(&format!("[[{table}]]\nx = \"x\""), &end);
    }
}

#[test]
fn a_list_a_string_and_a_number_are_told_apart() {
    let account = |line: &str| format!("[[accounts]]\nname = \"a\"\nbase_url = \"http://a\"\n{line}");
    assert_told(&account("models = \"gpt-*\""), "line 4): must be a list: write models = [\"…\"]");
    assert_told(&account("boundary = [\"b\"]"), "line 4): must be a string, not a list");
    assert_told(&account("weight = \"5\""), "from 1 to 1000000; write it without quotes");
    assert_told("[timeouts]\nidle = 30", "at most \"365d\"; it needs a unit, and quotes");
    assert_told("[timeouts]\nidle = \"30\"", "at most \"365d\"; it needs a unit");
    assert_told("[timeouts]\nidle = [\"30s\"]", "at most \"365d\", not a list");
    assert_told("[limits]\nmax_body = \"30M\"", "at most 1024 TiB; the unit needs its \"B\"");
}

#[test]
fn accounts_in_json_are_told_to_be_tables_in_toml() {
    let error = Case::empty().variable("ANTIPHON_ACCOUNTS", r#"[{"name": "a"}]"#).error();
    let rule = r#"must be a list of tables in TOML, such as [{ key = "value" }]"#;
    assert_eq!(error, format!("accounts (environment variable ANTIPHON_ACCOUNTS): {rule}"));
}

#[test]
fn a_month_is_not_written_as_a_minute() {
    let advice =
        "; \"M\" could be minutes or months: write \"m\" for minutes, and days for months, such as \"30d\"";
    assert_told("[store]\nretention = \"30M\"", advice);
    assert_told("[timeouts]\nidle = \"1h 30M\"", advice);
    Case::file("[store]\nretention = \"30m\"\n[usage]\nraw_retention = \"1month\"").load();
}

#[test]
fn a_path_is_not_the_url_of_a_database() {
    for (text, url) in [
        ("/var/lib/antiphon.db", "sqlite:///var/lib/antiphon.db"),
        ("./a", "sqlite://./a"),
        ("antiphon.sqlite3", "sqlite://antiphon.sqlite3"),
    ] {
        assert_told(
            &format!("[store]\nurl = \"{text}\""),
            &format!("store.url (in antiphon.toml, line 2): must be a URL: for this file, write \"{url}\""),
        );
    }
}

#[test]
fn a_mistake_in_a_database_url_has_its_line_and_shows_no_password() {
    for (url, rule) in [
        ("mysql://u:secret@h/d", "a store URL begins with"),
        ("postgres://u:secret@h", "a PostgreSQL URL must name a database"),
        ("postgres://u:sec/ret@h/d", "write \"@\", \"/\", \"?\" and \"#\" in a user or password as"),
        ("sqlite://a.db?mode=secret", "an SQLite URL takes no parameter such as \"mode\""),
    ] {
        for key in ["url", "migration_url"] {
            let error = Case::file(&format!("[store]\nretention = \"1d\"\n{key} = \"{url}\"")).error();
            let expected = format!("store.{key} (in antiphon.toml, line 3): {rule}");
            assert!(error.starts_with(&expected) && !error.contains("sec"), "{error}");
        }
    }
    let error = Case::empty().variable("ANTIPHON_STORE__URL", "mysql://h").error();
    assert!(error.starts_with("store.url (environment variable ANTIPHON_STORE__URL): "), "{error}");
    let private = "[store]\nurl = \"postgres://u@8.8.8.8/d\"\nnetwork = \"private\"";
    assert!(Case::file(private).error().starts_with("store.url (in antiphon.toml, line 2): "));
}

#[test]
fn an_unknown_log_level_is_reported_with_the_known_ones() {
    let filter = |filter: &str| format!("[log]\nfilter = \'{filter}\'");
    for (text, level) in
        [("verbose", "verbose"), ("info,antiphon=loud", "antiphon=loud"), ("warn, hyper", "hyper")]
    {
        let levels =
            "Levels are off, error, warn, info, debug, trace; write them like \"info,antiphon=debug\"";
        assert_told(&filter(text), &format!("line 2): has the unknown level {level:?}. {levels}"));
    }
    assert!(Case::file(&filter("info,antiphon[=debug")).error().contains("log.filter"));
    for text in
        ["info", "OFF", "warn,antiphon::turn=debug", "info,antiphon[turn{model=\"a\"}]=trace", "[turn]"]
    {
        Case::file(&filter(text)).load();
    }
}

#[test]
fn a_rejected_value_does_not_hide_other_problems_nor_make_new_ones() {
    let text = "listen = \"here\"\nadmin_listen = \"127.0.0.1:8080\"\n[limits]\nmax_body = \"few\"\nbody_memory = \"1MiB\"\n\
                [usage]\nraw_retention = \"long\"\nhour_retention = \"1d\"\n[log]\nfilter = \"loud\"\n\
                [[accounts]]\nname = \"a b\"\nbase_url = 7\n";
    let error = Case::file(text).error();
    let keys: Vec<&str> = error.lines().skip(1).filter_map(|line| line.trim().split(' ').next()).collect();
    let expected = [
        "listen",
        "limits.max_body",
        "usage.raw_retention",
        "log.filter",
        "accounts[0].name",
        "accounts[0].base_url",
    ];
    assert_eq!(keys, expected, "{error}");
}

#[test]
fn a_problem_in_a_list_of_many_lines_has_its_own_line() {
    let text = "accounts = [\n  { name = \"a\", base_url = \"http://a\" },\n  { name = \"b\", base_url = \"b\" },\n]\n";
    assert!(Case::file(text).error().starts_with("accounts[1].base_url = \"b\" (in antiphon.toml, line 3)"));
    let models = "[[accounts]]\nname = \"a\"\nbase_url = \"http://a\"\nmodels = [\n  \"a\",\n  \"b c\",\n]\n";
    assert!(
        Case::file(models).error().starts_with("accounts[0].models[1] = \"b c\" (in antiphon.toml, line 6)")
    );
}

#[test]
fn durations_and_sizes_are_shown_as_they_are_written() {
    let shown = Case::file("[timeouts]\nidle = \"1m 30s\"\nturn = \"3600s\"\n[limits]\nmax_body = 1000000\nbody_memory = \"1024 MiB\"\n")
        .variable("ANTIPHON_STORE__RETENTION", "48h")
        .load()
        .show();
    for line in [
        "idle = \"1m 30s\"",
        "turn = \"3600s\"",
        "max_body = 1000000",
        "body_memory = \"1024 MiB\"",
        "retention = \"48h\"",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
}

#[test]
fn secrets_that_cannot_be_read_are_left_out_where_none_are_needed() {
    let text = "[[accounts]]\nname = \"a\"\nbase_url = \"http://a\"\napi_key = { env = \"UNSET\" }\n\
                headers = { x-key = { file = \"none\" } }\n\
                [[accounts]]\nname = \"b\"\nbase_url = \"http://b\"\n\
                oauth = { token_url = \"http://c\", client_id = \"d\", refresh_token = { env = \"UNSET\" } }\n";
    let mut case = Case::file(text);
    case.overrides = Overrides { secrets: Secrets::Optional, ..Overrides::default() };
    let config = case.load();
    assert!(config.accounts.iter().all(|account| !account.knows_secrets()));
    assert!(config.show().contains("api_key = { env = \"UNSET\" }"), "{}", config.show());
    case.write("antiphon.toml", &text.replace("env = \"UNSET\"", "env = \"not a name\""));
    assert!(case.error().contains("env must be the name of an environment variable"));
    case.overrides = Overrides::default();
    case.write("antiphon.toml", text);
    assert!(case.error().starts_with("3 problems"), "{}", case.error());
}
