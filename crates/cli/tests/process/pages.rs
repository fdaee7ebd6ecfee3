//! The commands and configurations of the README and of `docs`, tried out as they are written.
//!
//! A block that cannot be tried has a comment above it that says why: `<!-- not run: … -->`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use antiphon_simulator::upstream::{Options, Simulator};
use antiphon_testkit::{Process, Setup, client_tool, repository};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::binary;
use crate::command::antiphon;

/// What pages call the gateway.
const ADDRESS: &str = "http://127.0.0.1:8080";
const MARK: &str = "<!-- not run: ";
const LANGUAGES: [&str; 5] = ["json", "python", "sh", "text", "toml"];
const CLIENT: &str =
    "from openai import OpenAI\nclient = OpenAI(base_url=\"http://127.0.0.1:8080/v1\", api_key=\"any\")\n";

/// A block of code in a page.
#[derive(Debug)]
struct Block {
    /// With the line that it begins at.
    place: String,
    language: String,
    text: String,
    is_marked: bool,
}

/// The README, and the pages that are not generated.
fn pages() -> Vec<PathBuf> {
    let docs = std::fs::read_dir(repository().join("docs")).unwrap();
    let mut pages: Vec<PathBuf> = docs.map(|entry| entry.unwrap().path()).collect();
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    pages.push(repository().join("README.md"));
    pages.sort();
    pages
}

fn blocks(page: &Path) -> Vec<Block> {
    let text = std::fs::read_to_string(page).unwrap();
    let name = page.file_name().unwrap().to_str().unwrap();
    let (mut blocks, mut open) = (Vec::<Block>::new(), false);
    let mut before = "";
    for (number, line) in text.lines().enumerate() {
        let place = format!("{name}:{}", number + 1);
        if let Some(language) = line.strip_prefix("```") {
            if !open {
                assert!(LANGUAGES.contains(&language), "{place}: a block is one of {LANGUAGES:?}");
                let is_marked = before.starts_with(MARK);
                blocks.push(Block { place, language: language.to_owned(), text: String::new(), is_marked });
            }
            open = !open;
        } else if open {
            writeln!(blocks.last_mut().unwrap().text, "{line}").unwrap();
        } else {
            let is_indented_code = line.starts_with("    ") && before.is_empty();
            assert!(!is_indented_code, "{place}: write code between ``` with its language");
        }
        before = line;
    }
    assert!(!open, "{name}: a block does not end");
    blocks
}

fn of_language(page: &Path, language: &str) -> Vec<Block> {
    let is_tried = |block: &Block| block.language == language && !block.is_marked;
    blocks(page).into_iter().filter(is_tried).collect()
}

/// Values for the environment variables that a configuration names.
fn named_variables(toml: &str) -> Vec<(&str, &str)> {
    let names = toml.split("env = \"").skip(1).filter_map(|rest| rest.split_once('"'));
    names.map(|(name, _)| (name, "sk-from-the-environment")).collect()
}

async fn assert_loads(place: &str, toml: &str) {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("antiphon.toml"), toml).unwrap();
    let variables = [named_variables(toml), vec![("OPENAI_API_KEY", "sk-x")]].concat();
    let (code, _, error) = antiphon(directory.path(), &["config", "check"], &variables).await;
    assert_eq!(code, 0, "{place}\n{toml}\n{error}");
}

#[tokio::test]
async fn the_configurations_of_pages_load() {
    for page in pages() {
        for block in of_language(&page, "toml") {
            assert_loads(&block.place, &block.text).await;
        }
        for block in of_language(&page, "json").iter().filter(|block| !block.text.contains('…')) {
            let parsed = serde_json::from_str::<Value>(&block.text);
            assert!(parsed.is_ok(), "{}: {parsed:?}", block.place);
        }
    }
}

