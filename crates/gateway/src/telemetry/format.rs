//! Log lines, written field by field into one buffer. Each turn has a line of two dozen fields: the layers of
//! `tracing-subscriber` format every one of them into a string of its own, which took a tenth of a turn's CPU time.

use std::fmt::{self, Debug, Write};
use std::time::SystemTime;

use antiphon_config::LogFormat;
use jiff::Timestamp;
use jiff::tz::Offset;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::{escape_control, quote};

/// Most lines are shorter.
const LINE_BYTES: usize = 1024;

/// Formats events as `usual` does, only faster. Events within spans and those for terminals are left to it.
pub(super) struct LineFormat<F> {
    pub format: LogFormat,
    pub usual: F,
}

impl<S, N, F> FormatEvent<S, N> for LineFormat<F>
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if writer.has_ansi_escapes() || context.event_scope().is_some() {
            return self.usual.format_event(context, writer, event);
        }
        let mut line = String::with_capacity(LINE_BYTES);
        match self.format {
            LogFormat::Text => write_text(&mut line, event),
            LogFormat::Json => write_json(&mut line, event),
        }
        writer.write_str(&line)
    }
}

fn write_text(line: &mut String, event: &Event<'_>) {
    let metadata = event.metadata();
    push_time(line, now());
    for _ in metadata.level().as_str().len()..6 {
        line.push(' ');
    }
    for part in [metadata.level().as_str(), " ", metadata.target(), ":"] {
        line.push_str(part);
    }
    event.record(&mut TextFields(line));
    line.push('\n');
}

fn write_json(line: &mut String, event: &Event<'_>) {
    let metadata = event.metadata();
    line.push_str(r#"{"timestamp":""#);
    push_time(line, now());
    line.push_str(r#"","level":""#);
    line.push_str(metadata.level().as_str());
    line.push('"');
    event.record(&mut JsonFields(line));
    line.push_str(r#","target":"#);
    push_json_string(line, metadata.target());
    line.push_str("}\n");
}

/// Fields as ` name=value`.
struct TextFields<'a>(&'a mut String);

/// Fields as `,"name":value`.
struct JsonFields<'a>(&'a mut String);

// === impl TextFields ===

impl TextFields<'_> {
    fn begin(&mut self, field: &Field) {
        self.0.push(' ');
        if field.name() != "message" {
            self.0.push_str(field.name());
            self.0.push('=');
        }
    }

    /// Escapes what was written since `start`, if that is needed.
    fn escape(&mut self, field: &Field, start: usize) {
        let is_message = field.name() == "message";
        let is_plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b'"' || (is_message && *byte == b' ');
        if !self.0.as_bytes()[start..].iter().all(is_plain) {
            let text = self.0.split_off(start);
            let text = if is_message { text.into() } else { quote(&text) };
            self.0.push_str(&escape_control(&text));
        }
    }
}

impl Visit for TextFields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.begin(field);
        let start = self.0.len();
        push_debug(self.0, value);
        self.escape(field, start);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
        if field.name() == "message" || !value.bytes().all(is_plain) {
            return self.record_debug(field, &value);
        }
        self.begin(field);
        for part in ["\"", value, "\""] {
            self.0.push_str(part);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.begin(field);
        push_number(self.0, value, 1);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.begin(field);
        self.0.push_str(if value { "true" } else { "false" });
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.begin(field);
        if !push_thousandths(self.0, value) {
            push_debug(self.0, &value);
        }
    }
}

// === impl JsonFields ===

impl JsonFields<'_> {
    fn begin(&mut self, field: &Field) {
        self.0.push(',');
        push_json_string(self.0, field.name());
        self.0.push(':');
    }
}

