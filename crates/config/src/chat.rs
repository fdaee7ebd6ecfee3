//! What an account's upstream speaks, and `chat`: what its chat completions are like.

use antiphon_upstream::dialect::Dialect;
use antiphon_upstream::dialect::chat::{ChatForm, ChatSettings, ReasoningAs, UnsupportedTools};
use antiphon_upstream::settings::{UpstreamApi, UpstreamBackground, UpstreamState, UpstreamTransport};
use serde::{Deserialize, Serialize};
use url::Url;

use super::accounts::AccountConfig;
use super::error::Problems;
use super::values::{Word, boolean, word};

/// The API that an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    Responses,
    Chat,
    /// What the upstream has is found out.
    Auto,
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
    const WORDS: &[(&str, Self)] =
        &[("responses", Self::Responses), ("chat", Self::Chat), ("auto", Self::Auto)];
}

impl Word for UnsupportedTools {
    const WORDS: &[(&str, Self)] = &[("omit", Self::Omit), ("reject", Self::Reject)];
}

impl Word for ReasoningAs {
    const WORDS: &[(&str, Self)] = &[("text", Self::Text), ("summary", Self::Summary)];
}

impl Api {
    pub fn settings(self, base_url: &Url, chat: &ChatConfig) -> UpstreamApi {
        let chat = ChatSettings {
            is_openai: is_openai(base_url),
            unsupported_tools: chat.unsupported_tools,
            reasoning_as: chat.reasoning_as,
            think_tags: chat.think_tags,
            merge_system: chat.merge_system,
            form: ChatForm::default(),
        };
        match self {
            Self::Responses => UpstreamApi::Fixed(Dialect::Responses),
            Self::Chat => UpstreamApi::Fixed(Dialect::Chat(chat)),
            Self::Auto => UpstreamApi::Auto(chat),
        }
    }

    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word)
    }
}

impl ChatConfig {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Checks what accounts can't have whose upstream has, or may have, chat completions only.
/// Each account comes with its index in the configuration.
pub(super) fn check(accounts: &[(usize, AccountConfig)], problems: &mut Problems) {
    let may_chat = accounts.iter().filter(|(_, account)| account.api != Api::Responses);
    for (index, account) in may_chat {
        let mut reject =
            |field: &str, rule: String| problems.reject(format!("accounts[{index}].{field}"), rule);
        let api = account.api.word();
        if account.transport != UpstreamTransport::Http {
            reject("transport", format!(r#"must be "http" with api = "{api}""#));
        }
        if account.state != UpstreamState::Replay {
            let why = "chat completions store no responses";
            reject("state", format!(r#"must be "replay" with api = "{api}": {why}"#));
        }
        if account.background != UpstreamBackground::Gateway {
            let why = "chat completions run nothing in the background";
            reject("background", format!(r#"must be "gateway" with api = "{api}": {why}"#));
        }
        if account.api == Api::Auto {
            continue;
        }
        let shares = |(_, other): &&(usize, AccountConfig)| {
            other.api != account.api && other.boundary == account.boundary
        };
        if let Some((_, other)) = accounts.iter().find(shares) {
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

/// Whether the account's upstream is known to have the Responses API: by its address, or because the account is configured to
/// use what only that API has.
pub(super) fn has_responses(
    url: &Url,
    transport: UpstreamTransport,
    state: UpstreamState,
    background: UpstreamBackground,
) -> bool {
    let host = url.host_str().unwrap_or_default();
    ["openai.com", "chatgpt.com", "azure.com"].iter().any(|domain| is_within(host, domain))
        || transport != UpstreamTransport::Http
        || state != UpstreamState::Replay
        || background != UpstreamBackground::Gateway
}

fn is_within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether the URL is that of OpenAI's own API or of Azure's copy of it.
fn is_openai(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    host == "api.openai.com" || host.ends_with(".openai.azure.com")
}
