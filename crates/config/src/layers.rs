//! The layers of a configuration: defaults, file, environment, flags. Later layers override earlier ones, and every value
//! keeps its source.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use figment::providers::{Format, Toml};
use figment::util::nest;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::de::DeserializeOwned;

use super::environment::Environment;
use super::error::{ConfigError, Problem, Problems, Rejection};
use super::lines::Lines;
use super::sources::Sources;
use super::values;

const PREFIX: &str = "ANTIPHON_";

/// The variable that names the configuration file; it is not a key.
pub(super) const FILE_VARIABLE: &str = "ANTIPHON_CONFIG";

#[derive(Default)]
pub(super) struct Layers {
    figment: Figment,
    file: Option<WrittenFile>,
}

/// All layers in one tree.
pub(super) struct Merged {
    figment: Figment,
    values: Value,
    file: Option<WrittenFile>,
}

/// The configuration file, to name lines of it.
struct WrittenFile {
    source: String,
    lines: Lines,
}

/// The values of one source, which is worded like "in antiphon.toml".
struct Layer {
    source: String,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.source.clone())
    }

    fn data(&self) -> figment::error::Result<Map<Profile, Dict>> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

impl Layers {
    /// Adds a layer with one value.
    pub(super) fn set(self, source: impl Into<String>, key: &str, value: impl Into<Value>) -> Self {
        let values = nest(key, value.into()).into_dict().unwrap_or_default();
        self.add(source.into(), values)
    }

    /// Adds a layer from the text of a TOML file.
    pub(super) fn file(self, path: &Path, text: &str) -> Result<Self, ConfigError> {
        let values = Toml::from_str(text).map_err(|error| {
            let (line, column) = position(text, error.span());
            let reason = error.message().lines().collect::<Vec<_>>().join(", ");
            ConfigError::Syntax { path: path.to_owned(), line, column, reason }
        })?;
        let source = format!("in {}", path.display());
        let file = Lines::parse(text).map(|lines| WrittenFile { source: source.clone(), lines });
        Ok(Self { file, ..self.add(source, values) })
    }

    /// Adds a layer for each variable `ANTIPHON_…`.
    pub(super) fn environment(self, environment: &Environment) -> Self {
        environment
            .with_prefix(PREFIX)
            .filter(|(name, value)| *name != FILE_VARIABLE && !is_kubernetes_variable(name, value))
            .fold(self, |layers, (name, value)| {
                let key = variable_key(&name[PREFIX.len()..]);
                layers.set(format!("environment variable {name}"), &key, parse_variable(value))
            })
    }

    pub(super) fn merge(self) -> Merged {
        let values = self.figment.find_value("").expect("every layer was parsed before it was added");
        Merged { figment: self.figment, values, file: self.file }
    }

    fn add(self, source: String, values: Dict) -> Self {
        Self { figment: self.figment.merge(Layer { source, values }), ..self }
    }
}

impl Merged {
    /// Deserializes the tree. A value of the wrong type is noted and removed, so that its default applies and the next
    /// problem shows; `None` if nothing is left to remove.
    pub(super) fn extract<T: DeserializeOwned>(&self, problems: &mut Problems) -> Option<T> {
        let mut values = self.values.clone();
        reject_wrong_brackets(&mut values, problems);
        loop {
            match values.deserialize() {
                Ok(read) => return Some(read),
                Err(error) => {
                    problems.reject_type(&error);
                    remove(&mut values, &error.path)?;
                }
            }
        }
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.locate(key).0.is_some()
    }

    /// The source of every value that a layer has.
    pub(super) fn sources(&self) -> Sources {
        let mut sources = BTreeMap::new();
        self.add_sources(String::new(), &self.values, &mut sources);
        Sources(sources)
    }

    fn add_sources(&self, key: String, value: &Value, sources: &mut BTreeMap<String, String>) {
        match value {
            Value::Dict(_, keys) => {
                for (name, value) in keys {
                    let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                    self.add_sources(key, value, sources);
                }
            }
            Value::Array(_, elements) if elements.iter().any(|element| element.as_dict().is_some()) => {
                for (index, value) in elements.iter().enumerate() {
                    self.add_sources(format!("{key}[{index}]"), value, sources);
                }
            }
            value => {
                let metadata = self.figment.get_metadata(value.tag());
                sources.extend(metadata.map(|metadata| (key, metadata.name.to_string())));
            }
        }
    }

    /// The error for the operator, with the values and sources of the problems.
    pub(super) fn to_error(&self, problems: Problems) -> ConfigError {
        let to_problem = |Rejection { key, rule, show_value }| {
            let (value, source) = self.locate(&key);
            let value = value.filter(|_| show_value).and_then(|value| displayable(&key, value));
            let source = source.unwrap_or("default").to_owned();
            let line = self.file.as_ref().filter(|file| file.source == source);
            let line = line.and_then(|file| file.lines.find(&key));
            Problem { value, source, line, key, rule }
        };
        let mut problems: Vec<Problem> = problems.into_rejections().into_iter().map(to_problem).collect();
        problems.sort_by_key(|problem| problem.line);
        ConfigError::Invalid { problems }
    }

    /// Every duration and size outside of lists, in JSON, as it is written.
    pub(super) fn measures(&self) -> BTreeMap<String, String> {
        let mut measures = BTreeMap::new();
        add_measures("", &self.values, &mut measures);
        measures.retain(|_, json| values::means_same(json, json));
        measures
    }

