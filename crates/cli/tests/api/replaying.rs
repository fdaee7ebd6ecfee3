//! Fidelity: any chain of any items is replayed byte for byte, except for dropped output ids.

use antiphon_protocol::item::id_spans;
use antiphon_protocol::json;
use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::Setup;
use proptest::prelude::*;

/// The text of an item with arbitrary content; with an id if one is given.
fn item(id: Option<String>, content: &str) -> String {
    match id {
        Some(id) => format!(r#"{{ "id" : "{id}","type":"odd_item", "x":{content}}}"#),
        None => format!(r#"{{"type":"odd_item","x": {content} }}"#),
    }
}

/// JSON texts that decoding and encoding would change.
fn content() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("1.50e+400".to_owned()),
        Just("-0.0".to_owned()),
        Just("123456789012345678901234567890.10".to_owned()),
        Just(r#""\u00e9\/\ud83d\ude00 é 😀 \u0000""#.to_owned()),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        any::<i64>().prop_map(|n| n.to_string()),
        Just("null".to_owned()),
    ];
    leaf.prop_recursive(6, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|all| format!("[{}]", all.join(" , "))),
            prop::collection::vec(inner, 0..4).prop_map(|all| {
                let members = all.iter().enumerate().map(|(n, value)| format!("\"k{n}\" :{value}"));
                format!("{{{}}}", members.collect::<Vec<_>>().join(","))
            }),
        ]
    })
}

/// Which earlier turn a turn continues, the items that it sends and gets, and whether the gateway restarts after it.
type Step = (prop::sample::Index, Vec<String>, Vec<String>, bool);

fn chain() -> impl Strategy<Value = Vec<Step>> {
    let items = || prop::collection::vec(content(), 0..3);
    prop::collection::vec((any::<prop::sample::Index>(), items(), items(), any::<bool>()), 1..8)
}

/// One recorded turn: its id and the items that a continuation has to see.
struct Recorded {
    id: String,
    history: Vec<String>,
}

async fn run(turns: Vec<Step>) {
    let upstream = Simulator::bind(Options { strict: false, ..Options::default() }).await.unwrap();
    let mut gateway = Setup::over(&upstream).start().await;
    let mut recorded: Vec<Recorded> = Vec::new();
    for (n, (parent, sent, got, restart)) in turns.into_iter().enumerate() {
        let parent = (n > 0).then(|| &recorded[parent.index(n)]);
        let sent: Vec<_> =
            sent.iter().enumerate().map(|(k, x)| item((k == 1).then(|| format!("in_{n}_{k}")), x)).collect();
        let got: Vec<_> =
            got.iter().enumerate().map(|(k, x)| item(Some(format!("out_{n}_{k}")), x)).collect();
        upstream.script(got.iter().fold(Script::new(), Script::item));
        let previous = parent.map_or_else(|| "null".to_owned(), |parent| format!("\"{}\"", parent.id));
        let body = format!(
            r#"{{"model":"sim","stream":{},"previous_response_id":{previous},"input":[{}]}}"#,
            n % 2 == 1,
            sent.join(",")
        );
        let id = if n % 2 == 1 {
            let mut events = gateway.client.stream(&body).await;
            events.until("response.completed").await.response_id()
        } else {
            gateway.client.create(&body).await.ok_id()
        };
        let mut history = parent.map(|parent| parent.history.clone()).unwrap_or_default();
        history.extend(sent);
        let body = upstream.last_request().unwrap().body;
        let input = json::member(&body, "input").unwrap();
        assert_eq!(String::from_utf8_lossy(input), format!("[{}]", history.join(",")));
        history.extend(got.iter().map(|item| {
            let span = id_spans(item.as_bytes()).swap_remove(0);
            format!("{}{}", &item[..span.start], &item[span.end..])
        }));
        recorded.push(Recorded { id, history });
        if restart {
            gateway = gateway.restart().await;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_chain_of_any_items_is_replayed_byte_for_byte(turns in chain()) {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(run(turns));
    }
}
