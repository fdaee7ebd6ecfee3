//! `antiphon keys`: the keys of clients.

use std::time::Duration;

use antiphon_access::audit::Actor;
use antiphon_access::keys::{KeyChanges, KeyView, KeyWithSecret, NewKey};
use antiphon_access::limits::LimitSettings;
use antiphon_access::pattern::PatternText;
use antiphon_config::Loaded;
use antiphon_operations::{InvalidRequest, KeyList, OperationError, Operations, Page, parse_object};
use clap::{Args, Subcommand};
use serde_json::json;

use super::operations::{open, open_existing, open_for_reading, with_operations};
use super::output::{self, print_line, print_note};
use super::{exit_with_usage_error, print_json};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a key and print its secret, which is shown only once. Running gateways accept it within two seconds
    #[command(
        after_help = "Example:\n  antiphon keys create laptop --models 'gpt-*' --expires 2030-01-31T18:00:00+01:00\n\n\
        Once a key exists, every client needs one."
    )]
    Create(Create),
    /// List all keys, sorted by name
    #[command(after_help = "Example:\n  antiphon keys list --json")]
    List {
        /// Print the JSON object of the admin API
        #[arg(long)]
        json: bool,
    },
    /// Show one key
    #[command(after_help = "Example:\n  antiphon keys show laptop")]
    Show {
        /// Key name
        name: String,
        /// Print the JSON object of the admin API
        #[arg(long)]
        json: bool,
    },
    /// Replace the secret of a key; the new one is shown only once
    #[command(after_help = "Example:\n  antiphon keys rotate laptop --overlap 1h")]
    Rotate {
        /// Key name
        name: String,
        /// How long the old secret keeps working, such as 1h; at most 30d [default: it stops working immediately]
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        overlap: Option<Duration>,
        /// Print the JSON object of the admin API
        #[arg(long)]
        json: bool,
    },
    /// Replace the limits of a key; running gateways apply them within two seconds. What was used of a limit that stays still counts
    #[command(
        after_help = "Example:\n  antiphon keys limits laptop '{\"requests_per_minute\":60}'\n\nSee docs/limits.md for all limits. \
        `{}` removes them."
    )]
    Limits {
        /// Key name
        name: String,
        /// Limits as a JSON object, see docs/limits.md
        #[arg(value_name = "LIMITS")]
        limits: String,
        /// Print the JSON object of the admin API
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key permanently; it stays in lists. Running gateways reject it within two seconds
    #[command(after_help = "Example:\n  antiphon keys revoke laptop")]
    Revoke {
        /// Key name
        name: String,
        /// Print the JSON object of the admin API
        #[arg(long)]
        json: bool,
    },
    /// Delete a key and free its name; the responses of its project stay
    #[command(after_help = "Example:\n  antiphon keys delete laptop\n\n\
        When the last key is deleted, a gateway on loopback accepts clients without a key again. Use `revoke` to prevent that.")]
    Delete {
        /// Key name
        name: String,
        /// Print the JSON object of the admin API
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub struct Create {
    /// Name shown in lists and logs: 1 to 64 characters of A-Z a-z 0-9 _ . -; other than `.`, `..` and `new`
    name: String,
    /// Project of the key; keys of a project share its responses [default: a new project]
    #[arg(long)]
    project: Option<String>,
    /// Allowed models, a name or a pattern such as gpt-*; may be repeated [default: all models]
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    models: Vec<String>,
    /// Expiry time in RFC 3339 with a time zone [default: never]
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// Limits as a JSON object, see docs/limits.md
    #[arg(long, value_name = "JSON", default_value = "{}")]
    limits: String,
    /// Print the JSON object of the admin API
    #[arg(long)]
    json: bool,
}

impl Command {
    pub fn run(&self, loaded: &Loaded) -> anyhow::Result<()> {
        let config = &loaded.config;
        let store = &config.store;
        if matches!(self, Self::Create(_) | Self::Rotate { .. }) {
            output::require_reader()?;
        }
        let opening = async {
            match self {
                Self::Create(_) => open(store).await,
                Self::List { .. } | Self::Show { .. } => open_for_reading(store).await,
                Self::Rotate { .. } | Self::Limits { .. } | Self::Revoke { .. } | Self::Delete { .. } => {
                    open_existing(store).await
                }
            }
        };
        let ran =
            with_operations(config, opening, async |operations| self.run_with_operations(operations).await);
        match ran {
            Err(error) if is_usage_error(&error) => exit_with_usage_error(format_args!("{error:#}")),
            ran => ran,
        }
    }

    async fn run_with_operations(&self, operations: &Operations) -> anyhow::Result<()> {
        let actor = Actor::CommandLine;
        match self {
            Self::Create(create) => {
                let created = operations.create_key(create.to_new_key()?, actor).await?;
                print_secret(&created, create.json, "the key was created")
            }
            Self::List { json } => print_list(&operations.list_keys(&Page::whole()).await?, *json),
            Self::Show { name, json } => print(&operations.key(name).await?, *json),
            Self::Rotate { name, overlap, json } => {
                let rotated = operations.rotate_key(name, overlap.unwrap_or_default(), actor).await?;
                print_secret(&rotated, *json, "the key was rotated")
            }
            Self::Limits { name, limits, json } => {
                let changes =
                    KeyChanges { limits: Some(parse_limits(limits, "LIMITS")?), ..KeyChanges::default() };
                print(&operations.change_key(name, changes, actor).await?, *json)
            }
            Self::Revoke { name, json } => print(&operations.revoke_key(name, actor).await?, *json),
            Self::Delete { name, json } => {
                let deleted = operations.delete_key(name, actor).await?;
                if *json {
                    return print_json(&deleted);
                }
                print_line!("{name}: deleted")
            }
        }
    }
}

impl Create {
    fn to_new_key(&self) -> anyhow::Result<NewKey> {
        let limits = parse_limits(&self.limits, "--limits");
        let patterns = || self.models.iter().cloned().map(PatternText).collect();
        Ok(NewKey {
            name: self.name.clone(),
            project: self.project.clone(),
            models: (!self.models.is_empty()).then(patterns),
            expires_at: self.expires.clone(),
            limits: Some(limits?),
        })
    }
}

/// Whether an argument has an invalid value.
fn is_usage_error(error: &anyhow::Error) -> bool {
    error.is::<InvalidRequest>() || matches!(error.downcast_ref(), Some(OperationError::Invalid(_)))
}

/// `source` is where the operator wrote them.
fn parse_limits(text: &str, source: &'static str) -> anyhow::Result<LimitSettings> {
    // A request without a body has no limits. An argument without text is a variable that is not set.
    if !text.trim_start().starts_with('{') {
        return Err(InvalidRequest::value(source, "expected a JSON object; {} stands for no limits").into());
    }
    parse_object(text.as_bytes()).map_err(|invalid| match invalid.param {
        None => anyhow::Error::new(invalid).context(format!("{source} is not a JSON object")),
        Some(_) => anyhow::Error::new(invalid).context(source),
    })
}

fn print_list(list: &KeyList, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(list);
    }
    print_line!("{:<20} {:<8} {:<14} {:<37} {:<20} models", "key", "state", "secret", "project", "expires")?;
    for key in &list.keys {
        print_line!(
            "{:<20} {:<8} {:<14} {:<37} {:<20} {}",
            key.name,
            key.state.as_str(),
            format!("{}…", key.prefix),
            key.project,
            key.expires_at.as_deref().unwrap_or("never"),
            models_or_all(&key.models)
        )?;
    }
    Ok(())
}

fn print(key: &KeyView, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(key);
    }
    print_line!("name             {}", key.name)?;
    print_line!("id               {}", key.id)?;
    print_line!("state            {}", key.state.as_str())?;
    print_line!("secret           {}…", key.prefix)?;
    print_line!("project          {}", key.project)?;
    print_line!("models           {}", models_or_all(&key.models))?;
    print_line!("limits           {}", json!(key.limits))?;
    print_line!("created          {}", key.created_at)?;
    print_line!("expires          {}", key.expires_at.as_deref().unwrap_or("never"))?;
    print_line!("last used        {}", key.last_used_at.as_deref().unwrap_or("never"))?;
    for (label, time) in [("revoked", &key.revoked_at), ("previous secret", &key.previous_secret_until)] {
        if let Some(time) = time {
            print_line!("{label:<16} {}{time}", if label == "revoked" { "" } else { "until " })?;
        }
    }
    Ok(())
}

/// Only the secret goes to standard output, for scripts.
fn print_secret(issued: &KeyWithSecret, json: bool, change: &str) -> anyhow::Result<()> {
    let KeyWithSecret { key, secret } = issued;
    let shown = if json {
        serde_json::to_string_pretty(issued)?
    } else {
        print_note!("Secret of key {} in project {} (shown only once):", key.name, key.project);
        secret.clone()
    };
    let advice = format!("run `antiphon keys rotate {}`", key.name);
    output::print_secret(&shown, change, &advice)
}

fn models_or_all(models: &[String]) -> String {
    if models.is_empty() { "all models".to_owned() } else { models.join(", ") }
}
