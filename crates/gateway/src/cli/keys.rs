//! `antiphon keys`: the credentials of clients.

use std::time::Duration;

use antiphon_access::audit::Actor;
use antiphon_access::keys::{KeyView, KeyWithSecret, NewKey};
use antiphon_access::pattern::PatternText;
use clap::{Args, Subcommand};
use serde_json::json;

use super::operations::{open, with_operations};
use super::print_json;
use crate::config::Loaded;
use crate::operations::{KeyList, Operations, Page, parse_object};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a key and print its secret, which is shown this once. Running gateways know it within two seconds
    #[command(
        after_help = "Example:\n  antiphon keys create laptop --models 'gpt-*' --expires 2030-01-31T18:00:00+01:00\n\n\
        As soon as there is a key, every client needs one."
    )]
    Create(Create),
    /// List the keys, by name
    #[command(after_help = "Example:\n  antiphon keys list --json")]
    List {
        /// Print JSON, as the admin API answers
        #[arg(long)]
        json: bool,
    },
    /// Show one key
    #[command(after_help = "Example:\n  antiphon keys show laptop")]
    Show {
        /// The key's name
        name: String,
        /// Print JSON, as the admin API answers
        #[arg(long)]
        json: bool,
    },
    /// Give a key another secret, which is shown this once
    #[command(after_help = "Example:\n  antiphon keys rotate laptop --overlap 1h")]
    Rotate {
        /// The key's name
        name: String,
        /// For how long the secret of now works too, such as 1h; at most 30d [default: not at all]
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        overlap: Option<Duration>,
        /// Print JSON, as the admin API answers
        #[arg(long)]
        json: bool,
    },
    /// End a key for good; it stays in lists. Running gateways refuse it within two seconds
    #[command(after_help = "Example:\n  antiphon keys revoke laptop")]
    Revoke {
        /// The key's name
        name: String,
        /// Print JSON, as the admin API answers
        #[arg(long)]
        json: bool,
    },
    /// Remove a key, and free its name; what its project has stored stays
    #[command(after_help = "Example:\n  antiphon keys delete laptop\n\n\
        Without any key left, a gateway on loopback serves everybody again: `revoke` keeps it closed.")]
    Delete {
        /// The key's name
        name: String,
        /// Print JSON, as the admin API answers
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub struct Create {
    /// What lists and logs call it: 1 to 64 of A-Z a-z 0-9 _ . -
    name: String,
    /// The project whose responses it sees; keys of one project share them [default: one of its own]
    #[arg(long)]
    project: Option<String>,
    /// A pattern of models that it may use, with * for any letters; may be repeated [default: every model]
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    models: Vec<String>,
    /// When it ends, in RFC 3339 with its zone [default: never]
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// Limits, a JSON object
    #[arg(long, value_name = "JSON", default_value = "{}")]
    limits: String,
    /// Print JSON, as the admin API answers
    #[arg(long)]
    json: bool,
}

impl Command {
    pub fn run(&self, loaded: &Loaded) -> anyhow::Result<()> {
        let config = &loaded.config;
        with_operations(config, open(&config.store), async |operations| self.run_with(operations).await)
    }

    async fn run_with(&self, operations: &Operations) -> anyhow::Result<()> {
        let actor = Actor::CommandLine;
        match self {
            Self::Create(create) => {
                print_secret(&operations.create_key(create.to_key()?, actor).await?, create.json)
            }
            Self::List { json } => print_list(&operations.list_keys(&Page::whole()).await?, *json),
            Self::Show { name, json } => print(&operations.key(name).await?, *json),
            Self::Rotate { name, overlap, json } => {
                print_secret(&operations.rotate_key(name, overlap.unwrap_or_default(), actor).await?, *json)
            }
            Self::Revoke { name, json } => print(&operations.revoke_key(name, actor).await?, *json),
            Self::Delete { name, json } => {
                let deleted = operations.delete_key(name, actor).await?;
                if *json {
                    return print_json(&deleted);
                }
                println!("{name} is gone");
                Ok(())
            }
        }
    }
}

impl Create {
    fn to_key(&self) -> anyhow::Result<NewKey> {
        let limits = parse_object(self.limits.as_bytes()).map_err(|invalid| match invalid.param {
            None => anyhow::Error::new(invalid).context("--limits is no JSON object"),
            Some(_) => anyhow::Error::new(invalid).context("--limits"),
        });
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

fn print_list(list: &KeyList, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(list);
    }
    println!("{:<20} {:<8} {:<14} {:<37} {:<20} models", "key", "state", "secret", "project", "expires");
    for key in &list.keys {
        println!(
            "{:<20} {:<8} {:<14} {:<37} {:<20} {}",
            key.name,
            key.state.as_str(),
            format!("{}…", key.prefix),
            key.project,
            key.expires_at.as_deref().unwrap_or("never"),
            or_every_model(&key.models)
        );
    }
    Ok(())
}

fn print(key: &KeyView, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(key);
    }
    println!("name             {}", key.name);
    println!("id               {}", key.id);
    println!("state            {}", key.state.as_str());
    println!("secret           {}…", key.prefix);
    println!("project          {}", key.project);
    println!("models           {}", or_every_model(&key.models));
    println!("limits           {}", json!(key.limits));
    println!("created          {}", key.created_at);
    println!("expires          {}", key.expires_at.as_deref().unwrap_or("never"));
    println!("last used        {}", key.last_used_at.as_deref().unwrap_or("never"));
    for (label, time) in [("revoked", &key.revoked_at), ("earlier secret", &key.previous_secret_until)] {
        if let Some(time) = time {
            println!("{label:<16} {}{time}", if label == "revoked" { "" } else { "until " });
        }
    }
    Ok(())
}

/// The secret alone is on standard output, for scripts.
fn print_secret(issued: &KeyWithSecret, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(issued);
    }
    let KeyWithSecret { key, secret } = issued;
    eprintln!("The secret of {} in project {}, shown this once:", key.name, key.project);
    println!("{secret}");
    Ok(())
}

fn or_every_model(models: &[String]) -> String {
    if models.is_empty() { "every model".to_owned() } else { models.join(", ") }
}
