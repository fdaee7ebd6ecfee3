//! The form in which a server takes chats, as its refusals have shown.

use antiphon_protocol::error::UpstreamError;
use http::StatusCode;

/// How chats are written for a server that has refused the usual form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChatForm {
    pub past_reasoning: PastReasoning,
    /// Whether streams are asked for without `stream_options`, and so without saying that usage is wanted.
    pub omits_stream_options: bool,
    /// Whether calls have the signature of a thought that came with them, or what Google takes in its place.
    pub signs_calls: bool,
    /// Whether the signatures that came with calls are replaced, too.
    pub replaces_signatures: bool,
    /// Whether ids of calls have nine letters and digits.
    pub short_call_ids: bool,
    /// Whether an answer stands between the outputs of calls and what the user says next.
    pub answers_outputs: bool,
    /// Whether the limit of the output is `max_completion_tokens`.
    pub limits_completion: bool,
    /// Whether `reasoning_effort` is left out.
    pub omits_effort: bool,
}

/// Which messages have the reasoning of earlier turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PastReasoning {
    /// Those that came with some.
    #[default]
    AsItWas,
    Never,
    /// All. Those that came without get a space: not every server takes an empty text for reasoning.
    Always,
}

// === impl ChatForm ===

impl ChatForm {
    /// What of it holds for other turns. A signature may be wrong in one of them.
    pub fn lasting(self) -> Self {
        Self { replaces_signatures: false, ..self }
    }

    /// Changes what the server has refused. `known` is the form that the turn was first sent in, and `has_reasoning` says whether
    /// the server got reasoning of earlier turns. Returns the name of the change for logs and metrics; `None` if there is nothing
    /// to change.
    pub fn adapt(
        &mut self,
        known: Self,
        status: StatusCode,
        error: &UpstreamError,
        has_reasoning: bool,
    ) -> Option<&'static str> {
        if !matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY) {
            return None;
        }
        let texts = [error.message.as_deref(), error.param.as_deref()];
        let says = |is_said: fn(&str) -> bool| texts.into_iter().flatten().any(is_said);
        let (changed, name) = if says(demands_reasoning) {
            (Self { past_reasoning: PastReasoning::Always, ..*self }, "reasoning_missing")
        } else if has_reasoning && says(names_reasoning) {
            (Self { past_reasoning: PastReasoning::Never, ..*self }, "reasoning_refused")
        } else if says(names_stream_options) {
            (Self { omits_stream_options: true, ..*self }, "stream_options_refused")
        } else if says(demands_signatures) {
            (Self { signs_calls: true, ..*self }, "signature_missing")
        } else if self.signs_calls && says(names_signature) {
            (Self { replaces_signatures: true, ..*self }, "signature_refused")
        } else if says(demands_short_ids) {
            (Self { short_call_ids: true, ..*self }, "call_ids_refused")
        } else if says(refuses_user_after_output) {
            (Self { answers_outputs: true, ..*self }, "answer_missing")
        } else if says(demands_max_completion_tokens) {
            (Self { limits_completion: true, ..*self }, "max_tokens_refused")
        } else if says(refuses_effort) {
            (Self { omits_effort: true, ..*self }, "effort_refused")
        } else {
            return None;
        };
        let has_switched = self.past_reasoning != known.past_reasoning;
        if changed == *self || (has_switched && changed.past_reasoning != self.past_reasoning) {
            return None;
        }
        *self = changed;
        Some(name)
    }
}

/// Whether a text says that messages lack reasoning that belongs to them.
fn demands_reasoning(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("reasoning_content")
        && ["passed back", "missing"].iter().any(|phrase| text.contains(phrase))
}

/// Whether a text has the name of a member that holds reasoning: not the mere word, but quoted, or the end of a path.
fn names_reasoning(text: &str) -> bool {
    const MARKS: [char; 4] = ['\'', '"', '`', '.'];
    text.match_indices("reasoning").any(|(start, name)| {
        let rest = &text[start + name.len()..];
        let is_marked = text[..start].ends_with(MARKS);
        rest.strip_prefix("_content").is_some_and(ends_name) || (is_marked && ends_name(rest))
    })
}

fn demands_signatures(text: &str) -> bool {
    text.contains("thought_signature") && text.contains("missing")
}

fn names_signature(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("thought_signature") || text.contains("thought signature")
}

fn demands_short_ids(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("tool call id") && text.contains("length of 9")
}

fn refuses_user_after_output(text: &str) -> bool {
    text.to_ascii_lowercase().contains("unexpected role 'user' after role 'tool'")
}

fn demands_max_completion_tokens(text: &str) -> bool {
    text.to_ascii_lowercase().contains("use 'max_completion_tokens' instead")
}

/// Not whether it refuses one value of it: that is the client's mistake.
fn refuses_effort(text: &str) -> bool {
    const PHRASES: [&str; 3] = [
        "does not support parameter reasoningeffort",
        "unsupported parameter: 'reasoning_effort'",
        "'reasoning_effort' is unsupported",
    ];
    let text = text.to_ascii_lowercase();
    PHRASES.iter().any(|phrase| text.contains(phrase))
}

fn names_stream_options(text: &str) -> bool {
    const NAME: &str = "stream_options";
    text.match_indices(NAME).any(|(start, _)| ends_name(&text[start + NAME.len()..]))
}

