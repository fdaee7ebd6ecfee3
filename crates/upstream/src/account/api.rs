//! The API that an account's upstream speaks: as configured, or as it was found out.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use antiphon_store::Timestamp;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard};

use crate::dialect::Dialect;
use crate::settings::UpstreamApi;

/// An upstream that did not let its API be found out is asked again after this time.
const RETRY_DELAY: Duration = Duration::from_secs(10);
/// A 404 makes what is known be forgotten at most this often, because a client may have caused it.
const FORGET_INTERVAL: Duration = Duration::from_secs(30);

/// What is known of one account's API.
#[derive(Debug)]
pub struct KnownApi {
    settings: UpstreamApi,
    state: Mutex<State>,
    searching: AsyncMutex<()>,
}

#[derive(Debug, Default)]
struct State {
    found: Option<FoundApi>,
    /// When a search failed.
    failed_at: Option<Timestamp>,
    /// When what was known was last forgotten.
    forgotten_at: Option<Timestamp>,
}

/// The API that an upstream was found to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundApi {
    pub dialect: Dialect,
    /// The server, if it is one of those that tell.
    pub server: Option<Server>,
}

/// A server that is known by what it lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    LlamaCpp,
    LmStudio,
    Ollama,
    Vllm,
}

/// Permission to find out. Others wait until this is dropped.
pub struct Search<'a> {
    api: &'a KnownApi,
    _guard: AsyncMutexGuard<'a, ()>,
}

// === impl KnownApi ===

impl KnownApi {
    pub fn new(settings: UpstreamApi) -> Self {
        Self { settings, state: Mutex::default(), searching: AsyncMutex::default() }
    }

    /// The dialect to use now: of the Responses API until another one is found.
    pub fn dialect(&self) -> Dialect {
        match self.settings {
            UpstreamApi::Fixed(dialect) => dialect,
            UpstreamApi::Auto(_) => self.found().map_or(Dialect::Responses, |found| found.dialect),
        }
    }

    /// What was found out; `None` while that is not known, or where the configuration says it.
    pub fn found(&self) -> Option<FoundApi> {
        self.lock().found
    }

    /// The dialect's name; `None` while it is not known.
    pub fn name(&self) -> Option<&'static str> {
        self.is_known().then(|| self.dialect().as_str())
    }

    pub fn is_known(&self) -> bool {
        matches!(self.settings, UpstreamApi::Fixed(_)) || self.found().is_some()
    }

    /// Permission to find out; `None` if the API is known, or could not be found out a short time ago. Of concurrent callers
    /// only the first gets it.
    pub async fn begin_search(&self, now: Timestamp) -> Option<Search<'_>> {
        if self.is_known() {
            return None;
        }
        let guard = self.searching.lock().await;
        let has_just_failed = self.lock().failed_at.is_some_and(|at| at.plus(RETRY_DELAY) > now);
        (!self.is_known() && !has_just_failed).then_some(Search { api: self, _guard: guard })
    }

    /// The upstream has no such path in this dialect. Returns whether its API may be another one by now.
    pub fn forget(&self, used: Dialect, now: Timestamp) -> bool {
        if matches!(self.settings, UpstreamApi::Fixed(_)) {
            return false;
        }
        let mut state = self.lock();
        if state.found.is_some_and(|found| found.dialect != used) {
            // Another turn has found out already.
            return true;
        }
        if state.forgotten_at.is_some_and(|at| at.plus(FORGET_INTERVAL) > now) {
            return false;
        }
        *state = State { forgotten_at: Some(now), ..State::default() };
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Search ===

impl Search<'_> {
    /// Keeps what was found: the server, and whether it has the Responses API.
    pub fn finish(&self, server: Option<Server>, has_responses: bool) -> FoundApi {
        let dialect = match self.api.settings {
            UpstreamApi::Auto(chat) if !has_responses => Dialect::Chat(chat),
            UpstreamApi::Auto(_) | UpstreamApi::Fixed(_) => Dialect::Responses,
        };
        let found = FoundApi { dialect, server };
        self.api.lock().found = Some(found);
        found
    }

    pub fn fail(&self, now: Timestamp) {
        self.api.lock().failed_at = Some(now);
    }
}

// === impl Server ===

impl Server {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LlamaCpp => "llama.cpp",
            Self::LmStudio => "LM Studio",
            Self::Ollama => "Ollama",
            Self::Vllm => "vLLM",
        }
    }

    /// Whether turns use its Responses API. Those of llama.cpp and Ollama do less than Antiphon does over their chat
    /// completions: a response that is cut counts as completed there, and some parameters have no effect.
    pub fn has_responses(self) -> Option<bool> {
        match self {
            Self::Vllm => Some(true),
            Self::LlamaCpp | Self::Ollama => Some(false),
            // It has had one since a release of 2025.
            Self::LmStudio => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::chat::{ChatForm, ChatSettings, PastReasoning, ReasoningAs, UnsupportedTools};

    const SETTINGS: ChatSettings = ChatSettings {
        is_openai: false,
        unsupported_tools: UnsupportedTools::Omit,
        reasoning_as: ReasoningAs::Text,
        think_tags: false,
        merge_system: false,
        form: ChatForm {
            past_reasoning: PastReasoning::AsItWas,
            omits_stream_options: false,
            signs_calls: false,
            replaces_signatures: false,
            short_call_ids: false,
            answers_outputs: false,
            limits_completion: false,
            omits_effort: false,
        },
    };
    const CHAT: Dialect = Dialect::Chat(SETTINGS);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_ms(seconds * 1_000)
    }

    #[tokio::test]
    async fn only_one_of_several_callers_searches_and_the_others_get_what_it_found() {
        let api = KnownApi::new(UpstreamApi::Auto(SETTINGS));
        assert_eq!((api.dialect(), api.is_known()), (Dialect::Responses, false));
        let first = api.begin_search(at(0)).await.unwrap();
        let mut second = Box::pin(api.begin_search(at(0)));
        assert!(futures_util::poll!(&mut second).is_pending());
        first.finish(Some(Server::Ollama), false);
        drop(first);
        assert!(second.await.is_none());
        assert_eq!(api.dialect(), CHAT);
    }

    #[tokio::test]
    async fn a_failed_search_is_repeated_after_a_while_and_an_abandoned_one_at_once() {
        let api = KnownApi::new(UpstreamApi::Auto(SETTINGS));
        drop(api.begin_search(at(0)).await.unwrap());
        api.begin_search(at(0)).await.unwrap().fail(at(0));
        assert!(api.begin_search(at(9)).await.is_none());
        assert!(api.begin_search(at(10)).await.is_some());
    }

    #[tokio::test]
    async fn what_is_known_is_forgotten_once_in_a_while() {
        let api = KnownApi::new(UpstreamApi::Auto(SETTINGS));
        api.begin_search(at(0)).await.unwrap().finish(None, true);
        assert!(api.forget(Dialect::Responses, at(1)) && !api.is_known());
        api.begin_search(at(1)).await.unwrap().finish(None, false);
        assert!(api.forget(Dialect::Responses, at(2)) && api.is_known(), "it is another one already");
        assert!(!api.forget(CHAT, at(2)) && api.is_known());
        assert!(api.forget(CHAT, at(31)) && !api.is_known());
        assert!(!KnownApi::new(UpstreamApi::Fixed(CHAT)).forget(CHAT, at(0)));
    }
}