#[tokio::test]
async fn the_configurations_to_deploy_load() {
    let deploy = repository().join("deploy");
    let compose = std::fs::read_to_string(deploy.join("compose/antiphon.toml")).unwrap();
    assert_loads("compose/antiphon.toml", &compose).await;
    for (file, member) in [
        ("kubernetes/configmap.yaml", "  antiphon.toml: |\n"),
        ("helm/antiphon/values.yaml", "\nconfig: |\n"),
    ] {
        let text = std::fs::read_to_string(deploy.join(file)).unwrap();
        let (_, rest) = text.split_once(member).unwrap();
        let indent = rest.len() - rest.trim_start_matches(' ').len();
        let lines = rest.lines().take_while(|line| line.is_empty() || line.starts_with(&rest[..indent]));
        let lines: Vec<&str> = lines.map(|line| line.get(indent..).unwrap_or_default()).collect();
        assert_loads(file, &lines.join("\n")).await;
    }
}

/// A gateway for the commands of one page, with the accounts that the page configures.
struct Try {
    _upstream: Simulator,
    setup: Setup,
    gateway: Process,
    token: String,
}

impl Try {
    async fn start(accounts: &[String]) -> Self {
        let upstream = Simulator::bind(Options::default()).await.unwrap();
        let url = upstream.url();
        let names = accounts.iter().map(String::as_str).map(|name| (name, url.as_str()));
        let setup = Setup::with_accounts(names);
        let gateway = Process::start(binary(), &setup).await;
        let (code, token, error) =
            antiphon(setup.folder(), &["--config", "process.toml", "admin", "token"], &[]).await;
        assert_eq!(code, 0, "{error}");
        std::os::unix::fs::symlink(binary(), setup.folder().join("antiphon")).unwrap();
        // A refusal has to fail the command.
        let curl = "#!/bin/sh\nexec /usr/bin/env -u BASH_ENV PATH=/usr/local/bin:/usr/bin:/bin curl --fail-with-body \"$@\"\n";
        let path = setup.folder().join("curl");
        std::fs::write(&path, curl).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Self { _upstream: upstream, setup, gateway, token: token.trim().to_owned() }
    }

    /// Fails if the command does.
    async fn run(&self, place: &str, program: &Path, arguments: &[&str]) {
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.setup.folder().display());
        let output = Command::new(program)
            .args(arguments)
            .current_dir(self.setup.folder())
            .env_clear()
            .envs([("HOME", self.setup.folder().to_str().unwrap()), ("PATH", &path)])
            .envs([("ANTIPHON_CONFIG", "process.toml"), ("TOKEN", &self.token), ("ADMIN_TOKEN", &self.token)])
            .output()
            .await
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{place}: {arguments:?}\n{error}");
    }
}

/// The names of the accounts in the configurations of a page, or one.
fn accounts(page: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for block in of_language(page, "toml").iter().filter(|block| block.text.contains("[[accounts]]")) {
        let named = block.text.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
        for name in named.filter(|name| !names.iter().any(|known| known == name)).collect::<Vec<_>>() {
            names.push(name.to_owned());
        }
    }
    if names.is_empty() {
        names.push("openai".to_owned());
    }
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_pages_succeed() {
    for page in pages() {
        let (shell, python) = (of_language(&page, "sh"), of_language(&page, "python"));
        if shell.is_empty() && python.is_empty() {
            continue;
        }
        let accounts = accounts(&page);
        let tried = Try::start(&accounts).await;
        let here = |text: &str| text.replace(ADDRESS, &tried.gateway.url).replace("NAME", &accounts[0]);
        // Before the commands: one of them may create a key, which clients need from then on.
        for block in &python {
            let client = if block.text.contains("client = ") { "" } else { CLIENT };
            let program = client_tool("python/bin/python");
            tried.run(&block.place, &program, &["-c", &here(&format!("{client}{}", block.text))]).await;
        }
        // Later blocks use variables of earlier ones.
        let script: Vec<String> = shell.iter().map(|block| here(&block.text)).collect();
        let places: Vec<&str> = shell.iter().map(|block| block.place.as_str()).collect();
        let script = format!("set -euo pipefail\n{}", script.join("\n"));
        tried.run(&places.join(", "), Path::new("/bin/bash"), &["-xc", &script]).await;
    }
}
