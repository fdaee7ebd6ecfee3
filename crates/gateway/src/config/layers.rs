//! The places a config comes from, laid over each other: defaults, file, environment, flags. The later wins, and every
//! value still knows who wrote it.

use std::ops::Range;
use std::path::Path;

use figment::providers::{Format, Toml};
use figment::util::nest;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::de::DeserializeOwned;

use super::environment::Environment;
use super::error::{ConfigError, Problem, Problems, Refusal};

const PREFIX: &str = "ANTIPHON_";

/// Names the config file and is no key.
pub(super) const FILE_VARIABLE: &str = "ANTIPHON_CONFIG";

#[derive(Default)]
pub(super) struct Layers {
    figment: Figment,
}

/// All layers in one tree.
pub(super) struct Merged {
    figment: Figment,
    values: Value,
}

/// What one place says. Its source ends a sentence: "in antiphon.toml".
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
    /// Lays one value over what is there.
    pub(super) fn set(self, source: impl Into<String>, key: &str, value: impl Into<Value>) -> Self {
        let values = nest(key, value.into()).into_dict().unwrap_or_default();
        self.add(source.into(), values)
    }

    /// Lays the text of a TOML file over what is there.
    pub(super) fn file(self, path: &Path, text: &str) -> Result<Self, ConfigError> {
        let values = Toml::from_str(text).map_err(|error| {
            let (line, column) = position(text, error.span());
            let reason = error.message().lines().collect::<Vec<_>>().join(", ");
            ConfigError::Syntax { path: path.to_owned(), line, column, reason }
        })?;
        Ok(self.add(format!("in {}", path.display()), values))
    }

    /// Lays the variables `ANTIPHON_…` over what is there.
    pub(super) fn environment(self, environment: &Environment) -> Self {
        environment
            .starting_with(PREFIX)
            .filter(|(name, value)| *name != FILE_VARIABLE && !is_service_link(name, value))
            .fold(self, |layers, (name, value)| {
                let key = name[PREFIX.len()..].to_lowercase().replace("__", ".");
                layers.set(format!("environment variable {name}"), &key, typed(value))
            })
    }

    pub(super) fn merge(self) -> Merged {
        let values = self.figment.find_value("").expect("every layer was parsed before it was added");
        Merged { figment: self.figment, values }
    }

    fn add(self, source: String, values: Dict) -> Self {
        Self { figment: self.figment.merge(Layer { source, values }) }
    }
}

impl Merged {
    /// Reads the tree as a `T`. What `T` refuses is noted and taken out, so that its default stands in and the next
    /// problem shows; `None` if there is nothing left to take out.
    pub(super) fn extract<T: DeserializeOwned>(&self, problems: &mut Problems) -> Option<T> {
        let mut values = self.values.clone();
        loop {
            match values.deserialize() {
                Ok(read) => return Some(read),
                Err(error) => {
                    problems.refuse_shape(&error);
                    take_out(&mut values, &error.path)?;
                }
            }
        }
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.locate(key).0.is_some()
    }

    /// What is said to the operator about the problems.
    pub(super) fn explain(&self, problems: Problems) -> ConfigError {
        let explain = |Refusal { key, rule, is_shown }| {
            let (value, source) = self.locate(&key);
            let value = value.filter(|_| is_shown).and_then(|value| shown(&key, value));
            Problem { value, source: source.unwrap_or("default").to_owned(), key, rule }
        };
        ConfigError::Invalid { problems: problems.into_refusals().into_iter().map(explain).collect() }
    }

    /// The value at a key, and who wrote it or, where it is missing, what it is missing from.
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

/// A variable's text as the value it would be in a TOML file, where that is a list, a table, a quoted text or a whole
/// number; else the text as it is, so that texts need no quotes.
fn typed(text: &str) -> Value {
    let parsed = Toml::from_str::<Dict>(&format!("value = {text}")).ok();
    let value = parsed.filter(|values| values.len() == 1).and_then(|mut values| values.remove("value"));
    match value {
        Some(value @ Value::Num(..)) if value.to_i128().is_some() => value,
        Some(value) if text.starts_with(['[', '{', '"', '\'']) => value,
        _ => Value::from(text),
    }
}

/// Whether Kubernetes set the variable, which it does in every pod beside a Service whose name starts with `antiphon`.
fn is_service_link(name: &str, value: &str) -> bool {
    let names_port = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && value.contains("://"))
        || name.split_once("_PORT_").is_some_and(|(_, rest)| names_port(rest))
}

/// The value for people, unless it is or may hold a secret.
fn shown(key: &str, value: &Value) -> Option<String> {
    let is_secret = key == "store.url" || key.contains("api_key");
    let is_pattern = key.contains(".models[");
    match value {
        _ if is_secret => None,
        // Credentials are mostly found in URLs, before the `@` and after the `?`.
        Value::String(_, text) if !is_pattern && text.contains(['@', '?', '#']) => None,
        Value::String(_, text) => Some(format!("{text:?}")),
        Value::Bool(_, is_set) => Some(is_set.to_string()),
        Value::Num(..) => value.to_i128().map(|number| number.to_string()),
        _ => None,
    }
}

/// Removes what is at a path; for an element of a list, the whole list, as the others would change their places.
fn take_out(values: &mut Value, path: &[String]) -> Option<Value> {
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
