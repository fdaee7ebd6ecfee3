//! Commands whose output cannot be written: no command panics, and no secret is lost unnoticed.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::binary;
use crate::command::antiphon;

const COMMANDS_WITH_SECRETS: [(&[&str], &str); 3] = [
    (&["keys", "create", "new-one"], "antiphon keys rotate new-one"),
    (&["keys", "rotate", "laptop"], "antiphon keys rotate laptop"),
    (&["admin", "token"], "run the command again"),
];

/// The exit code and what is on standard error.
async fn printing_to(dir: &Path, args: &[&str], stdout: impl Into<Stdio>) -> (i32, String) {
    let mut command = Command::new(binary());
    command.args(args).current_dir(dir).env_clear().env("HOME", dir).stdin(Stdio::null()).stdout(stdout);
    let output = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().await.unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn full_disk() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// A pipe that nobody reads.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

async fn with_a_key() -> TempDir {
    let dir = TempDir::new().unwrap();
    assert_eq!(antiphon(dir.path(), &["keys", "create", "laptop"], &[]).await.0, 0);
    dir
}

/// How the store changed: the audit log.
async fn changes(dir: &Path) -> usize {
    let (code, list, error) = antiphon(dir, &["audit", "--json"], &[]).await;
    assert_eq!(code, 0, "{error}");
    serde_json::from_str::<Value>(&list).unwrap()["entries"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_secret_that_could_not_be_printed_is_said_to_be_lost() {
    let dir = with_a_key().await;
    for (args, advice) in COMMANDS_WITH_SECRETS {
        for args in [args.to_vec(), [args, &["--json"]].concat()] {
            let before = changes(dir.path()).await;
            let (code, error) = printing_to(dir.path(), &args, full_disk()).await;
            assert!(error.contains("could not be printed and is lost"), "{args:?}: {error}");
            assert!(
                code == 1 && error.contains(advice) && error.contains("No space left"),
                "{args:?}: {error}"
            );
            assert_eq!(changes(dir.path()).await, before + 1, "{args:?}");
            antiphon(dir.path(), &["keys", "delete", "new-one"], &[]).await;
        }
    }
}

#[tokio::test]
async fn no_secret_is_made_that_nobody_would_read() {
    let dir = with_a_key().await;
    for (args, _) in COMMANDS_WITH_SECRETS {
        let (code, error) = printing_to(dir.path(), args, closed_pipe()).await;
        assert!(code == 1 && error.contains("nothing was changed"), "{args:?}: {error}");
    }
    assert_eq!(changes(dir.path()).await, 1);
}

#[tokio::test]
async fn a_command_ends_quietly_when_its_reader_goes_away_and_fails_on_a_full_disk() {
    let dir = with_a_key().await;
    for args in [
        &["keys", "list"][..],
        &["keys", "list", "--json"],
        &["keys", "show", "laptop"],
        &["usage"],
        &["usage", "--csv"],
        &["audit"],
        &["store", "stats"],
        &["store", "check"],
        &["migrate"],
        &["doctor"],
        &["config", "show"],
        &["completions", "bash"],
        &["keys", "revoke", "laptop"],
        &["keys", "delete", "laptop"],
    ] {
        let (code, error) = printing_to(dir.path(), args, closed_pipe()).await;
        assert!(code == 141 && !error.contains("antiphon:"), "{args:?}: {error}");
        if args[1..] == ["delete", "laptop"] {
            continue;
        }
        let (code, error) = printing_to(dir.path(), args, full_disk()).await;
        assert!(
            code == 1 && error.contains("cannot write to standard output: No space left"),
            "{args:?}: {error}"
        );
    }
}

#[tokio::test]
async fn a_secret_is_printed_when_standard_error_is_full() {
    let dir = TempDir::new().unwrap();
    let mut command = Command::new(binary());
    command.args(["keys", "create", "laptop"]).current_dir(dir.path()).env_clear().env("HOME", dir.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(full_disk());
    let output = command.spawn().unwrap().wait_with_output().await.unwrap();
    assert!(output.status.success() && output.stdout.starts_with(b"apn-"), "{output:?}");
}
