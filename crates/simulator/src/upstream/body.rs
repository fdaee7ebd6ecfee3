//! A reply body that plays steps: bytes, pauses, gates, a cut.

use super::gate::Gate;
use super::received::InFlight;
use super::stamp;
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::BoxStream;
use http_body::{Body, Frame, SizeHint};
use std::collections::VecDeque;
use std::future::{Future, pending};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

#[derive(Debug)]
pub(super) enum Step {
    Data(Bytes),
    /// An event that is stamped when it is sent.
    Stamped(Bytes),
    /// Flushes: the bytes so far go out in a write of their own.
    Flush,
    Pause(Duration),
    Gate(Gate),
    Cut,
    Hang,
}

/// The body was cut by its script.
#[derive(Debug, thiserror::Error)]
#[error("the script cuts the connection")]
pub(super) struct Cut;

pub(super) struct ReplyBody {
    steps: VecDeque<Step>,
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    length: Option<u64>,
    turn: Option<InFlight>,
    /// What comes after the steps.
    rest: Option<BoxStream<'static, Result<Bytes, Cut>>>,
}

impl ReplyBody {
    /// Without a length, the body is sent chunked.
    pub(super) fn new(steps: VecDeque<Step>, length: Option<u64>, turn: Option<InFlight>) -> Self {
        let mut body = Self { steps, waiting: None, length, turn, rest: None };
        body.finish_if_done();
        body
    }

    pub(super) fn whole(bytes: Bytes, turn: Option<InFlight>) -> Self {
        let length = bytes.len() as u64;
        Self::new(VecDeque::from([Step::Data(bytes)]), Some(length), turn)
    }

    /// A body that goes on as the stream does.
    pub(super) fn following(rest: impl Stream<Item = Result<Bytes, Cut>> + Send + 'static) -> Self {
        Self { rest: Some(Box::pin(rest)), ..Self::new(VecDeque::new(), None, None) }
    }

    fn finish_if_done(&mut self) {
        if self.steps.is_empty()
            && let Some(turn) = &mut self.turn
        {
            turn.finish();
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                if waiting.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                self.waiting = None;
            }
            let step = self.steps.pop_front();
            if !matches!(step, Some(Step::Hang)) {
                self.finish_if_done();
            }
            match step {
                None => {
                    let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
                    return rest
                        .as_mut()
                        .poll_next(context)
                        .map(|next| next.map(|next| next.map(Frame::data)));
                }
                Some(Step::Data(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Some(Step::Stamped(event)) => {
                    return Poll::Ready(Some(Ok(Frame::data(stamp::stamped(&event)))));
                }
                Some(Step::Cut) => return Poll::Ready(Some(Err(Cut))),
                Some(Step::Flush) => {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Some(Step::Pause(time)) => self.waiting = Some(Box::pin(tokio::time::sleep(time))),
                Some(Step::Gate(gate)) => self.waiting = Some(Box::pin(gate.pass())),
                Some(Step::Hang) => self.waiting = Some(Box::pin(pending())),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.steps.is_empty() && self.waiting.is_none() && self.rest.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
