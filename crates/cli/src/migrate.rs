//! `antiphon migrate`.

use antiphon_config::Loaded;
use anyhow::Context;

use super::block_on;
use super::output::print_line;

/// Migrates the schema. With `check` it only lists what is pending, and fails if anything is.
pub fn run(loaded: &Loaded, check: bool, json: bool) -> anyhow::Result<()> {
    let store = &loaded.config.store;
    let url = match store.migration_target().context("store.migration_url")? {
        Some(url) => url,
        None => store.target().context("store.url")?,
    };
    let migrations = block_on(async {
        if check {
            Ok(antiphon_store::pending(&url).await?)
        } else {
            Ok(antiphon_store::migrate(&url).await?)
        }
    })?;
    if json {
        let key = if check { "pending" } else { "applied" };
        print_line!("{}", serde_json::json!({ key: migrations }))?;
    } else {
        let verb = if check { "pending" } else { "applied" };
        for name in &migrations {
            print_line!("{verb} {name}")?;
        }
        if migrations.is_empty() {
            print_line!("The schema of {url} is up to date.")?;
        }
    }
    anyhow::ensure!(
        !check || migrations.is_empty(),
        "the schema of {url} is not up to date: run `antiphon migrate`"
    );
    Ok(())
}
