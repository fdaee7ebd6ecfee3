//! What an account's upstream speaks, and `chat`: what its chat completions are like.

use antiphon_upstream::dialect::Dialect;
use antiphon_upstream::dialect::chat::{ChatSettings, ReasoningAs, UnsupportedTools};
use antiphon_upstream::settings::{UpstreamBackground, UpstreamState, UpstreamTransport};
use serde::{Deserialize, Serialize};
use url::Url;

use super::accounts::AccountConfig;
use super::error::Problems;
use super::values::{Word, boolean, word};

/// The API that an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Api {
    #[default]
    Responses,
    Chat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct ChatConfig {
    /// What happens to a request with tools that chat completions don't have. Default: omit.
    #[serde(with = "word")]
    pub unsupported_tools: UnsupportedTools,

    /// How clients get reasoning: as text, or as a summary. Default: text.
    #[serde(with = "word")]
    pub reasoning_as: ReasoningAs,

    /// Whether the upstream writes reasoning into its text, between `<think>` and `</think>`. Default: false.
    #[serde(deserialize_with = "boolean::deserialize")]
    pub think_tags: bool,

    /// Whether all system messages become the first one, because the model's template takes no other. Default: false.
    #[serde(deserialize_with = "boolean::deserialize")]
    pub merge_system: bool,
}

impl Word for Api {
    const WORDS: &[(&str, Self)] = &[("responses", Self::Responses), ("chat", Self::Chat)];
}

impl Word for UnsupportedTools {
    const WORDS: &[(&str, Self)] = &[("omit", Self::Omit), ("reject", Self::Reject)];
}

impl Word for ReasoningAs {
    const WORDS: &[(&str, Self)] = &[("text", Self::Text), ("summary", Self::Summary)];
}

impl Api {
    pub fn dialect(self, base_url: &Url, chat: &ChatConfig) -> Dialect {
        match self {
            Self::Responses => Dialect::Responses,
            Self::Chat => Dialect::Chat(ChatSettings {
                is_openai: is_openai(base_url),
                unsupported_tools: chat.unsupported_tools,
                reasoning_as: chat.reasoning_as,
                think_tags: chat.think_tags,
                merge_system: chat.merge_system,
            }),
        }
    }
}

impl ChatConfig {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Checks what accounts with chat completions can't have.
pub(super) fn check(accounts: &[AccountConfig], problems: &mut Problems) {
    let with_chat = accounts.iter().enumerate().filter(|(_, account)| account.api == Api::Chat);
    for (index, account) in with_chat {
        let mut reject =
            |field: &str, rule: String| problems.reject(format!("accounts[{index}].{field}"), rule);
        if account.transport != UpstreamTransport::Http {
            reject("transport", r#"must be "http" with api = "chat""#.to_owned());
        }
        if account.state != UpstreamState::Replay {
            reject(
                "state",
                r#"must be "replay" with api = "chat": the upstream stores no responses"#.to_owned(),
            );
        }
        if account.background != UpstreamBackground::Gateway {
            reject(
                "background",
                r#"must be "gateway" with api = "chat": the upstream runs nothing in the background"#
                    .to_owned(),
            );
        }
        let shares = |other: &&AccountConfig| other.api != account.api && other.boundary == account.boundary;
        if let Some(other) = accounts.iter().find(shares) {
            let name = &other.name;
            reject(
                "boundary",
                format!(
                    r#"must differ from that of {name:?}, whose encrypted items an account with api = "chat" can't read"#
                ),
            );
        }
    }
}

/// Whether the URL is that of OpenAI's own API or of Azure's copy of it.
fn is_openai(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    host == "api.openai.com" || host.ends_with(".openai.azure.com")
}
