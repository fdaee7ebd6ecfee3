//! Reasoning that an upstream writes into its text, between `<think>` and `</think>`.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// More blanks than this before any text are text.
const MAX_BLANKS: usize = 1_000;

/// Tells reasoning from text, wherever the tags are cut. Only a tag before any text counts: after it, `<think>` is text.
#[derive(Debug, Default)]
pub struct ThinkTags {
    state: State,
    /// What may be the beginning of a tag.
    held: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Before,
    Inside,
    /// After the closing tag; blanks at the start of the text are left out.
    Closed,
    After,
}

/// A piece of text.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    Reasoning(String),
    Text(String),
}

// === impl ThinkTags ===

impl ThinkTags {
    /// Takes the next text and returns what is certain so far.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        if self.state == State::Before {
            let begun = self.held.trim_start();
            if let Some(reasoning) = begun.strip_prefix(OPEN) {
                self.held = reasoning.to_owned();
                self.state = State::Inside;
            } else if !OPEN.starts_with(begun) || self.held.len() > MAX_BLANKS {
                self.state = State::After;
            }
        }
        if self.state == State::Inside {
            match self.held.split_once(CLOSE) {
                Some((reasoning, rest)) => {
                    pieces.push(Piece::Reasoning(reasoning.to_owned()));
                    self.held = rest.to_owned();
                    self.state = State::Closed;
                }
                None => {
                    let certain = self.held.len() - held_back(&self.held);
                    pieces.push(Piece::Reasoning(self.held.drain(..certain).collect()));
                }
            }
        }
        if self.state == State::Closed {
            self.held = self.held.trim_start().to_owned();
            if !self.held.is_empty() {
                self.state = State::After;
            }
        }
        if self.state == State::After {
            pieces.push(Piece::Text(std::mem::take(&mut self.held)));
        }
        pieces
            .retain(|piece| !matches!(piece, Piece::Reasoning(text) | Piece::Text(text) if text.is_empty()));
        pieces
    }

    /// At the end: what was held back is no tag.
    pub fn finish(&mut self) -> Option<Piece> {
        let held = std::mem::take(&mut self.held);
        let state = std::mem::replace(&mut self.state, State::After);
        (!held.is_empty())
            .then(|| if state == State::Inside { Piece::Reasoning(held) } else { Piece::Text(held) })
    }
}

/// How many bytes at the end may be the beginning of the closing tag.
fn held_back(text: &str) -> usize {
    (1..CLOSE.len()).rev().find(|length| text.ends_with(&CLOSE[..*length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(texts: &[&str]) -> (String, String) {
        let mut tags = ThinkTags::default();
        let (mut reasoning, mut text) = (String::new(), String::new());
        let mut pieces: Vec<Piece> = texts.iter().flat_map(|piece| tags.push(piece)).collect();
        pieces.extend(tags.finish());
        for piece in pieces {
            match piece {
                Piece::Reasoning(piece) => reasoning.push_str(&piece),
                Piece::Text(piece) => text.push_str(&piece),
            }
        }
        (reasoning, text)
    }

    #[test]
    fn reasoning_is_told_from_text_wherever_the_tags_are_cut() {
        let whole = "\n<think>a < b</thin</think>\n\nc <think>";
        for cut in 0..whole.len() {
            let expected = ("a < b</thin".to_owned(), "c <think>".to_owned());
            assert_eq!(split(&[&whole[..cut], &whole[cut..]]), expected, "cut at {cut}");
        }
        let letters: Vec<&str> = whole.split_inclusive(|_| true).collect();
        assert_eq!(split(&letters), split(&[whole]));
    }

    #[test]
    fn blanks_are_held_back_up_to_a_limit() {
        let mut tags = ThinkTags::default();
        assert_eq!(tags.push(&" ".repeat(MAX_BLANKS)), []);
        assert_eq!(tags.push(" "), [Piece::Text(" ".repeat(MAX_BLANKS + 1))]);
        assert_eq!(tags.push("<think>"), [Piece::Text("<think>".to_owned())]);
    }

    #[test]
    fn what_only_looks_like_a_tag_is_text() {
        assert_eq!(split(&["<thi", "s>"]), (String::new(), "<this>".to_owned()));
        assert_eq!(split(&["<thi"]), (String::new(), "<thi".to_owned()));
        assert_eq!(split(&["<think>a</th"]), ("a</th".to_owned(), String::new()));
    }
}
