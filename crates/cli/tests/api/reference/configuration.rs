//! The keys of the configuration, from the commented example, which another test compares with the code.

use std::fmt::Write;

use antiphon_testkit::{assert_reference, repository};

use super::{cell, heading};

const INTRODUCTION: &str = "Every key of `antiphon.toml`, with its default. Each is also an environment variable: `store.retention` is
`ANTIPHON_STORE__RETENTION`. Durations are written as `\"500ms\"`, `\"30s\"`, `\"5m\"`, `\"2h\"` or `\"30d\"`, sizes as
`1048576`, `\"64MiB\"` or `\"10MB\"`. In patterns, `*` matches any number of characters, and `?` exactly one. The same keys are in
`docs/antiphon.example.toml`, to copy from.";

/// What is being read of a section.
#[derive(Default)]
struct Reader {
    page: String,
    comment: Vec<String>,
    has_table: bool,
}

#[test]
fn the_reference_of_the_configuration_is_that_of_the_example() {
    let example = std::fs::read_to_string(repository().join("docs/antiphon.example.toml")).unwrap();
    let mut reader = Reader { page: heading("Configuration", INTRODUCTION), ..Reader::default() };
    // The first paragraph is about the whole file, as the introduction is.
    let (_, keys) = example.split_once("\n\n").unwrap();
    reader.section("Top level");
    for line in keys.lines() {
        reader.read(line);
    }
    assert_reference("configuration.md", &reader.page);
}

impl Reader {
    fn read(&mut self, line: &str) {
        let shown = line.strip_prefix("# ").unwrap_or(line);
        if shown.starts_with('[') {
            self.section(&format!("`{shown}`"));
        } else if let Some((key, value)) = assignment(shown) {
            self.key(key, value, line.starts_with('#'));
        } else if line.starts_with('#') {
            self.comment.push(shown.to_owned());
        }
    }

    fn section(&mut self, name: &str) {
        let comment = linked(&std::mem::take(&mut self.comment).join(" "));
        write!(self.page, "\n## {name}\n").unwrap();
        if !comment.is_empty() {
            write!(self.page, "\n{comment}\n").unwrap();
        }
        self.has_table = false;
    }

    /// A key that is commented out has an example instead of a default.
    fn key(&mut self, key: &str, value: &str, is_example: bool) {
        if !self.has_table {
            self.page.push_str("\n| Key | Default | Meaning |\n| --- | --- | --- |\n");
            self.has_table = true;
        }
        let comment = cell(&linked(&std::mem::take(&mut self.comment).join(" ")));
        let value = cell(value);
        let line = if is_example {
            format!("| `{key}` | | {comment} Example: `{value}` |\n")
        } else {
            format!("| `{key}` | `{value}` | {comment} |\n")
        };
        self.page.push_str(&line);
    }
}

/// `key = value`, if the line is that.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(" = ")?;
    let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    is_key.then_some((key, value))
}

/// A comment as text of a page: names of pages become links.
fn linked(comment: &str) -> String {
    let mut parts = comment.split("(docs/");
    let mut text = parts.next().unwrap_or_default().replace('<', "&lt;");
    for part in parts {
        let (page, rest) = part.split_once(')').unwrap();
        let name = page.split('#').next().unwrap_or_default();
        write!(text, "([{name}](../{page})){}", rest.replace('<', "&lt;")).unwrap();
    }
    text
}
