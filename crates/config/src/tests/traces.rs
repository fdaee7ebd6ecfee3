use super::Case;
use crate::TracesConfig;

fn traces(case: &Case) -> TracesConfig {
    case.load().traces.unwrap()
}

fn with_variables(file: &str) -> Case {
    Case::file(file)
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", "https://variable.example:4318/")
        .variable("OTEL_EXPORTER_OTLP_HEADERS", "x-team=one%20two, x-key = abc ")
        .variable("OTEL_SERVICE_NAME", "variable")
}

#[test]
fn the_variables_of_opentelemetry_do_not_turn_traces_on() {
    assert!(with_variables("").load().traces.is_none());
}

#[test]
fn the_variables_of_opentelemetry_count_where_the_section_says_nothing() {
    let from_variables = traces(&with_variables("[traces]"));
    assert_eq!(from_variables.uri(), "https://variable.example:4318/v1/traces");
    assert_eq!(from_variables.service_name, "variable");
    let headers = from_variables.headers();
    assert_eq!(
        (&headers["x-team"], &headers["x-key"]),
        (&"one two".parse().unwrap(), &"abc".parse().unwrap())
    );
    assert!(headers.values().all(http::HeaderValue::is_sensitive));
    let shown = with_variables("[traces]").load().show();
    assert!(!shown.contains("one two") && !shown.contains("abc"), "{shown}");

    let file = "[traces]\nendpoint = \"http://file.example/v1/traces\"\nservice_name = \"file\"\nheaders = { x-own = \"1\" }";
    let from_file = traces(&with_variables(file));
    assert_eq!(from_file.uri(), "http://file.example/v1/traces");
    assert_eq!((from_file.service_name.as_str(), from_file.headers().len()), ("file", 1));
}

#[test]
fn traces_need_an_endpoint_that_speaks_http() {
    assert_eq!(
        Case::file("[traces]").error(),
        "traces.endpoint (in antiphon.toml, line 1): must be set, here or with OTEL_EXPORTER_OTLP_ENDPOINT"
    );
    let rule = "must be an http or https URL without user, password, query and fragment, such as \
                \"http://localhost:4318\"";
    for endpoint in ["localhost:4318", "http://ada:sk@a", "http://a?token=sk", "http://a#b"] {
        let case = Case::file(&format!("[traces]\nendpoint = \"{endpoint}\""));
        assert_eq!(case.error(), format!("traces.endpoint (in antiphon.toml, line 2): {rule}"));
    }
    let grpc = with_variables("[traces]").variable("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc").error();
    assert!(grpc.contains("\"grpc\" is not supported"), "{grpc}");
}

#[test]
fn broken_values_are_reported_without_their_secrets() {
    let file = |line: &str| Case::file(&format!("[traces]\nendpoint = \"http://a\"\n{line}"));
    let headers = file("").variable("OTEL_EXPORTER_OTLP_HEADERS", "sk secret").error();
    assert!(headers.contains("OTEL_EXPORTER_OTLP_HEADERS: must be a list"), "{headers}");
    assert!(!headers.contains("sk secret"), "{headers}");
    for ratio in ["2", "-0.5", "\"half\"", "nan"] {
        let error = file(&format!("sample_ratio = {ratio}")).error();
        assert!(error.ends_with("must be a number from 0 to 1"), "{error}");
    }
    let case = file("").variable("ANTIPHON_TRACES__SAMPLE_RATIO", "0.5");
    assert!((traces(&case).sample_ratio - 0.5).abs() < f64::EPSILON);
}
