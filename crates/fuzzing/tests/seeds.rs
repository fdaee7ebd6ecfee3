//! Every seed, and every input that the fuzzer has found here and left in `fuzz/artifacts`, keeps the properties.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use antiphon_fuzzing::{chat, config, json, replay, request, socket, sse, store_url};

/// The files of a target in one of the folders of `fuzz/`.
fn files(folder: &str, target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz").join(folder).join(target);
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn check_all(target: &str, check: fn(&[u8])) {
    let seeds = files("corpus", target);
    assert!(!seeds.is_empty(), "there are no seeds for {target}");
    for path in seeds.into_iter().chain(files("artifacts", target)) {
        println!("{}", path.display());
        check(&std::fs::read(path).unwrap());
    }
}

#[test]
fn a_chat_is_one_response_however_the_network_cuts_it() {
    check_all("chat", chat::check);
}

#[test]
fn a_configuration_that_is_accepted_is_shown_without_secrets_and_accepted_again() {
    check_all("config", config::check);
}

#[test]
fn scanned_json_is_what_serde_json_reads() {
    check_all("json", json::check);
}

#[test]
fn replayed_turns_are_the_arrays_of_their_items() {
    check_all("replay", replay::check);
}

#[test]
fn a_request_goes_upstream_as_it_came_apart_from_what_is_the_gateways() {
    check_all("request", request::check);
}

#[test]
fn a_frame_is_the_request_that_it_would_be_over_http() {
    check_all("socket", socket::check);
}

#[test]
fn server_sent_events_are_the_same_however_the_network_cuts_them() {
    check_all("sse", sse::check);
}

#[test]
fn no_database_url_leads_to_an_address_that_its_network_refuses() {
    check_all("store_url", store_url::check);
}