/// Whether a name ends where this follows it.
fn ends_name(rest: &str) -> bool {
    !rest.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapted(form: ChatForm, message: &str) -> (ChatForm, Option<&'static str>) {
        let error = UpstreamError { message: Some(message.to_owned()), ..UpstreamError::default() };
        let mut same = form;
        assert_eq!(same.adapt(form, StatusCode::INTERNAL_SERVER_ERROR, &error, true), None);
        assert_eq!(same, form);
        let mut changed = form;
        let name = changed.adapt(form, StatusCode::BAD_REQUEST, &error, true);
        (changed, name)
    }

    #[test]
    fn a_refusal_of_reasoning_names_its_member() {
        for (message, expected) in [
            // Groq
            (
                "'messages.1' : for 'role:assistant' the following must be satisfied[('messages.1' : property 'reasoning_content' is unsupported)]",
                true,
            ),
            // Servers with FastAPI
            ("body.messages.1.assistant.reasoning: Extra inputs are not permitted", true),
            ("Unknown parameter: `reasoning`", true),
            ("messages[3].reasoning: reasoning is not supported with this model", true),
            ("reasoning_effort: Input should be 'low' or 'high'", false),
            ("The model's reasoning is longer than its context.", false),
        ] {
            let (form, name) = adapted(ChatForm::default(), message);
            assert_eq!(name, expected.then_some("reasoning_refused"), "{message}");
            assert_eq!(form.past_reasoning == PastReasoning::Never, expected, "{message}");
        }
    }

    #[test]
    fn a_demand_for_reasoning_is_no_refusal_of_it() {
        let always = ChatForm { past_reasoning: PastReasoning::Always, ..ChatForm::default() };
        let never = ChatForm { past_reasoning: PastReasoning::Never, ..ChatForm::default() };
        for message in [
            // DeepSeek
            "The `reasoning_content` in the thinking mode must be passed back to the API.",
            "Missing `reasoning_content` field in the assistant message at message index 2.",
            // Moonshot
            "thinking is enabled but reasoning_content is missing in assistant tool call message at index 2",
        ] {
            assert_eq!(adapted(ChatForm::default(), message), (always, Some("reasoning_missing")));
            assert_eq!(adapted(never, message), (always, Some("reasoning_missing")));
            assert_eq!(adapted(always, message), (always, None), "{message}");
        }
    }

    #[test]
    fn a_turn_does_not_go_back_and_forth_between_two_forms() {
        let (refused, demanded) =
            ("messages[1].reasoning_content: not allowed", "reasoning_content is missing");
        let mut form = ChatForm::default();
        let mut adapt = |message: &str| {
            let error = UpstreamError { message: Some(message.to_owned()), ..UpstreamError::default() };
            form.adapt(ChatForm::default(), StatusCode::BAD_REQUEST, &error, true)
        };
        assert_eq!(adapt(refused), Some("reasoning_refused"));
        assert_eq!((adapt(demanded), adapt(refused)), (None, None));
    }

    #[test]
    fn what_a_refusal_names_is_changed_once() {
        for message in [
            "body.stream_options.include_usage: Extra inputs are not permitted",
            "Unknown parameter: 'stream_options'.",
        ] {
            let (form, name) = adapted(ChatForm::default(), message);
            assert_eq!(name, Some("stream_options_refused"), "{message}");
            assert_eq!(form, ChatForm { omits_stream_options: true, ..ChatForm::default() });
            assert_eq!(adapted(form, message), (form, None));
        }
        assert_eq!(adapted(ChatForm::default(), "Unknown parameter: 'stream_options_2'.").1, None);
        for message in [
            "Function call is missing a thought_signature in functionCall parts. This is required for tools to work correctly.",
            // Vertex AI
            "Unable to submit request because function call `f` in the 3. content block is missing a `thought_signature`.",
        ] {
            let (form, name) = adapted(ChatForm::default(), message);
            assert_eq!(name, Some("signature_missing"), "{message}");
            let signing = ChatForm { signs_calls: true, ..ChatForm::default() };
            assert_eq!(form, signing);
            let corrupted = "Corrupted thought signature.";
            assert_eq!(adapted(ChatForm::default(), corrupted).1, None);
            let (form, name) = adapted(form, corrupted);
            assert_eq!((name, form.lasting()), (Some("signature_refused"), signing));
            assert_eq!(adapted(form, corrupted), (form, None));
        }
        let message = "Tool call id was call_PTLP8 but must be a-z, A-Z, 0-9, with a length of 9.";
        let (form, name) = adapted(ChatForm::default(), message);
        assert_eq!(name, Some("call_ids_refused"));
        assert_eq!(form, ChatForm { short_call_ids: true, ..ChatForm::default() });
        assert_eq!(adapted(form, message), (form, None));
        let usual = ChatForm::default();
        for (message, expected, name) in [
            // Mistral
            (
                "Unexpected role 'user' after role 'tool'",
                ChatForm { answers_outputs: true, ..usual },
                "answer_missing",
            ),
            // OpenAI, under whatever name
            (
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
                ChatForm { limits_completion: true, ..usual },
                "max_tokens_refused",
            ),
            // xAI
            (
                "Model grok-4 does not support parameter reasoningEffort.",
                ChatForm { omits_effort: true, ..usual },
                "effort_refused",
            ),
            // Groq
            (
                "property 'reasoning_effort' is unsupported",
                ChatForm { omits_effort: true, ..usual },
                "effort_refused",
            ),
        ] {
            assert_eq!(adapted(usual, message), (expected, Some(name)));
            assert_eq!(adapted(expected, message), (expected, None));
        }
        let value = "Unsupported value: 'reasoning_effort' does not support 'odd' with this model.";
        assert_eq!(adapted(usual, value), (usual, None));
    }
}
