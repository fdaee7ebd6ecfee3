//! `antiphon store backup`: one snapshot of the database as a file.

use std::path::Path;
use std::time::Instant;

use antiphon_config::Config;
use antiphon_store::{BackupReport, CopyProgress};
use anyhow::Context;
use serde_json::json;

use super::copy::{PROGRESS_INTERVAL, print_progress};
use crate::output::{print_line, print_note};
use crate::{block_on, print_json};

pub fn run(config: &Config, file: &Path, json: bool) -> anyhow::Result<()> {
    let url = config.store.target().context("store.url")?;
    let mut shown = Instant::now();
    let mut progress = |progress: CopyProgress| {
        if shown.elapsed() >= PROGRESS_INTERVAL {
            shown = Instant::now();
            print_progress(&progress);
        }
    };
    let BackupReport { bytes, responses } =
        block_on(async { Ok(antiphon_store::backup(&url, file, &mut progress).await?) })?;
    if json {
        print_json(&json!({ "file": file, "bytes": bytes, "responses": responses }))?;
    } else {
        print_line!("{url} -> {}: {responses} responses, {} KiB", file.display(), bytes.div_ceil(1024))?;
    }
    if config.accounts.iter().any(|account| account.oauth.is_some())
        && let Some(key_file) = config.store.key_file()
    {
        print_note!("Back up {} as well: it decrypts the tokens of accounts.", key_file.display());
    }
    Ok(())
}
