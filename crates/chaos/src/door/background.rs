//! Turns in the background: queued at one gateway, then polled, or read on, at whichever is there.

use std::time::Duration;

use antiphon_testkit::Client;
use http::Method;
use serde_json::Value;

use super::stream::Stream;
use super::{Connection, Outcome, refused, text};

const PAUSE: Duration = Duration::from_millis(20);

impl Connection {
    pub(super) async fn polled(&self, body: &Value) -> Outcome {
        let Some(reply) = self.http.try_request(Method::POST, "/v1/responses", &[], body.to_string()).await
        else {
            return Outcome::Cut;
        };
        let queued: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        if reply.status != 200 {
            return refused(reply.status.as_u16(), &queued["error"]);
        }
        let path = format!("/v1/responses/{}", text(&queued["id"]));
        for attempt in 0.. {
            let client = self.any_gateway(attempt);
            if let Some(reply) = client.try_request(Method::GET, &path, &[], "").await {
                let response: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
                match (reply.status.as_u16(), text(&response["status"])) {
                    (200, "queued" | "in_progress") | (429 | 503, _) => {}
                    (200, "completed") => return Outcome::Acknowledged(response),
                    (200, status) => {
                        return Outcome::Refused(format!("{status} {}", text(&response["error"]["code"])));
                    }
                    (status, _) => {
                        return Outcome::Violation(format!("{path} was queued, but is a {status}"));
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        Outcome::Cut
    }

    pub(super) async fn read_on(&self, body: &Value) -> Outcome {
        let mut stream = Stream::default();
        let mut events = self.http.try_stream(body).await;
        for attempt in 0.. {
            if let Some(mut events) = events.filter(|events| events.status == 200) {
                while let Some(event) = events.next().await {
                    events.raw.clear();
                    if let Err(violation) =
                        stream.push(serde_json::from_slice(&event.data).unwrap_or_default())
                    {
                        return Outcome::Violation(violation);
                    }
                }
            }
            // Without an id the client can't ask for it.
            let (false, Some(path)) = (stream.is_over(), stream.path()) else { break };
            tokio::time::sleep(PAUSE).await;
            events = self.any_gateway(attempt).try_follow(&path).await;
            let status = events.as_ref().map_or(503, |events| events.status.as_u16());
            if ![200, 429, 503].contains(&status) {
                return Outcome::Violation(format!("{path} was begun, but is a {status}"));
            }
        }
        stream.end(true)
    }

    /// One gateway after the other, as some may be gone.
    fn any_gateway(&self, attempt: usize) -> Client {
        let urls = self.targets.list();
        match urls.get(attempt % urls.len().max(1)) {
            Some(url) if *url != self.url => Client::new(url).with_secret(&self.secret),
            _ => self.http.clone(),
        }
    }
}
