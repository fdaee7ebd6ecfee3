use std::time::Duration;

use antiphon_protocol::model::ModelPattern;

use super::super::MemoryLimit;
use super::super::values::{format_bytes, format_duration};
use super::Case;

fn max_history(written: &str) -> Option<usize> {
    let text = format!("[limits]\nmax_history = {written}");
    Case::file(&text).load_from(None).ok().map(|loaded| loaded.config.limits.max_history)
}

#[test]
fn sizes_are_numbers_or_strings_with_a_unit() {
    let cases = [
        ("7", 7),
        ("\"7\"", 7),
        ("\"7B\"", 7),
        ("\"7kB\"", 7_000),
        ("\"7 KiB\"", 7 << 10),
        ("\"7MB\"", 7_000_000),
        ("\"7mib\"", 7 << 20),
        ("\"7GB\"", 7_000_000_000),
        ("\"7GiB\"", 7 << 30),
    ];
    for (written, bytes) in cases {
        assert_eq!(max_history(written), Some(bytes), "{written}");
    }
    for refused in
        ["0", "-1", "1.5", "\"\"", "\"MiB\"", "\"1.5MiB\"", "\"-1B\"", "\"1TB\"", "\"99999999999GiB\"", "[1]"]
    {
        assert_eq!(max_history(refused), None, "{refused}");
    }
}

#[test]
fn the_memory_of_the_process_is_a_size_or_found_out() {
    let memory = |written: &str| Case::file(&format!("limits.memory = {written}")).load().limits.memory;
    assert_eq!(Case::empty().load().limits.memory, MemoryLimit::Auto);
    assert_eq!(memory("\"auto\""), MemoryLimit::Auto);
    assert_eq!(memory("\"2GiB\""), MemoryLimit::Bytes(2 << 30));
    assert_eq!(memory("1048576"), MemoryLimit::Bytes(1 << 20));
    for refused in ["0", "\"0B\"", "\"most\"", "true"] {
        assert_eq!(
            Case::file(&format!("limits.memory = {refused}")).error(),
            format!(
                "limits.memory = {refused} (in antiphon.toml, line 1): must be \"auto\", or a size in bytes such as 1073741824 or \
                 \"2GiB\", above zero"
            )
        );
    }
}

#[test]
fn sizes_and_durations_are_shown_in_the_largest_whole_unit() {
    assert_eq!(
        [0, 1000, 2048, 64 << 20, 3 << 30].map(format_bytes),
        ["0B", "1000B", "2KiB", "64MiB", "3GiB"]
    );
    let durations = [86_400_000, 7_200_000, 5_400_000, 90_000, 1_500].map(Duration::from_millis);
    assert_eq!(durations.map(format_duration), ["1d", "2h", "90m", "90s", "1500ms"]);
    assert_eq!(format_duration(Duration::from_nanos(1_001)), "1001ns");
}

#[test]
fn durations_too_long_for_the_clock_are_rejected() {
    assert!(Case::file("[timeouts]\nturn = \"366d\"").load_from(None).is_err());
    assert!(Case::file("[store]\nretention = \"101y\"").load_from(None).is_err());
    Case::file("[timeouts]\nturn = \"365d\"\n[store]\nretention = \"99y\"").load();
}

#[test]
fn globs_match_whole_names() {
    let matches = |pattern: &str, model: &str| ModelPattern::parse(pattern).unwrap().matches(model);
    for (pattern, model) in [
        ("*", ""),
        ("*", "gpt-5"),
        ("gpt-*", "gpt-"),
        ("gpt-*", "gpt-5.1-codex"),
        ("*-mini", "o3-mini-mini"),
        ("o?", "o3"),
        ("o?", "oé"),
        ("*a*b*", "xxaxxbxx"),
        ("ft:gpt-4o:org::*", "ft:gpt-4o:org::1"),
        ("a*?c", "abcc"),
    ] {
        assert!(matches(pattern, model), "{pattern} {model}");
    }
    for (pattern, model) in [
        ("gpt", "gpt-5"),
        ("gpt-*", "xgpt-5"),
        ("o?", "o"),
        ("o?", "o33"),
        ("*a*b", "ba"),
        ("?", ""),
        ("GPT", "gpt"),
    ] {
        assert!(!matches(pattern, model), "{pattern} {model}");
    }
}

#[test]
fn a_glob_with_many_stars_matches_quickly() {
    let glob = ModelPattern::parse(&"a*".repeat(500)).unwrap();
    assert!(!glob.matches(&format!("{}b", "b".repeat(10_000))));
    assert!(!ModelPattern::parse(&format!("{}b", "*a".repeat(500))).unwrap().matches(&"a".repeat(10_000)));
}

#[test]
fn syntax_of_other_globs_is_rejected() {
    for pattern in ["", "gpt-[45]", "{a,b}", "a b", "a\\*", "a\n"] {
        assert_eq!(ModelPattern::parse(pattern), None, "{pattern:?}");
    }
}
