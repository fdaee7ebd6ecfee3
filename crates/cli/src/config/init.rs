//! `antiphon config init`: writes a first configuration file, from flags or from answers to three questions.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, ErrorKind, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use antiphon_config::{Config, ConfigError, Environment, Overrides, Problem, Secrets};
use anyhow::{Context, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::output::print_line;
use crate::{exit_with_usage_error, print_json, working_directory};

/// The base URL of an upstream, and the variable that holds its key, by the name that an operator may give instead.
const KNOWN: [(&str, &str, &str); 4] = [
    ("openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
    ("ollama", "http://127.0.0.1:11434/v1", NO_KEY),
    ("lmstudio", "http://127.0.0.1:1234/v1", NO_KEY),
    ("vllm", "http://127.0.0.1:8000/v1", NO_KEY),
];
/// The keys that flags are written to.
const FLAGS: [(&str, &str); 3] = [
    ("accounts[0].base_url", "--upstream"),
    ("accounts[0].api_key", "--api-key-env"),
    ("store.url", "--store"),
];
const NO_KEY: &str = "none";
const DEFAULT_STORE: &str = "default";

#[derive(Debug, Args)]
pub struct Arguments {
    /// The upstream: openai, ollama, lmstudio, vllm, or a base URL
    #[arg(long, value_name = "NAME|URL")]
    upstream: Option<String>,
    /// The environment variable that holds its API key, or none [default: OPENAI_API_KEY for openai, none for others]
    #[arg(long, value_name = "VARIABLE")]
    api_key_env: Option<String>,
    /// The database: the path of an SQLite file, or a URL [default: an SQLite file in the home directory]
    #[arg(long, value_name = "PATH|URL")]
    store: Option<String>,
    /// The file to write
    #[arg(long, value_name = "FILE", default_value = "antiphon.toml")]
    output: PathBuf,
    /// Overwrite the file if it exists
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What the file is made of.
struct Answers {
    name: String,
    base_url: String,
    /// `None` for an upstream without a key.
    variable: Option<String>,
    /// `None` for the default.
    store: Option<String>,
}

// === impl Arguments ===

impl Arguments {
    pub fn run(&self) -> anyhow::Result<()> {
        ensure!(self.force || !self.output.exists(), "{}", exists(&self.output));
        let is_terminal = io::stdin().is_terminal();
        if !is_terminal && self.upstream.is_none() {
            exit_with_usage_error(
                "standard input is not a terminal: give --upstream, such as `--upstream openai`",
            );
        }
        let answers = if is_terminal {
            self.answers(&mut io::stdin().lock(), &mut io::stderr())?
        } else {
            self.answers(&mut io::empty(), &mut io::sink())?
        };
        if answers.store.as_ref().is_some_and(|url| url.starts_with("sqlite://~/")) {
            exit_with_usage_error(
                "--store: write out the home directory in the path: only a shell replaces `~`",
            );
        }
        let environment = Environment::from_process();
        let text = answers.to_toml();
        let cwd = working_directory()?;
        let overrides = Overrides { secrets: Secrets::Optional, ..Overrides::default() };
        let parsed = Config::parse(Some((&self.output, &text)), &cwd, &environment, overrides);
        if let Some(rejected) = parsed.as_ref().err().and_then(rejected_flags) {
            exit_with_usage_error(rejected);
        }
        parsed?;
        self.write(&text)?;
        let unset = answers.variable.filter(|name| environment.get(name).is_none());
        if self.json {
            return print_json(&json!({ "file": self.output, "unset_variable": unset }));
        }
        print_line!("Wrote {}. Next:", self.output.display())?;
        if let Some(name) = unset {
            print_line!("  export {name}=…")?;
        }
        let is_found = cwd.join(&self.output) == Config::default_file(&cwd, &environment);
        let flag = if is_found { String::new() } else { format!(" --config {}", self.output.display()) };
        print_line!("  antiphon doctor{flag}    # checks it\n  antiphon serve{flag}")
    }

    /// Asks for what the flags leave open. An empty answer, or none, stands for the default.
    fn answers(&self, input: &mut impl BufRead, output: &mut impl Write) -> io::Result<Answers> {
        let mut ask = |given: &Option<String>, question: &str, default: &str| match given {
            Some(given) => Ok(given.clone()),
            None => {
                write!(output, "{question} [{default}]: ")?;
                output.flush()?;
                let mut line = String::new();
                input.read_line(&mut line)?;
                Ok::<_, io::Error>(
                    Some(line.trim()).filter(|line| !line.is_empty()).unwrap_or(default).to_owned(),
                )
            }
        };
        let upstream =
            ask(&self.upstream, "Upstream: openai, ollama, lmstudio, vllm, or a base URL", "openai")?;
        let known = KNOWN.iter().find(|(name, ..)| *name == upstream);
        let variable = known.map_or(NO_KEY, |(_, _, variable)| variable);
        let variable =
            ask(&self.api_key_env, "Environment variable that holds its API key, or none", variable)?;
        let store = ask(&self.store, "Store: the path of an SQLite file, or a database URL", DEFAULT_STORE)?;
        Ok(Answers {
            name: known.map_or("main", |(name, ..)| name).to_owned(),
            base_url: known.map_or(upstream.as_str(), |(_, url, _)| url).to_owned(),
            variable: Some(variable).filter(|variable| variable != NO_KEY),
            store: Some(store).filter(|store| store != DEFAULT_STORE).map(to_url),
        })
    }

    fn write(&self, text: &str) -> anyhow::Result<()> {
        let mut options = OpenOptions::new();
        // A database URL may hold a password.
        options.write(true).mode(0o600);
        let options = if self.force { options.create(true).truncate(true) } else { options.create_new(true) };
        let failed = || format!("cannot write {}", self.output.display());
        let mut file = match options.open(&self.output) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!("{}", exists(&self.output)),
            opened => opened.with_context(failed)?,
        };
        let written = file.write_all(text.as_bytes());
        if written.is_err() && !self.force {
            // The next try would find that it exists.
            fs::remove_file(&self.output).ok();
        }
        written.with_context(failed)
    }
}

/// The flags whose values the configuration rejects, and why; `None` if something else is wrong, such as a variable.
fn rejected_flags(error: &ConfigError) -> Option<String> {
    let ConfigError::Invalid { problems } = error else { return None };
    let of_flag = |problem: &Problem| {
        let (_, flag) = FLAGS.iter().find(|(key, _)| problem.key.starts_with(key))?;
        problem.line.map(|_| format!("{flag}: {}", problem.rule))
    };
    let rejected: Option<Vec<String>> = problems.iter().map(of_flag).collect();
    rejected.map(|rejected| rejected.join("\n"))
}

fn exists(path: &Path) -> String {
    format!("{} exists: name another file with --output, or overwrite it with --force", path.display())
}

/// A path as the URL of a database.
fn to_url(store: String) -> String {
    if store.contains(':') { store } else { format!("sqlite://{store}") }
}

// === impl Answers ===

impl Answers {
    fn to_toml(&self) -> String {
        let quote = |text: &str| Value::from(text).to_string();
        let url = match &self.store {
            Some(url) => format!("url = {}", quote(url)),
            None => "# Default: antiphon/antiphon.db in $XDG_DATA_HOME, or else in ~/.local/share.\n\
                     # url = \"sqlite:///var/lib/antiphon/antiphon.db\""
                .to_owned(),
        };
        let api_key = match &self.variable {
            Some(name) => format!(
                "# The environment variable that holds its API key. A file works as well: {{ file = \"path\" }}.\n\
                 api_key = {{ env = {} }}",
                quote(name)
            ),
            None => "# Its API key, if it needs one: {{ env = \"NAME\" }} or {{ file = \"path\" }}.\n\
                     # api_key = { env = \"OPENAI_API_KEY\" }"
                .replace("{{", "{")
                .replace("}}", "}"),
        };
        format!(
            r#"# The configuration of Antiphon. `antiphon config check` finds mistakes, and `antiphon config show`
# prints every value that applies. docs/antiphon.example.toml describes all keys.

# The address for clients. Before other machines can connect, create a key: `antiphon keys create`.
listen = "127.0.0.1:8080"

[store]
# The database: an SQLite file, or PostgreSQL as "postgres://user:password@host:5432/database".
{url}

# How long responses are stored, or "forever".
retention = "30d"

[[accounts]]
# The account's name in logs, metrics and the store.
name = {name}

# The base URL of its upstream, without /responses.
base_url = {base_url}

{api_key}
"#,
            name = quote(&self.name),
            base_url = quote(&self.base_url),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments() -> Arguments {
        let output = "antiphon.toml".into();
        Arguments { upstream: None, api_key_env: None, store: None, output, force: false, json: false }
    }

    fn load(answers: &Answers) -> Config {
        let text = answers.to_toml();
        let environment =
            Environment::from_iter([("HOME", "/home/ada"), ("A_KEY", "k"), ("OPENAI_API_KEY", "k")]);
        let file = (Path::new("antiphon.toml"), text.as_str());
        Config::parse(Some(file), Path::new("/"), &environment, Overrides::default()).expect(&text)
    }

    #[test]
    fn three_questions_are_asked_and_their_defaults_are_a_working_configuration() {
        let mut asked = Vec::new();
        let answers = arguments().answers(&mut "\n\n\n".as_bytes(), &mut asked).expect("it can be read");
        assert_eq!(String::from_utf8_lossy(&asked).matches("]: ").count(), 3);
        let config = load(&answers);
        assert_eq!(config.accounts[0].base_url.as_str(), "https://api.openai.com/v1");
        assert!(config.show().contains("OPENAI_API_KEY") && config.show().contains("/home/ada"));
    }

    #[test]
    fn answers_and_flags_are_written() {
        let arguments = Arguments { store: Some("data/\"a\".db".to_owned()), ..arguments() };
        let mut asked = Vec::new();
        let input = "https://api.example/v1\nA_KEY\n";
        let answers = arguments.answers(&mut input.as_bytes(), &mut asked).expect("it can be read");
        assert_eq!(String::from_utf8_lossy(&asked).matches("]: ").count(), 2, "flags are not asked for");
        let config = load(&answers);
        assert_eq!(config.store.url.expose(), "sqlite://data/\"a\".db");
        assert_eq!(config.accounts[0].base_url.as_str(), "https://api.example/v1");
        assert!(config.accounts[0].api_key.is_some());
        let local = arguments.answers(&mut "ollama\n".as_bytes(), &mut Vec::new()).expect("it can be read");
        assert!(load(&local).accounts[0].api_key.is_none());
    }
}
