//! A real browser: Chromium without a window, driven over the WebDriver protocol by Debian's `chromedriver`.

use std::process::Stdio;
use std::time::Duration;

use http::Method;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::{Client, eventually};

/// How W3C WebDriver marks a reference to an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// For one command: a busy machine takes seconds to start a browser.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// A browser with a profile of its own; ended when it is dropped.
pub struct Browser {
    driver: Client,
    session: String,
    /// The browser's, which outlives its driver.
    process: Option<Pid>,
    _profile: TempDir,
    _chromedriver: Child,
}

impl Browser {
    pub async fn start() -> Self {
        let mut chromedriver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver is installed: Debian's package chromium-driver");
        let mut lines = BufReader::new(chromedriver.stdout.take().expect("it is piped")).lines();
        let port = loop {
            let line = lines.next_line().await.expect("it is text").expect("chromedriver says its port");
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                break port.trim_end_matches('.').to_owned();
            }
        };
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let profile = TempDir::new().expect("a temporary folder");
        let driver = Client::new(&format!("http://127.0.0.1:{port}"));
        let arguments = [
            "--headless=new",
            // Tests run as root in containers, which have no room in /dev/shm.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--window-size=1280,900",
            &format!("--user-data-dir={}", profile.path().display()),
        ];
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
            "timeouts": {"script": 60_000, "pageLoad": 60_000},
        }}});
        let mut browser = Self {
            driver,
            session: String::new(),
            process: None,
            _profile: profile,
            _chromedriver: chromedriver,
        };
        let started = browser.command(Method::POST, "", capabilities).await;
        let process = started["capabilities"]["goog:processID"].as_i64();
        browser.process = process.and_then(|id| Pid::from_raw(id.try_into().ok()?));
        browser.session = format!("/{}", started["sessionId"].as_str().expect("a session"));
        browser
    }

    async fn command(&self, method: Method, path: &str, body: Value) -> Value {
        let path = format!("/session{}{path}", self.session);
        let body = if method == Method::GET { String::new() } else { body.to_string() };
        let sending = self.driver.request(method, &path, &[], body);
        let reply = tokio::time::timeout(COMMAND_TIMEOUT, sending).await.expect("the browser answers");
        let value = reply.json()["value"].clone();
        assert!(reply.status.is_success(), "{path}: {value}");
        value
    }

    /// Opens an address and waits until the page is loaded.
    pub async fn open(&self, url: &str) {
        self.command(Method::POST, "/url", json!({ "url": url })).await;
    }

    pub async fn address(&self) -> String {
        self.command(Method::GET, "/url", Value::Null).await.as_str().expect("an address").to_owned()
    }

    /// Runs a function body in the page and returns its result.
    pub async fn run(&self, script: &str) -> Value {
        self.command(Method::POST, "/execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// As [`run`](Self::run), for a body that calls `arguments[0]` with its result.
    pub async fn run_async(&self, script: &str) -> Value {
        self.command(Method::POST, "/execute/async", json!({ "script": script, "args": [] })).await
    }

    /// Waits until an expression is true in the page.
    pub async fn until(&self, expression: &str) {
        let script = format!("return Boolean({expression})");
        eventually(expression, async || self.run(&script).await == true).await;
    }

    /// Waits until the page shows a text.
    pub async fn until_shown(&self, text: &str) {
        self.until(&format!("document.body?.innerText.includes({})", json!(text))).await;
    }

    /// The text that the page shows.
    pub async fn text(&self) -> String {
        self.run("return document.body.innerText").await.as_str().unwrap_or_default().to_owned()
    }

    /// The path in the element's own commands, once there is one that matches.
    async fn element(&self, selector: &str) -> String {
        self.until(&format!("document.querySelector({})", json!(selector))).await;
        let query = json!({ "using": "css selector", "value": selector });
        let found = self.command(Method::POST, "/element", query).await;
        format!("/element/{}", found[ELEMENT].as_str().expect("an element"))
    }

    /// Clicks on the first element that matches.
    pub async fn click(&self, selector: &str) {
        let element = self.element(selector).await;
        self.command(Method::POST, &format!("{element}/click"), json!({})).await;
    }

    /// Answers the question that the page asks with "OK".
    pub async fn confirm(&self) {
        self.command(Method::POST, "/alert/accept", json!({})).await;
    }

    /// Types into the first element that matches. `\u{e004}` is Tab and `\u{e007}` Enter.
    pub async fn type_into(&self, selector: &str, text: &str) {
        let element = self.element(selector).await;
        self.command(Method::POST, &format!("{element}/value"), json!({ "text": text })).await;
    }

    /// Makes the page this wide.
    pub async fn set_width(&self, pixels: u32) {
        let size = json!({"width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
    }

    pub async fn delete_cookies(&self) {
        self.command(Method::DELETE, "/cookie", Value::Null).await;
    }

    /// Sends these headers with every request from now on, as a proxy would.
    pub async fn set_headers(&self, headers: Value) {
        self.devtools("Network.enable", json!({})).await;
        self.devtools("Network.setExtraHTTPHeaders", json!({ "headers": headers })).await;
    }

    async fn devtools(&self, name: &str, parameters: Value) {
        self.command(Method::POST, "/goog/cdp/execute", json!({ "cmd": name, "params": parameters })).await;
    }

    /// What the console has said since the last call: errors of scripts, failed requests, and breaches of the content policy.
    pub async fn console(&self) -> Vec<String> {
        let entries = self.command(Method::POST, "/se/log", json!({ "type": "browser" })).await;
        let entries = entries.as_array().cloned().unwrap_or_default();
        let is_problem = |entry: &&Value| entry["level"] == "SEVERE" || entry["level"] == "WARNING";
        entries
            .iter()
            .filter(is_problem)
            .map(|entry| format!("{} {}", entry["level"], entry["message"]))
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(process) = self.process {
            rustix::process::kill_process(process, Signal::KILL).ok();
        }
    }
}
