//! What the client gets for each event, in every form and however the network cut it.

use antiphon_protocol::error::{ApiError, ErrorKind};
use antiphon_protocol::id::ResponseId;
use antiphon_protocol::socket::StreamId;
use antiphon_upstream::dialect::{Piece, ReplyFormat};
use proptest::prelude::*;

use super::*;

const STREAM: &str = "event: response.created\n\
    data: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"resp_up\",\"status\":\"in_progress\",\"store\":false,\"output\":[]}}\n\n\
    : a comment\n\n\
    event: response.output_text.delta\n\
    data: {\"type\":\"response.output_text.delta\",\"sequence_number\":1,\"delta\":\"a\\u00e9\"}\n\n\
    event: response.new_thing\n\
    data: {\"type\":\"response.new_thing\",\"sequence_number\":2,\n\
    data: \"x\":1}\n\n\
    event: response.output_item.done\n\
    data: {\"type\":\"response.output_item.done\",\"sequence_number\":3,\"item\":{\"id\":\"msg_1\",\"type\":\"message\"}}\n\n";
const END: &str = "event: response.completed\n\
    data: {\"type\":\"response.completed\",\"sequence_number\":4,\"response\":{\"id\":\"resp_up\",\"status\":\"completed\",\"output\":[{\"id\":\"msg_1\",\"type\":\"message\"}],\"usage\":{\"input_tokens\":3,\"output_tokens\":5}}}\n\n";

const MAX_KEPT_BYTES: usize = 10_000;

fn relay(framing: Framing) -> Relay {
    Relay::new(Owned::new(ResponseId::mint(1, &[7; 10]), None, true), framing, Some(MAX_KEPT_BYTES))
}

fn decoder() -> Decoder {
    ReplyFormat::Responses.decoder(1 << 16)
}

fn text(out: &VecDeque<Bytes>) -> String {
    out.iter().map(|piece| String::from_utf8_lossy(piece)).collect()
}

/// What a client gets of a stream that arrives in these pieces, and how it ends.
fn relayed<'a>(
    framing: Framing,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (VecDeque<Bytes>, Option<Terminal>) {
    let (mut relay, mut events, mut out) = (relay(framing), decoder(), VecDeque::new());
    for piece in pieces {
        events.push(Piece::Bytes(Bytes::copy_from_slice(piece)));
        if let Some(terminal) = relay.push(&mut events, &mut out).unwrap() {
            return (out, Some(terminal));
        }
    }
    let terminal = relay.finish(&mut events, &mut out).unwrap();
    (out, terminal)
}

fn api_error() -> ApiError {
    ApiError {
        kind: ErrorKind::Server,
        code: Some("server_error".into()),
        param: None,
        message: "it broke".into(),
    }
}

#[test]
fn unchanged_neighbours_are_relayed_in_one_piece_byte_for_byte() {
    let (out, terminal) = relayed(Framing::Sse, [STREAM.as_bytes()]);
    assert!(terminal.is_none());
    assert_eq!(out.len(), 2, "the rewritten event, and everything after it: {out:?}");
    let after_first = STREAM.split_once("\n\n").unwrap().1;
    assert_eq!(out[1], after_first.as_bytes());
    assert!(out[0].starts_with(b"event: response.created\ndata: {"));
    assert!(!text(&out).contains("resp_up"), "the upstream's id is not the client's");
}

