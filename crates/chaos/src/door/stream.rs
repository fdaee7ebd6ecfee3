//! The events of one turn: whether they are whole, and how they end.

use serde_json::Value;

use super::{Outcome, text};

/// What has been seen of a turn's events.
#[derive(Debug, Default)]
pub struct Stream {
    next_number: u64,
    id: Option<String>,
    items: Vec<Value>,
    error_code: Option<String>,
    end: Option<Value>,
}

impl Stream {
    /// Takes the next event, or says what is wrong with it.
    pub fn push(&mut self, mut event: Value) -> Result<(), String> {
        let name = text(&event["type"]).to_owned();
        if let Some(end) = &self.end {
            return Err(format!("{name} came after {}", end["type"]));
        }
        let number = event["sequence_number"].as_u64();
        if number != Some(self.next_number) {
            return Err(format!("{name} has the number {number:?} instead of {}", self.next_number));
        }
        self.next_number += 1;
        if let Some(id) = event["response"]["id"].as_str() {
            let known = self.id.get_or_insert_with(|| id.to_owned());
            if known != id {
                return Err(format!("{name} is of {id}, the events before it were of {known}"));
            }
        }
        match name.as_str() {
            "response.output_item.done" => self.items.push(event["item"].take()),
            "error" => self.error_code = Some(text(&event["code"]).to_owned()),
            "response.completed" if event["response"]["output"].as_array() != Some(&self.items) => {
                return Err("the output of response.completed is not what the events said".to_owned());
            }
            "response.completed" | "response.incomplete" | "response.failed" => self.end = Some(event),
            _ => {}
        }
        Ok(())
    }

    /// Where the rest of a background response can be read.
    pub fn path(&self) -> Option<String> {
        let (id, last) = (self.id.as_ref()?, self.next_number.checked_sub(1)?);
        Some(format!("/v1/responses/{id}?stream=true&starting_after={last}"))
    }

    pub fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// How the turn ended, when nothing more comes.
    pub fn end(self, is_cut: bool) -> Outcome {
        let Some(mut end) = self.end else {
            return if is_cut {
                Outcome::Cut
            } else {
                Outcome::Violation("a stream ended without a terminal event".to_owned())
            };
        };
        match text(&end["type"]) {
            "response.completed" => Outcome::Acknowledged(end["response"].take()),
            name => {
                let code =
                    self.error_code.unwrap_or_else(|| text(&end["response"]["error"]["code"]).to_owned());
                Outcome::Refused(format!("{} {code}", name.trim_start_matches("response.")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is said of events with these names, numbers and ids.
    fn said(events: &[(&str, u64, &str)]) -> Result<Outcome, String> {
        let mut stream = Stream::default();
        for (name, number, id) in events {
            let response = json!({"id": id, "output": []});
            stream.push(json!({"type": name, "sequence_number": number, "response": response}))?;
        }
        Ok(stream.end(false))
    }

    #[test]
    fn whole_events_are_acknowledged() {
        let events = [("response.created", 0, "a"), ("response.completed", 1, "a")];
        assert!(matches!(said(&events), Ok(Outcome::Acknowledged(_))));
    }

    #[test]
    fn broken_sequences_are_found() {
        let created = ("response.created", 0, "a");
        let completed = ("response.completed", 1, "a");
        for (events, found) in [
            (vec![created, ("response.completed", 2, "a")], "instead of 1"),
            (vec![created, ("response.completed", 0, "a")], "instead of 1"),
            (vec![created, completed, ("response.completed", 2, "a")], "came after"),
            (vec![created, ("response.completed", 1, "b")], "the events before it were of a"),
        ] {
            assert!(said(&events).is_err_and(|said| said.contains(found)), "{events:?}");
        }
        assert!(matches!(said(&[created]), Ok(Outcome::Violation(_))), "it has no end");
    }
}
