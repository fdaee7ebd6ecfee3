//! What one tenant sends takes neither time, memory nor another's items, however it is made up.

use antiphon_simulator::upstream::Script;
use antiphon_testkit::{Gateway, Reply, Setup, Socket, header};
use serde_json::{Value, json};

use crate::limits::{limited, of};
use crate::{gateway, simulator};

const MANY: usize = 100_000;

/// What a request over HTTP and a frame on a socket are refused with: status, code and param.
async fn refused(gateway: &Gateway, body: &str) -> (u16, Option<String>, Option<String>) {
    let reply = gateway.client.create(body).await;
    let mut socket = gateway.socket().await;
    socket.send(body.replacen('{', r#"{"type":"response.create","#, 1)).await;
    let (status, code, param) = reply.refusal();
    let in_frame = socket.refusal().await;
    let expected = (u64::from(status), code.clone().unwrap_or_default(), param.clone());
    assert_eq!(in_frame, expected, "both doors say the same");
    (status, code, param)
}

fn message(reply: &Reply) -> String {
    reply.json()["error"]["message"].as_str().unwrap().to_owned()
}

/// A turn of one item of so many bytes.
fn item(id: &str, bytes: usize) -> Value {
    let item = json!({"type": "message", "id": id, "role": "user", "content": "x".repeat(bytes)});
    json!({"model": "sim", "input": [item]})
}

fn naming<'a>(ids: impl IntoIterator<Item = &'a str>) -> Value {
    let references = ids.into_iter().map(|id| json!({"type": "item_reference", "id": id}));
    json!({"model": "sim", "input": references.collect::<Vec<_>>()})
}

#[tokio::test]
async fn members_repeated_any_number_of_times_are_read_as_fast_as_others_and_the_last_counts() {
    let (upstream, gateway) = gateway().await;
    for member in
        [r#""store":true,"#, r#""model":"nobody","#, r#""x":0,"#, r#""x":0,"store":true,"input":0,"#]
    {
        let body = format!("{{{}\"model\":\"sim\",\"input\":\"hi\",\"store\":false}}", member.repeat(MANY));
        let response = gateway.client.created(&body).await;
        assert_eq!((&response["store"], &response["model"]), (&json!(false), &json!("sim")));
        assert_eq!(upstream.last_request().unwrap().json()["input"], "hi");
        let mut socket = gateway.socket().await;
        socket.send(body.replacen('{', r#"{"type":"response.create","#, 1)).await;
        assert_eq!(socket.turn().await.pop().unwrap()["type"], "response.completed");
    }
    let metadata = format!("{{{}\"a\":\"\"}}", r#""a":"","#.repeat(MANY));
    let body = format!(r#"{{"model":"sim","input":"hi","metadata":{metadata}}}"#);
    assert_eq!(refused(&gateway, &body).await.1.as_deref(), Some("object_above_max_properties"));
}

#[tokio::test]
async fn a_known_member_in_another_case_is_refused() {
    let (upstream, gateway) = gateway().await;
    for (member, name) in [
        (r#""Model":"secret""#, "Model"),
        (r#""m\u004fdel":"secret""#, "mOdel"),
        (r#""STORE":true"#, "STORE"),
        (r#""Previous_Response_Id":"resp_theirs""#, "Previous_Response_Id"),
        ("\"\u{17f}tore\":true", "\u{17f}tore"),
    ] {
        let body = format!(r#"{{"model":"sim","input":"hi",{member}}}"#);
        let unknown = (400, Some("unknown_parameter".to_owned()), Some(name.to_owned()));
        assert_eq!(refused(&gateway, &body).await, unknown);
        let reply = gateway.client.create(&body).await;
        assert_eq!(message(&reply), format!("Unknown parameter: '{name}'."));
    }
    assert_eq!(upstream.counts().requests, 0);
    gateway.client.created(r#"{"model":"sim","input":"hi","Models":1,"x_store":2}"#).await;
}

#[tokio::test]
async fn no_spelling_of_a_reference_reaches_an_upstream_that_keeps_items() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).account(0, "state = \"native\"").start().await;
    for item in [
        r#"{"type":"item_reference","id":"msg_theirs"}"#,
        r#"{"type":"item_reference","id":"msg_theirs","status":null}"#,
        r#"{"type":"item_reference","id":"msg_theirs","role":"user","content":"x"}"#,
        r#"{"type":"item_refer\u0065nce","id":"msg_theirs","x":1}"#,
        r#"{"t\u0079pe":"item_reference","\u0069d":"msg_theirs","x":1}"#,
        r#"{"type":"message","id":"msg_theirs","type":"item_reference"}"#,
        r#"{"type":"item_reference","id":"msg_theirs","type":"message","role":"user","content":"x"}"#,
        r#"{"id":"msg_theirs"}"#,
        r#"{"id":"msg_theirs","status":null}"#,
        r#"{"id":"msg_theirs","type":null,"status":"completed"}"#,
    ] {
        let body = format!(r#"{{"model":"sim","input":[{item}]}}"#);
        assert_eq!(refused(&gateway, &body).await, (404, None, Some("input".to_owned())), "{item}");
    }
    for (item, param) in [
        (r#"{"type":"item_reference"}"#, "input[0].id"),
        (r#"{"type":"item_reference","ID":"msg_theirs"}"#, "input[0].ID"),
        (r#"{"Type":"item_reference","id":"msg_theirs"}"#, "input[0].Type"),
    ] {
        let body = format!(r#"{{"model":"sim","input":[{item}]}}"#);
        let (status, _, named) = refused(&gateway, &body).await;
        assert_eq!((status, named.as_deref()), (400, Some(param)), "{item}");
    }
    assert_eq!(upstream.counts().requests, 0);
}

#[tokio::test]
async fn items_that_are_named_often_are_bounded_before_memory_is_used() {
    let upstream = simulator().await;
    let limits = "limits.max_body = \"2MiB\"\nlimits.max_history = \"4MiB\"\nlimits.body_memory = \"32MiB\"";
    let gateway = Setup::over(&upstream).config(limits).start().await;
    let ids = ["msg_1", "msg_2", "msg_3"];
    for id in ids {
        gateway.client.created(item(id, 1 << 20)).await;
    }
    let asked = upstream.counts().requests;
    for times in [4, 2_400] {
        let reply = gateway.client.create(naming(vec!["msg_1"; times])).await;
        assert_eq!(reply.refusal(), (400, Some("context_too_large".to_owned()), Some("input".to_owned())));
        let message = message(&reply);
        assert!(message.contains("the limit is 4194304") && message.contains("at least 419"), "{message}");
        for store in [false, true] {
            let mut warm = naming(vec!["msg_1"; times]);
            (warm["generate"], warm["store"]) = (false.into(), store.into());
            let (status, code, param) = gateway.socket().await.refused(warm).await;
            assert_eq!((status, code.as_str(), param.as_deref()), (400, "context_too_large", Some("input")));
        }
    }
    assert_eq!(upstream.counts().requests, asked);
    // Whatever was set aside for them is given back.
    for _ in 0..20 {
        gateway.client.created(naming(ids)).await;
    }
    let sent = upstream.last_request().unwrap().input();
    assert_eq!((sent.len(), sent[2]["content"].as_str().unwrap().len()), (3, 1 << 20));
}

#[tokio::test]
async fn the_number_of_items_and_references_is_bounded_and_that_of_members_is_not() {
    let (upstream, gateway) = gateway().await;
    for (item, count) in
        [("{}", MANY + 1), (r#"{"id":"a"}"#, MANY), (r#"{"type":"item_reference","id":"a"}"#, 10_001)]
    {
        let items = vec![item; count].join(",");
        let body = format!(r#"{{"model":"sim","input":[{items}]}}"#);
        let too_many = (400, Some("array_above_max_length".to_owned()), Some("input".to_owned()));
        assert_eq!(refused(&gateway, &body).await, too_many, "{item}");
    }
    assert_eq!(upstream.counts().requests, 0);
    let members: String = (0..MANY).map(|n| format!("\"{n}\":0,")).collect();
    gateway.client.created(format!(r#"{{{members}"model":"sim","input":"x"}}"#)).await;
    let sent = upstream.last_request().unwrap().json();
    assert!(sent.as_object().unwrap().len() > MANY);
}

#[tokio::test]
async fn items_that_are_named_count_in_the_estimate() {
    let limited = limited(json!({"tokens_per_minute": 1_000_000})).await;
    let ids = ["msg_1", "msg_2", "msg_3", "msg_4", "msg_5"];
    for id in ids {
        limited.client.created(item(id, 40_000)).await;
    }
    let (script, gate) = Script::answer("done").gated();
    limited.upstream.script(script);
    let asking = limited.client.create(naming(ids));
    let looking = async {
        limited.upstream.wait_until(|upstream| upstream.in_flight() > 0).await;
        let (_, held) = limited.standing().await["tokens per minute"];
        gate.open();
        held
    };
    let (reply, held) = tokio::join!(asking, looking);
    reply.ok();
    assert!((50_000..60_000).contains(&held), "{held}");
}

#[tokio::test]
async fn what_a_stored_warm_up_writes_counts_and_what_a_socket_remembers_does_not() {
    let limited = limited(json!({"requests_per_minute": 2, "tokens_per_minute": 100_000})).await;
    let bearer = format!("Bearer {}", limited.secret);
    let headers = [header("authorization", &bearer)];
    let mut socket = Socket::connect(limited.gateway.address(), "/v1/responses", &headers).await.unwrap();
    let warm =
        |store: bool| json!({"model": "sim", "input": "x".repeat(4_000), "generate": false, "store": store});
    socket.created(warm(false)).await;
    assert_eq!(limited.settled().await, of(&[]));
    let stored = socket.created(warm(true)).await;
    let standing = limited.settled().await;
    assert_eq!(standing["requests per minute"], (1, 0));
    assert!((1_000..1_100).contains(&standing["tokens per minute"].0), "{standing:?}");
    // What it continues is not counted again.
    let mut next = warm(true);
    next["previous_response_id"] = stored["id"].clone();
    socket.created(next).await;
    assert!((2_000..2_200).contains(&limited.settled().await["tokens per minute"].0));
    assert_eq!(socket.refused(warm(true)).await.1, "rate_limit_exceeded");
    assert_eq!(limited.upstream.counts().requests, 0);
}

#[tokio::test]
async fn metadata_of_a_frame_makes_only_so_many_headers() {
    let (upstream, gateway) = gateway().await;
    let mut socket = gateway.socket().await;
    let many: serde_json::Map<String, Value> =
        (0..30_000).map(|n| (format!("x-codex-{n:05}"), json!("v"))).collect();
    socket.created(json!({"model": "sim", "input": "x", "client_metadata": many})).await;
    let sent = |upstream: &antiphon_simulator::upstream::Simulator| {
        let request = upstream.last_request().unwrap();
        request.headers.keys().filter(|name| name.as_str().starts_with("x-codex-")).count()
    };
    assert_eq!(sent(&upstream), 64);
    let large: serde_json::Map<String, Value> =
        (0..3).map(|n| (format!("x-codex-{n}"), json!("v".repeat(30_000)))).collect();
    socket.created(json!({"model": "sim", "input": "x", "client_metadata": large})).await;
    assert_eq!(sent(&upstream), 2);
    let last: String = (0..MANY).map(|n| format!("\"{n}\":\"\",")).collect();
    let metadata = format!(r#"{{"x-codex-a":"v",{last}"x-codex-b":"v"}}"#);
    socket
        .send(format!(
            r#"{{"type":"response.create","model":"sim","input":"x","client_metadata":{metadata}}}"#
        ))
        .await;
    socket.turn().await;
    assert_eq!(sent(&upstream), 1);
}

#[tokio::test]
async fn output_without_end_breaks_the_stream_where_it_would_have_to_be_kept() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config("limits.max_body = \"1MiB\"").start().await;
    let data = json!({"type": "response.output_item.done", "item": {"x": "x".repeat(100_000)}});
    let items = format!("event: response.output_item.done\ndata: {data}\n\n").repeat(30);
    let script = || upstream.script(Script::answer("hi").inject(3, items.clone()));
    let ask = |store: bool| json!({"model": "sim", "input": "x", "stream": true, "store": store});
    script();
    let mut events = gateway.client.stream(ask(true)).await;
    let error = events.until("error").await.json();
    assert_eq!(
        error["message"],
        "The upstream's stream was interrupted: its output is larger than the limit."
    );
    let failed = events.until("response.failed").await.json();
    let kept = failed["response"]["output"].as_array().unwrap().len();
    assert!((5..=10).contains(&kept), "{kept}");
    script();
    let mut socket = gateway.socket().await;
    socket.create(ask(false)).await;
    assert_eq!(socket.turn().await.pop().unwrap()["type"], "response.failed", "the socket remembers it");
    script();
    let mut events = gateway.client.stream(ask(false)).await;
    events.until("response.completed").await;
    script();
    let collected = gateway.client.create(json!({"model": "sim", "input": "x"})).await;
    collected.ok();
}

#[tokio::test]
async fn the_request_log_keeps_the_start_of_a_long_error_code_and_the_client_gets_all_of_it() {
    let (upstream, gateway) = gateway().await;
    let code = format!("{}é{}", "c".repeat(63), "d".repeat(MANY));
    let error = json!({"message": "m", "type": "t", "param": null, "code": code});
    for stream in [false, true] {
        upstream.script(Script::http(400, json!({"error": error}).to_string()));
        let reply = gateway.client.create(json!({"model": "sim", "input": "x", "stream": stream})).await;
        assert_eq!(reply.json()["error"]["code"], code);
    }
    let rows = gateway.logged(2).await;
    let kept: Vec<_> = rows.iter().map(|row| row.code.as_deref()).collect();
    assert_eq!(kept, [Some(&*"c".repeat(63)); 2]);
}
