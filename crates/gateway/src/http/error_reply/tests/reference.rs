//! The errors of the reference, from the table that the gateway replies with.

use std::collections::BTreeSet;
use std::fmt::Write;

use antiphon_testkit::assert_reference;

use super::*;

const INTRODUCTION: &str = "Every error that Antiphon replies with itself. The envelope is that of the API:
`{\"error\":{\"message\",\"type\",\"param\",\"code\"}}`, always with all four members. Errors of upstreams pass unchanged
(`upstream_error` in logs and metrics): a 4xx of theirs is the client's fault, except for 402 and 429, which are about the
gateway's own accounts. On a stream that has begun, an error is an `error` event, followed by
`response.failed`; on a WebSocket it is a frame ([WebSocket mode](../websocket.md#errors)). `X` and numbers stand for those of
the request. The fault is the label of `antiphon_failures_total`.

Requests that are wrong in themselves get 400 with a code of the API, such as `missing_required_parameter`,
`invalid_type`, `invalid_value`, `unknown_parameter`, `invalid_json` or `unsupported_parameter`, and the member in `param`.";

#[test]
fn the_reference_of_errors_has_every_row() {
    let mut page = String::from("<!-- Generated: `make reference` writes this page. -->\n\n# Errors\n\n");
    page.push_str(INTRODUCTION);
    let (turns, requests) = (failures_of_turns(), failures_of_requests());
    let clients = turns.iter().map(Failure::row).chain(requests.iter().map(RequestError::row));
    table(&mut page, "Errors of the API", clients.map(|row| line(&row)).collect());
    let operations = failures_of_operations();
    let operators = operations.iter().map(|failure| line(&failure.row()));
    table(&mut page, "Errors of the admin API", operators.collect());
    assert_reference("errors.md", &page);
}

fn table(page: &mut String, title: &str, lines: BTreeSet<String>) {
    let head = "| Status | Code | Type | Param | Fault | Message |\n| --- | --- | --- | --- | --- | --- |";
    write!(page, "\n\n## {title}\n\n{head}").unwrap();
    for line in lines {
        write!(page, "\n{line}").unwrap();
    }
    page.push('\n');
}

fn line(row: &ErrorRow) -> String {
    let ApiError { kind, code, param, message } = &row.error;
    let quoted = |name: &Option<std::borrow::Cow<'static, str>>| {
        name.as_deref().map_or_else(|| "`null`".to_owned(), |name| format!("`{name}`"))
    };
    format!(
        "| {} | {} | `{}` | {} | {} | {} |",
        row.status.as_u16(),
        quoted(code),
        kind.as_str(),
        quoted(param),
        row.fault.as_str(),
        message.replace('|', "\\|").replace('<', "\\<"),
    )
}