    /// The value at a key and its source; for a missing value, the source of the table that lacks it.
    fn locate(&self, key: &str) -> (Option<&Value>, Option<&str>) {
        let mut value = Some(&self.values);
        let mut source = None;
        for segment in key.split(['.', '[', ']']).filter(|segment| !segment.is_empty()) {
            value = match value {
                Some(Value::Dict(_, keys)) => keys.get(segment),
                Some(Value::Array(_, elements)) => {
                    segment.parse::<usize>().ok().and_then(|i| elements.get(i))
                }
                _ => None,
            };
            let metadata = value.and_then(|value| self.figment.get_metadata(value.tag()));
            source = metadata.map(|metadata| &*metadata.name).or(source);
        }
        (value, source)
    }
}

/// Lists are written as `[[accounts]]`, and tables as `[store]`. Rejects and removes what is written the other way round.
fn reject_wrong_brackets(values: &mut Value, problems: &mut Problems) {
    const LISTS: [&str; 2] = ["accounts", "prices"];
    const TABLES: [&str; 14] = [
        "store",
        "routing",
        "limits",
        "timeouts",
        "turns",
        "background",
        "sockets",
        "usage",
        "log",
        "tls",
        "traces",
        "oidc",
        "proxy_sign_in",
        "projects",
    ];
    let Value::Dict(_, sections) = values else { return };
    sections.retain(|name, value| {
        let name = name.as_str();
        match value {
            Value::Dict(..) if LISTS.contains(&name) => {
                problems.reject(name, format!("must be a list: write [[{name}]] instead of [{name}]"));
                false
            }
            Value::Array(..) if TABLES.contains(&name) => {
                problems.reject(name, format!("must be a table: write [{name}] instead of [[{name}]]"));
                false
            }
            _ => true,
        }
    });
}

fn add_measures(key: &str, value: &Value, measures: &mut BTreeMap<String, String>) {
    match value {
        Value::Dict(_, keys) => {
            for (name, value) in keys {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                add_measures(&key, value, measures);
            }
        }
        Value::String(_, text) => {
            measures.insert(key.to_owned(), serde_json::Value::from(text.as_str()).to_string());
        }
        Value::Num(..) => {
            measures.extend(value.to_i128().map(|number| (key.to_owned(), number.to_string())));
        }
        _ => {}
    }
}

/// The key that a variable names. Keys are in lower case. Only a project's name may have capitals: it is taken as written, unless
/// all of it is in upper case.
fn variable_key(name: &str) -> String {
    let mut keys: Vec<String> = name.split("__").map(str::to_lowercase).collect();
    if let ([section, key, ..], Some(project)) = (&mut keys[..], name.split("__").nth(1))
        && section == "projects"
        && project.contains(char::is_lowercase)
    {
        project.clone_into(key);
    }
    keys.join(".")
}

/// Reads a variable like a TOML value if it is a list, a table, a quoted string or a whole number; else as a string, so
/// that strings need no quotes.
fn parse_variable(text: &str) -> Value {
    let parsed = Toml::from_str::<Dict>(&format!("value = {text}")).ok();
    let value = parsed.filter(|values| values.len() == 1).and_then(|mut values| values.remove("value"));
    match value {
        Some(value @ Value::Num(..)) if value.to_i128().is_some() => value,
        Some(value) if text.starts_with(['[', '{', '"', '\'']) => value,
        _ => Value::from(text),
    }
}

/// Whether Kubernetes set the variable. It does so in every pod if the name of a Service starts with `antiphon`.
fn is_kubernetes_variable(name: &str, value: &str) -> bool {
    let is_port_name = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && value.contains("://"))
        || name.split_once("_PORT_").is_some_and(|(_, rest)| is_port_name(rest))
}

/// The value for an error message, unless it is or may hold a secret.
fn displayable(key: &str, value: &Value) -> Option<String> {
    // Names of headers and of parameters do not tell for certain what is a secret.
    let is_secret = key == "store.url"
        || ["api_key", ".headers.", ".query."].iter().any(|part| key.contains(part))
        || ["_secret", "_token", ".value"].iter().any(|end| key.ends_with(end));
    let is_pattern = key.contains(".models[");
    match value {
        _ if is_secret => None,
        // URLs hold credentials before the `@` and after the `?`.
        Value::String(_, text) if !is_pattern && text.contains(['@', '?', '#']) => None,
        Value::String(_, text) => Some(format!("{text:?}")),
        Value::Bool(_, is_set) => Some(is_set.to_string()),
        Value::Num(..) => value.to_i128().map(|number| number.to_string()),
        _ => None,
    }
}

/// Removes the value at a path; for an element of a list, the whole list, as the indices of others would change.
fn remove(values: &mut Value, path: &[String]) -> Option<Value> {
    let end = path.iter().rposition(|segment| segment.parse::<usize>().is_err())?;
    let parent = path[..end].iter().try_fold(values, |value, segment| match value {
        Value::Dict(_, keys) => keys.get_mut(segment),
        Value::Array(_, elements) => elements.get_mut(segment.parse::<usize>().ok()?),
        _ => None,
    })?;
    match parent {
        Value::Dict(_, keys) => keys.remove(&path[end]),
        _ => None,
    }
}

fn position(text: &str, span: Option<Range<usize>>) -> (usize, usize) {
    let before = span.and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}