impl Visit for JsonFields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.begin(field);
        let start = self.0.len();
        self.0.push('"');
        push_debug(self.0, value);
        if is_plain_json(&self.0[start + 1..]) {
            self.0.push('"');
        } else {
            let text = self.0.split_off(start);
            push_json_string(self.0, &text[1..]);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.begin(field);
        push_json_string(self.0, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.begin(field);
        push_number(self.0, value, 1);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.begin(field);
        push_json(self.0, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.begin(field);
        self.0.push_str(if value { "true" } else { "false" });
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.begin(field);
        if !push_thousandths(self.0, value) {
            push_json(self.0, &value);
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "log lines have the time of the system, as they had from tracing-subscriber"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

/// As RFC 3339, in UTC and with microseconds.
fn push_time(line: &mut String, time: SystemTime) {
    let time = Offset::UTC.to_datetime(Timestamp::try_from(time).unwrap_or_default());
    let number = |number: i32| u64::from(number.unsigned_abs());
    push_number(line, number(time.year().into()), 4);
    for (separator, part) in [
        ('-', time.month()),
        ('-', time.day()),
        ('T', time.hour()),
        (':', time.minute()),
        (':', time.second()),
    ] {
        line.push(separator);
        push_number(line, number(part.into()), 2);
    }
    line.push('.');
    push_number(line, number(time.subsec_nanosecond() / 1000), 6);
    line.push('Z');
}

/// A number with at most three decimals, such as milliseconds to the microsecond. `false` if this is none, or is too large to be sure.
fn push_thousandths(line: &mut String, value: f64) -> bool {
    let thousandths = (value * 1e3).round();
    if !(0.0..1e12).contains(&thousandths) || thousandths / 1e3 != value || value.is_sign_negative() {
        return false;
    }
    // In range, and whole.
    let thousandths = thousandths as u64;
    push_number(line, thousandths / 1000, 1);
    line.push('.');
    let decimals = thousandths % 1000;
    match (decimals % 10, decimals / 10 % 10) {
        (0, 0) => push_number(line, decimals / 100, 1),
        (0, _) => push_number(line, decimals / 10, 2),
        _ => push_number(line, decimals, 3),
    }
    true
}

/// A decimal number with leading zeros.
fn push_number(line: &mut String, number: u64, min_digits: usize) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(number);
    for _ in digits.len()..min_digits {
        line.push('0');
    }
    line.push_str(digits);
}

fn push_debug(line: &mut String, value: &dyn Debug) {
    // A String takes every write; a value that fails to format itself is cut short.
    write!(line, "{value:?}").ok();
}

fn is_plain_json(text: &str) -> bool {
    text.bytes().all(|byte| byte >= b' ' && !matches!(byte, b'"' | b'\\'))
}

fn push_json_string(line: &mut String, text: &str) {
    if !is_plain_json(text) {
        return push_json(line, &text);
    }
    for part in ["\"", text, "\""] {
        line.push_str(part);
    }
}

fn push_json(line: &mut String, value: &impl serde::Serialize) {
    line.push_str(&serde_json::to_string(value).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, UNIX_EPOCH};

    use tracing::Dispatch;
    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt;

    use super::super::escaped_fields;
    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Written {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    impl Written {
        /// The lines, without their times.
        fn lines(&self) -> Vec<String> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            let time = "2026-11-22T06:42:00.123456Z".len();
            text.split_inclusive('\n')
                .map(|line| match line.strip_prefix(r#"{"timestamp":""#) {
                    Some(rest) => rest[time..].to_owned(),
                    None => line[time..].to_owned(),
                })
                .collect()
        }
    }

    fn log_events() {
        let none: Option<&str> = None;
        let numbers = (7_u64, -7_i64, 0_u64, u64::MAX);
        tracing::info!(target: "antiphon::turn", { a.b = numbers.0, c = numbers.1, d = numbers.2, e = numbers.3, f = true }, "turn");
        tracing::info!(none, some = Some("x"), model = %"gpt-5", id = 5_u8, "with a \"quote\" and \u{202e} \n {}", "x");
        tracing::warn!(big = u128::MAX, small = i8::MIN);
        tracing::info!("");
        tracing::info!(
            message = "a field",
            error = &io::Error::other("no \"x\"\n") as &dyn std::error::Error
        );
        for text in [
            "",
            "plain",
            "it's",
            "two words",
            "\"",
            "\\",
            "é\u{1f600}",
            "\n\u{1b}[31m\u{2028}",
            "a=b",
            "\u{7f}",
        ] {
            tracing::error!(text, shown = %text, debugged = ?text, list = ?[text, text], "{text}");
        }
        for number in [
            0.0,
            -0.0,
            0.1,
            0.001,
            0.0001,
            12.0,
            12.5,
            12.05,
            12.34,
            12.345,
            12.3456,
            1e9,
            1e15,
            1e16,
            1e300,
            -1.5,
            0.1 + 0.2,
            f64::NAN,
            f64::INFINITY,
            f64::MIN_POSITIVE,
        ] {
            tracing::debug!(number, "f");
        }
        tracing::info_span!("span", x = 1).in_scope(|| tracing::info!(y = 2, "within"));
    }

    fn lines_of(format: LogFormat, is_usual: bool) -> Vec<String> {
        let written = Written::default();
        let layer = tracing_subscriber::fmt::layer().with_writer(written.clone()).with_ansi(false);
        let text = layer.fmt_fields(escaped_fields());
        let layer = tracing_subscriber::fmt::layer().with_writer(written.clone());
        let json = layer.json().flatten_event(true).with_current_span(false);
        let registry = tracing_subscriber::registry();
        let dispatch = match (format, is_usual) {
            (LogFormat::Text, true) => Dispatch::new(registry.with(text)),
            (LogFormat::Text, false) => {
                Dispatch::new(registry.with(text.map_event_format(|usual| LineFormat { format, usual })))
            }
            (LogFormat::Json, true) => Dispatch::new(registry.with(json)),
            (LogFormat::Json, false) => {
                Dispatch::new(registry.with(json.map_event_format(|usual| LineFormat { format, usual })))
            }
        };
        tracing::dispatcher::with_default(&dispatch, log_events);
        written.lines()
    }

    #[test]
    fn lines_are_those_of_the_usual_formats() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let (usual, direct) = (lines_of(format, true), lines_of(format, false));
            assert!(usual.len() > 30, "{usual:?}");
            for (usual, direct) in usual.iter().zip(&direct) {
                assert_eq!(direct, usual);
            }
            assert_eq!(direct.len(), usual.len());
        }
    }

    #[test]
    fn times_are_in_utc_to_the_microsecond() {
        let written = |seconds: u64, micros: u32| {
            let mut line = String::new();
            push_time(&mut line, UNIX_EPOCH + Duration::new(seconds, micros * 1000));
            line
        };
        assert_eq!(written(0, 1), "1970-01-01T00:00:00.000001Z");
        assert_eq!(written(951_782_399, 999_999), "2000-02-28T23:59:59.999999Z");
        assert_eq!(written(11_847_456_541, 120_000), "2345-06-07T08:09:01.120000Z");
    }
}