#[test]
fn an_error_event_has_its_members_at_the_top_level() {
    let event = |data: &str| format!("event: error\ndata: {data}\n\n");
    let nested =
        r#"{"type":"error","sequence_number":5,"error":{"type":"x","code":"c","message":"m","y":1.50}}"#;
    let (out, _) = relayed(Framing::Sse, [event(nested).as_bytes()]);
    let (start, _) = nested.rsplit_once('}').unwrap();
    assert_eq!(text(&out), event(&format!(r#"{start},"code":"c","message":"m","param":null}}"#)));
    let flat = r#"{"type":"error", "sequence_number":5,"code":null,"message":"m","param":null}"#;
    assert_eq!(text(&relayed(Framing::Sse, [event(flat).as_bytes()]).0), event(flat));
}

#[test]
fn a_response_that_comes_again_unchanged_is_rewritten_as_it_was_before() {
    let created = STREAM.split_inclusive("\n\n").next().unwrap();
    let in_progress =
        created.replace("response.created", "response.in_progress").replace("number\":0", "number\":1");
    let queued = created.replace("response.created", "response.queued").replace("in_progress", "queued");
    for framing in [Framing::Sse, Framing::Socket(None)] {
        for second in [&in_progress, &queued] {
            let together = format!("{created}{second}{in_progress}");
            let (out, _) = relayed(framing.clone(), [together.as_bytes()]);
            let mut alone = VecDeque::new();
            for event in [created, second, &in_progress] {
                alone.extend(relayed(framing.clone(), [event.as_bytes()]).0);
            }
            assert_eq!(out, alone);
        }
    }
}

#[test]
fn the_terminal_event_is_held_back_with_the_response_to_store() {
    let stream = format!("{STREAM}{END}event: response.after\ndata: {{}}\n\n");
    let (out, terminal) = relayed(Framing::Sse, [stream.as_bytes()]);
    let terminal = terminal.unwrap();
    assert!(!text(&out).contains("completed") && !text(&out).contains("response.after"));
    assert!(terminal.error.is_none() && terminal.frame.starts_with(b"event: response.completed\n"));
    let finished = terminal.finished;
    assert_eq!(finished.status, Status::Completed);
    assert_eq!(finished.output, br#"[{"id":"msg_1","type":"message"}]"#[..]);
    assert_eq!((finished.upstream_id.as_deref(), finished.usage.output_tokens), (Some("resp_up"), 5));
}

#[test]
fn finished_items_stand_for_the_output_that_a_terminal_event_leaves_out() {
    let end = END.replace(r#"[{"id":"msg_1","type":"message"}]"#, "[]");
    let (_, terminal) = relayed(Framing::Sse, [STREAM.as_bytes(), end.as_bytes()]);
    assert_eq!(terminal.unwrap().finished.output, br#"[{"id":"msg_1","type":"message"}]"#[..]);
}

#[test]
fn a_failed_response_without_output_goes_out_with_the_finished_items() {
    for output in ["[]", "null"] {
        let failed = END.replace("completed", "failed");
        let failed = failed.replace(r#"[{"id":"msg_1","type":"message"}]"#, output);
        let (_, terminal) = relayed(Framing::Sse, [STREAM.as_bytes(), failed.as_bytes()]);
        let Terminal { frame, finished, .. } = terminal.unwrap();
        assert_eq!(finished.output, br#"[{"id":"msg_1","type":"message"}]"#[..]);
        assert_eq!(json::member(&finished.response, "output"), Some(&*finished.output));
        assert!(text(&[frame].into()).contains(&text(&[finished.response].into())));
    }
}

#[test]
fn a_response_without_a_status_has_that_of_its_event() {
    for (kind, status) in
        [("completed", Status::Completed), ("incomplete", Status::Incomplete), ("failed", Status::Failed)]
    {
        let end = END.replace(r#""status":"completed","#, "").replace("completed", kind);
        assert!(!end.contains("status"), "{end}");
        let (_, terminal) = relayed(Framing::Sse, [STREAM.as_bytes(), end.as_bytes()]);
        assert_eq!(terminal.unwrap().finished.status, status);
    }
}

#[test]
fn finished_items_that_are_no_valid_json_are_left_out() {
    let broken = STREAM.replace(r#""type":"message"}"#, r#""type":nothing}"#);
    let end = END.replace(r#"[{"id":"msg_1","type":"message"}]"#, "[]");
    let (_, terminal) = relayed(Framing::Sse, [broken.as_bytes(), STREAM.as_bytes(), end.as_bytes()]);
    assert_eq!(terminal.unwrap().finished.output, br#"[{"id":"msg_1","type":"message"}]"#[..]);
}

#[test]
fn a_last_event_without_its_blank_line_counts_if_it_is_complete() {
    let (_, terminal) = relayed(Framing::Sse, [STREAM.as_bytes(), END.trim_end().as_bytes()]);
    assert_eq!(terminal.unwrap().finished.status, Status::Completed);
    let cut = &END[..END.len() - 10];
    let (_, terminal) = relayed(Framing::Sse, [STREAM.as_bytes(), cut.as_bytes()]);
    assert!(terminal.is_none());
}

#[test]
fn messages_and_server_sent_events_give_a_socket_the_same_frames() {
    for stream_id in [None, Some("lane")] {
        let stream_id: Option<StreamId> = stream_id.map(|id| StreamId::new(id).unwrap());
        let framing = || Framing::Socket(stream_id.clone());
        let (from_bytes, terminal) = relayed(framing(), [STREAM.as_bytes(), END.as_bytes()]);
        let (mut relay, mut events, mut out) = (relay(framing()), decoder(), VecDeque::new());
        let mut source = decoder();
        source.push(Piece::Bytes(Bytes::from(format!("{STREAM}{END}"))));
        let mut from_messages = None;
        while let Some(event) = source.next_event().unwrap() {
            let Some(data) = event.shared_data() else { continue };
            events.push(Piece::Event(Event::of_message(data)));
            from_messages = relay.push(&mut events, &mut out).unwrap();
        }
        assert_eq!(out, from_bytes);
        assert_eq!(from_messages.unwrap().frame, terminal.unwrap().frame);
        assert_eq!(out.len(), 4, "no comment among them");
        assert!(
            out.iter()
                .all(|frame| text(&[frame.clone()].into()).contains("stream_id") == stream_id.is_some())
        );
    }
}

#[test]
fn a_message_becomes_a_server_sent_event_named_by_its_type() {
    let (mut relay, mut events, mut out) = (relay(Framing::Sse), decoder(), VecDeque::new());
    let data = Bytes::from_static(b"{\"type\":\"response.new_thing\",\r\n\"x\":1}");
    events.push(Piece::Event(Event::of_message(data)));
    assert!(relay.push(&mut events, &mut out).unwrap().is_none());
    let mut again = decoder();
    again.push(Piece::Bytes(out[0].clone()));
    let event = again.next_event().unwrap().unwrap();
    assert_eq!(event.name(), Some(&b"response.new_thing"[..]));
    assert!(again.next_event().unwrap().is_none(), "one event, and nothing is left of it");
    assert_eq!(json::member(&event.data().unwrap(), "x"), Some(&b"1"[..]));
}

#[test]
fn a_cut_off_stream_ends_with_an_error_and_a_failed_response_that_keeps_finished_items() {
    let (mut relay, mut events, mut out) = (relay(Framing::Sse), decoder(), VecDeque::new());
    events.push(Piece::Bytes(Bytes::from_static(STREAM.as_bytes())));
    assert!(relay.push(&mut events, &mut out).unwrap().is_none());
    let terminal = relay.fail(&api_error(), || unreachable!("there is a snapshot"));
    let error = String::from_utf8(terminal.error.unwrap().to_vec()).unwrap();
    assert!(error.starts_with("event: error\n") && error.contains(r#""sequence_number":4"#), "{error}");
    let frame = String::from_utf8(terminal.frame.to_vec()).unwrap();
    assert!(
        frame.starts_with("event: response.failed\n") && frame.contains(r#""sequence_number":5"#),
        "{frame}"
    );
    assert_eq!(terminal.finished.status, Status::Failed);
    assert_eq!(terminal.finished.output, br#"[{"id":"msg_1","type":"message"}]"#[..]);
}

#[test]
fn an_error_of_the_upstream_is_not_repeated() {
    let (mut relay, mut events, mut out) = (relay(Framing::Sse), decoder(), VecDeque::new());
    let error = b"event: error\ndata: {\"type\":\"error\",\"sequence_number\":0,\"code\":\"slow_down\",\"message\":\"m\"}\n\n";
    events.push(Piece::Bytes(Bytes::from_static(error)));
    assert!(relay.push(&mut events, &mut out).unwrap().is_none());
    assert_eq!(relay.error(), Some(&("slow_down".to_owned(), "m".to_owned())));
    let skeleton = br#"{"id":"resp_x","status":"in_progress","output":[],"error":null}"#;
    let terminal = relay.fail(&api_error(), || skeleton.to_vec());
    assert!(terminal.error.is_none());
    assert!(String::from_utf8_lossy(&terminal.frame).contains("slow_down"));
}

#[test]
fn events_before_one_that_is_too_large_still_go_out() {
    let (mut relay, mut out) = (relay(Framing::Sse), VecDeque::new());
    let mut events = ReplyFormat::Responses.decoder(64);
    events.push(Piece::Bytes(Bytes::from(format!("data: {{}}\n\ndata: {}", "x".repeat(100)))));
    assert!(matches!(relay.push(&mut events, &mut out), Err(BadStream::TooLarge(_))));
    assert_eq!(text(&out), "data: {}\n\n");
}

#[test]
fn a_terminal_event_without_a_response_is_malformed() {
    for data in ["{}", "null", "{\"response\":1}", "not json"] {
        let (mut relay, mut events, mut out) = (relay(Framing::Sse), decoder(), VecDeque::new());
        events.push(Piece::Bytes(Bytes::from(format!("event: response.completed\ndata: {data}\n\n"))));
        assert!(matches!(relay.push(&mut events, &mut out), Err(BadStream::Malformed)), "{data}");
    }
}

proptest! {
    #[test]
    fn however_the_network_cuts_a_stream_the_client_gets_the_same(
        mut cuts in proptest::collection::vec(0..STREAM.len() + END.len(), 0..12),
    ) {
        let stream = format!("{STREAM}{END}");
        cuts.sort_unstable();
        cuts.push(stream.len());
        let mut start = 0;
        let pieces = cuts.into_iter().map(|end| {
            let piece = &stream.as_bytes()[start..end];
            start = end;
            piece
        });
        let pieces: Vec<_> = pieces.collect();
        for framing in [Framing::Sse, Framing::Socket(None)] {
            let (whole, end) = relayed(framing.clone(), [stream.as_bytes()]);
            let (cut, cut_end) = relayed(framing, pieces.iter().copied());
            prop_assert_eq!(text(&cut), text(&whole));
            prop_assert_eq!(cut_end.unwrap().frame, end.unwrap().frame);
        }
    }
}

/// So many finished items, one after the other.
fn items(count: usize) -> String {
    let item = "x".repeat(1_000);
    let event = format!(
        "event: response.output_item.done\ndata: {{\"type\":\"response.output_item.done\",\"item\":{{\"x\":\"{item}\"}}}}\n\n"
    );
    event.repeat(count)
}

#[test]
fn items_without_end_break_the_stream_and_what_was_kept_before_is_bounded() {
    let (mut relay, mut events, mut out) = (relay(Framing::Sse), decoder(), VecDeque::new());
    let mut pushed = 0;
    let error = loop {
        events.push(Piece::Bytes(Bytes::from(items(5))));
        pushed += 5;
        if let Err(error) = relay.push(&mut events, &mut out) {
            break error;
        }
    };
    assert_eq!(error.to_string(), "its output is larger than the limit");
    assert_eq!((pushed, relay.kept.items().len()), (10, 9));
    let finished = relay.fail(&api_error(), || relay.owned.skeleton("m", 1)).finished;
    assert!(finished.output.len() < MAX_KEPT_BYTES);
}

#[test]
fn what_nobody_needs_is_not_kept() {
    let owned = Owned::new(ResponseId::mint(1, &[7; 10]), None, false);
    let (mut relay, mut events, mut out) =
        (Relay::new(owned, Framing::Sse, None), decoder(), VecDeque::new());
    events.push(Piece::Bytes(Bytes::from(format!("{}{END}", items(60)))));
    assert!(relay.push(&mut events, &mut out).unwrap().is_some());
    assert_eq!((relay.kept.items().len(), relay.kept_bytes()), (0, 0));
    assert_eq!(text(&out), items(60), "all of it is passed on");
}

#[test]
fn a_snapshot_of_as_many_members_as_there_may_be_can_still_be_ended() {
    let many = vec![r#""":0"#; 100_000].join(",");
    let created = format!(
        "event: response.created\ndata: {{\"type\":\"response.created\",\"response\":{{{many}}}}}\n\n"
    );
    let mut events = ReplyFormat::Responses.decoder(1 << 20);
    let (mut relay, mut out) = (relay(Framing::Sse), VecDeque::new());
    events.push(Piece::Bytes(Bytes::from(created)));
    assert!(relay.push(&mut events, &mut out).unwrap().is_none());
    let finished = relay.fail(&api_error(), || relay.owned.skeleton("m", 1)).finished;
    assert_eq!(finished.status, Status::Failed);
}
