//! Many clients in few conversations: a conversation has whole turns, in the order of their commits, and all that was
//! acknowledged. `ANTIPHON_TEST_SECONDS` says for how long.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use antiphon_simulator::upstream::{Received, Script, Simulator};
use antiphon_testkit::{Client, Gateway, Postgres, Reply, Setup};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::conversations::{begin, items, items_path, post, user};
use crate::simulator;

const CLIENTS: usize = 64;
const CONVERSATIONS: usize = 8;
const ANSWER: &str = "the answer";
/// How long a client waits that was told that its conversation is locked.
const PAUSE: Duration = Duration::from_millis(20);

/// A turn or a post that was acknowledged.
struct Served {
    text: String,
    began: Instant,
    ended: Instant,
}

/// What one client has seen.
#[derive(Default)]
struct Seen {
    served: Vec<Served>,
    locked: usize,
}

#[expect(clippy::disallowed_methods, reason = "the gateway's own configuration is not read from it")]
fn duration() -> Duration {
    let seconds = std::env::var("ANTIPHON_TEST_SECONDS").map_or(2, |seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds)
}

/// Turns, collected and streamed, and posts of two items, one after the other.
async fn converse(client: Client, conversation: String, n: usize, until: Instant) -> Seen {
    let (mut seen, mut round) = (Seen::default(), 0);
    while Instant::now() < until {
        let (text, began) = (format!("{n}-{round}"), Instant::now());
        match ask(&client, &conversation, &text, round % 4).await {
            None => {
                seen.served.push(Served { text, began, ended: Instant::now() });
                round += 1;
            }
            Some(refusal) => {
                let (status, code, _) = refusal.refusal();
                assert_eq!((status, code.as_deref()), (400, Some("conversation_locked")), "{refusal:?}");
                seen.locked += 1;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    seen
}

/// `None` if the request was served.
async fn ask(client: &Client, conversation: &str, text: &str, kind: usize) -> Option<Reply> {
    let mut turn = json!({"model": "sim", "input": text, "conversation": conversation});
    let reply = match kind {
        0 => post(client, &items_path(conversation), &json!({"items": [user(text), user(text)]})).await,
        1 => {
            turn["stream"] = json!(true);
            match client.create(&turn).await {
                reply if reply.status == 200 => {
                    let body = String::from_utf8_lossy(&reply.body).into_owned();
                    assert!(body.contains("event: response.completed"), "{body}");
                    reply
                }
                reply => reply,
            }
        }
        _ => client.create(&turn).await,
    };
    (reply.status != 200).then_some(reply)
}

fn text_of(item: &Value) -> &str {
    let content = &item["content"];
    content.as_str().or(content[0]["text"].as_str()).unwrap()
}

async fn many_clients_converse(upstream: &Simulator, replicas: [&Gateway; 2]) {
    upstream.always(Script::answer(ANSWER));
    let mut conversations = Vec::new();
    for _ in 0..CONVERSATIONS {
        conversations.push(begin(&replicas[0].client, &json!([])).await);
    }
    let began = Instant::now();
    let until = began + duration();
    let clients = (0..CLIENTS).map(|n| {
        let (client, conversation) =
            (replicas[n % 2].client.clone(), conversations[n / 2 % CONVERSATIONS].clone());
        tokio::spawn(converse(client, conversation, n, until))
    });
    let seen: Vec<Seen> = join_all(clients).await.into_iter().map(Result::unwrap).collect();
    report(&seen, began.elapsed());

    let mut of_text: HashMap<String, Served> = HashMap::new();
    for served in seen.into_iter().flat_map(|seen| seen.served) {
        of_text.insert(served.text.clone(), served);
    }
    let requests = upstream.requests();
    for conversation in &conversations {
        let listed = items(&replicas[0].client, conversation).await;
        assert_eq!(listed, items(&replicas[1].client, conversation).await);
        let order = whole_turns(&listed, &mut of_text);
        assert_in_order_of_commits(&order);
        assert_each_continued_what_was_there(&requests, &listed);
        let next = json!({"model": "sim", "input": "last", "conversation": conversation});
        replicas[1].client.created(next).await;
        assert_eq!(upstream.last_request().unwrap().input().len(), listed.len() + 1);
    }
    let lost: Vec<&String> = of_text.keys().collect();
    assert!(lost.is_empty(), "acknowledged, but in no conversation: {lost:?}");
}

fn report(seen: &[Seen], took: Duration) {
    let mut waits: Vec<Duration> =
        seen.iter().flat_map(|seen| &seen.served).map(|served| served.ended - served.began).collect();
    waits.sort_unstable();
    let locked: usize = seen.iter().map(|seen| seen.locked).sum();
    let at = |part: usize| waits.get(waits.len() * part / 100).copied().unwrap_or_default();
    eprintln!(
        "{} turns and posts in {took:.1?} ({:.0} a second), {locked} refused as locked; p50 {:.1?}, p99 {:.1?}, max {:.1?}",
        waits.len(),
        waits.len() as f64 / took.as_secs_f64(),
        at(50),
        at(99),
        waits.last().copied().unwrap_or_default()
    );
}

/// What was acknowledged of a conversation, in its order. Takes each out of `of_text`.
fn whole_turns(listed: &[Value], of_text: &mut HashMap<String, Served>) -> Vec<Served> {
    let turns = listed.chunks(2).map(|pair| {
        let [first, second] = pair else { panic!("half a turn: {pair:?}") };
        let is_posted = second["content"] == first["content"];
        assert_eq!(first["role"], "user");
        assert!(is_posted || text_of(second) == ANSWER, "{pair:?}");
        of_text
            .remove(text_of(first))
            .unwrap_or_else(|| panic!("{first} was not acknowledged, or is there twice"))
    });
    turns.collect()
}

/// Nothing comes after what began when it had ended already.
fn assert_in_order_of_commits(order: &[Served]) {
    let mut latest_began: Option<Instant> = None;
    for served in order {
        assert!(latest_began.is_none_or(|latest| latest <= served.ended), "{} is too late", served.text);
        latest_began = latest_began.max(Some(served.began));
    }
}

/// The upstream got what the conversation had when the turn was appended.
fn assert_each_continued_what_was_there(requests: &[Received], listed: &[Value]) {
    let texts: Vec<&str> = listed.iter().map(text_of).collect();
    let position: HashMap<&str, usize> = texts.iter().enumerate().map(|(n, text)| (*text, n)).collect();
    for request in requests {
        let input = request.input();
        let sent: Vec<&str> = input.iter().map(text_of).collect();
        let Some((own, history)) = sent.split_last() else { continue };
        if let Some(at) = position.get(own) {
            assert_eq!(history, &texts[..*at], "what came before {own}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_share_conversations_at_two_replicas() {
    let upstream = simulator().await;
    let url = Postgres::shared_database().await;
    let start = || Setup::over(&upstream).database_url(&url).start();
    let (one, two) = tokio::join!(start(), start());
    many_clients_converse(&upstream, [&one, &two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_share_conversations_at_one_gateway() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).start().await;
    many_clients_converse(&upstream, [&gateway, &gateway]).await;
}
