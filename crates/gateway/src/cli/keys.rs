//! `antiphon keys`: the credentials of clients.

use std::sync::Arc;
use std::time::Duration;

use antiphon_store::{Clock, Store, StoredKey, SystemClock};
use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::block_on;
use crate::config::Loaded;
use antiphon_access::audit::Actor;
use antiphon_access::keys::{Issuer, KeyView, KeyWithSecret, NewKey, Secret};

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
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one key
    #[command(after_help = "Example:\n  antiphon keys show laptop")]
    Show {
        /// The key's name
        name: String,
        /// Print JSON
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
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End a key for good; it stays in lists. Running gateways refuse it within two seconds
    #[command(after_help = "Example:\n  antiphon keys revoke laptop")]
    Revoke {
        /// The key's name
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a key, and free its name; what its project has stored stays
    #[command(after_help = "Example:\n  antiphon keys delete laptop\n\n\
        Without any key left, a gateway on loopback serves everybody again: `revoke` keeps it closed.")]
    Delete {
        /// The key's name
        name: String,
        /// Print JSON
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
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Command {
    pub fn run(&self, loaded: &Loaded) -> anyhow::Result<()> {
        let config = &loaded.config.store;
        block_on(async {
            let store = antiphon_store::open(&config.target()?, config.options()?).await?;
            let done = self.run_on(&store).await;
            store.close().await;
            done
        })
    }

    async fn run_on(&self, store: &Arc<dyn Store>) -> anyhow::Result<()> {
        let issuer = Issuer { store: &**store, clock: &SystemClock, actor: Actor::CommandLine };
        match self {
            Self::Create(create) => {
                let (key, secret) = issuer.create(create.to_key()?).await?;
                print_secret(&key, &secret, create.json)
            }
            Self::List { json } => list(&store.list_keys().await?, *json),
            Self::Show { name, json } => print(&issuer.find(name).await?, *json),
            Self::Rotate { name, overlap, json } => {
                let (key, secret) = issuer.rotate(name, overlap.unwrap_or_default()).await?;
                print_secret(&key, &secret, *json)
            }
            Self::Revoke { name, json } => print(&issuer.revoke(name).await?, *json),
            Self::Delete { name, json } => {
                let key = issuer.delete(name).await?;
                if *json {
                    return print_json(
                        &json!({ "id": key.id.to_string(), "name": key.name, "deleted": true }),
                    );
                }
                println!("{name} is gone");
                Ok(())
            }
        }
    }
}

impl Create {
    fn to_key(&self) -> anyhow::Result<NewKey> {
        let limits: Value = serde_json::from_str(&self.limits).context("--limits is no JSON")?;
        let Value::Object(limits) = limits else { anyhow::bail!("--limits is no JSON object") };
        Ok(NewKey {
            name: self.name.clone(),
            project: self.project.clone(),
            models: self.models.clone(),
            expires_at: self.expires.clone(),
            limits,
        })
    }
}

fn view(key: &StoredKey) -> KeyView {
    KeyView::new(key, SystemClock.now())
}

fn list(keys: &[StoredKey], json: bool) -> anyhow::Result<()> {
    if json {
        let keys: Vec<KeyView> = keys.iter().map(view).collect();
        return print_json(&json!({ "keys": keys }));
    }
    println!("{:<20} {:<8} {:<14} {:<37} {:<20} models", "key", "state", "secret", "project", "expires");
    for key in keys.iter().map(view) {
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

fn print(key: &StoredKey, json: bool) -> anyhow::Result<()> {
    let key = view(key);
    if json {
        return print_json(&serde_json::to_value(&key)?);
    }
    println!("name             {}", key.name);
    println!("id               {}", key.id);
    println!("state            {}", key.state.as_str());
    println!("secret           {}…", key.prefix);
    println!("project          {}", key.project);
    println!("models           {}", or_every_model(&key.models));
    println!("limits           {}", Value::Object(key.limits));
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
fn print_secret(key: &StoredKey, secret: &Secret, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(&serde_json::to_value(KeyWithSecret::new(view(key), secret))?);
    }
    eprintln!("The secret of {} in project {}, shown this once:", key.name, key.project);
    println!("{}", secret.expose());
    Ok(())
}

fn print_json(value: &Value) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

fn or_every_model(models: &[String]) -> String {
    if models.is_empty() { "every model".to_owned() } else { models.join(", ") }
}
