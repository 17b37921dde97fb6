//! Long answers, made piece by piece while they are sent.
//!
//! A piece is made when the client has taken those before it. One who does not read costs memory
//! for what is on its way, and neither a thread nor others' requests.

use std::io;
use std::iter::{from_fn, once};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use http_body::Frame;
use serde_json::{Map, Value};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::app::App;
use crate::budget::{AnswerBudget, ReservedBytes, RowsTurn};
use crate::problem::JSON;

/// A piece is full when it has so many bytes.
const FULL_BYTES: usize = 56 * 1024;
/// Room for the row that fills it.
const PIECE_BYTES: usize = 64 * 1024;
/// An answer must have been taken within this time, and [`PIECE_TIME`] more for each piece: one who
/// reads slower would keep a part of the budget.
const ANSWER_TIME: Duration = Duration::from_secs(60);
const PIECE_TIME: Duration = Duration::from_secs(1);

/// What comes one by one, wherever from.
pub(crate) type Items<T> = Box<dyn Iterator<Item = T> + Send>;

/// The items of any source as one type, so that what is done with them is compiled once for all
/// sources; and of what a source can do no more than `next`.
pub(crate) fn items<T: 'static>(mut source: impl Iterator<Item = T> + Send + 'static) -> Items<T> {
    Box::new(from_fn(move || source.next()))
}

/// A long answer.
pub(crate) struct Stream {
    /// Its content type.
    kind: &'static str,
    /// The name it is to be saved under.
    pub(crate) file: Option<String>,
    pieces: AnswerPieces,
}

impl Stream {
    /// An answer of this content type that comes in fragments, for which something was reserved.
    pub(crate) fn new(
        app: &Arc<App>,
        kind: &'static str,
        reserved: ReservedBytes,
        fragments: Items<Vec<u8>>,
    ) -> Self {
        Self {
            kind,
            file: None,
            pieces: AnswerPieces {
                budget: Arc::clone(&app.budget),
                fragments,
                is_over: false,
                _reserved: reserved,
            },
        }
    }

    /// The same of JSON.
    pub(crate) fn json(app: &Arc<App>, reserved: ReservedBytes, fragments: Items<Vec<u8>>) -> Self {
        Self::new(app, JSON, reserved, fragments)
    }

    /// The answer, which must have been taken at this time, or a little later if it is long.
    fn response_until(self, until: Instant) -> Response {
        let Self {
            kind,
            file,
            mut pieces,
        } = self;
        let first = pieces.make(pieces.budget.turn());
        let body = if pieces.is_over {
            Body::from(first)
        } else {
            Body::new(Arriving {
                first: Some(first),
                state: StreamState::Idle(Box::new(pieces)),
                until,
            })
        };
        let mut response = ([(header::CONTENT_TYPE, kind)], body).into_response();
        let disposition = file.map(|name| format!("attachment; filename=\"{name}\""));
        if let Some(Ok(disposition)) = disposition.map(|text| HeaderValue::from_str(&text)) {
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_DISPOSITION, disposition);
        }
        response
    }
}

impl IntoResponse for Stream {
    fn into_response(self) -> Response {
        self.response_until(Instant::now() + ANSWER_TIME)
    }
}

/// What of a long answer is yet to be made.
struct AnswerPieces {
    budget: Arc<AnswerBudget>,
    fragments: Items<Vec<u8>>,
    is_over: bool,
    _reserved: ReservedBytes,
}

impl AnswerPieces {
    /// The next piece; after the last one it is over.
    fn make(&mut self, mut turn: RowsTurn) -> Vec<u8> {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        for fragment in &mut self.fragments {
            piece.extend_from_slice(&fragment);
            if piece.len() >= FULL_BYTES {
                return piece;
            }
            turn.row();
        }
        self.is_over = true;
        piece
    }
}

/// A body that is made while it is taken. Once it has ended, or broken off, it stays so: what
/// compresses it asks again after its end.
struct Arriving {
    first: Option<Vec<u8>>,
    state: StreamState,
    until: Instant,
}

enum StreamState {
    Idle(Box<AnswerPieces>),
    Waiting(
        Box<AnswerPieces>,
        Pin<Box<dyn Future<Output = RowsTurn> + Send>>,
    ),
    Making(JoinHandle<(Vec<u8>, Box<AnswerPieces>)>),
    Over,
}

impl Arriving {
    /// The next piece, or `None` at the end; an error when it cannot be made.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Vec<u8>>>> {
        loop {
            self.state = match std::mem::replace(&mut self.state, StreamState::Over) {
                StreamState::Over => return Poll::Ready(None),
                StreamState::Idle(pieces) if pieces.is_over => return Poll::Ready(None),
                StreamState::Idle(pieces) => {
                    let turn = Arc::clone(&pieces.budget).next_turn();
                    StreamState::Waiting(pieces, Box::pin(turn))
                }
                StreamState::Waiting(mut pieces, mut turn) => match turn.as_mut().poll(context) {
                    Poll::Pending => {
                        self.state = StreamState::Waiting(pieces, turn);
                        return Poll::Pending;
                    }
                    Poll::Ready(turn) => {
                        StreamState::Making(spawn_blocking(move || (pieces.make(turn), pieces)))
                    }
                },
                StreamState::Making(mut making) => match Pin::new(&mut making).poll(context) {
                    Poll::Pending => {
                        self.state = StreamState::Making(making);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok((piece, pieces))) => {
                        self.state = StreamState::Idle(pieces);
                        return Poll::Ready(Some(Ok(piece)));
                    }
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Some(Err(io::Error::other(error))));
                    }
                },
            };
        }
    }
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first.into()))));
        }
        let piece = ready!(self.poll_piece(context));
        // The last one may be empty.
        let piece = piece.filter(|piece| piece.as_ref().map_or(true, |piece| !piece.is_empty()));
        self.until += PIECE_TIME;
        if piece.is_some() && Instant::now() > self.until {
            // The connection must end: what was sent is not the whole.
            self.state = StreamState::Over;
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        }
        Poll::Ready(piece.map(|piece| piece.map(|piece| Frame::data(piece.into()))))
    }

    fn is_end_stream(&self) -> bool {
        let is_over = match &self.state {
            StreamState::Over => true,
            StreamState::Idle(pieces) => pieces.is_over,
            StreamState::Waiting(..) | StreamState::Making(_) => false,
        };
        is_over && self.first.is_none()
    }
}

/// A JSON array in fragments.
pub(crate) fn array(values: Items<Value>) -> Items<Vec<u8>> {
    let values = values.enumerate().map(|(index, item)| {
        let mut text = if index > 0 { vec![b','] } else { Vec::new() };
        write(&mut text, &item);
        text
    });
    items(once(vec![b'[']).chain(values).chain(once(vec![b']'])))
}

/// A long array in a field of an object.
pub(crate) type LongArray = (&'static str, Items<Value>);

/// A JSON object in fragments, that ends with long arrays.
pub(crate) fn object(head: &Map<String, Value>, sections: Vec<LongArray>) -> Items<Vec<u8>> {
    let mut begin = Vec::new();
    write(&mut begin, head);
    begin.pop();
    let mut is_first = head.is_empty();
    let sections = sections.into_iter().flat_map(move |(field, values)| {
        let mut text = if is_first { Vec::new() } else { vec![b','] };
        is_first = false;
        write(&mut text, &field);
        text.push(b':');
        once(text).chain(array(values))
    });
    items(once(begin).chain(sections).chain(once(vec![b'}'])))
}

fn write(text: &mut Vec<u8>, value: &impl serde::Serialize) {
    // JSON values have no other keys than texts, and memory takes what it is given.
    let _ = serde_json::to_writer(text, value);
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http_body::Body as _;
    use serde_json::json;

    use super::*;

    /// A list of eight rows that fill a piece each.
    fn long(budget: &Arc<AnswerBudget>) -> Stream {
        let rows = (0..8).map(|_| Value::from("x".repeat(PIECE_BYTES)));
        Stream {
            kind: JSON,
            file: None,
            pieces: AnswerPieces {
                budget: Arc::clone(budget),
                fragments: array(items(rows)),
                is_over: false,
                _reserved: budget.answer(0).unwrap(),
            },
        }
    }

    #[tokio::test]
    async fn a_list_comes_whole_and_one_that_is_not_taken_in_time_breaks_off() {
        let budget = AnswerBudget::new(1 << 20);
        let now = Instant::now();
        let late = now.checked_sub(ANSWER_TIME).unwrap();
        for (until, whole) in [(now + ANSWER_TIME, true), (late, false)] {
            let list = long(&budget);
            let answer = spawn_blocking(move || list.response_until(until)).await;
            let mut body = answer.unwrap().into_body();
            let mut next = async || {
                let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
                frame.map(|frame| frame.ok().and_then(|frame| frame.into_data().ok()))
            };
            let mut read = Vec::new();
            let last = loop {
                match next().await {
                    Some(Some(bytes)) => read.extend_from_slice(&bytes),
                    last => break last,
                }
            };
            assert_eq!(last.is_none(), whole);
            let list = serde_json::from_slice::<Vec<Value>>(&read);
            assert_eq!(list.ok().map(|list| list.len()), whole.then_some(8));
            // It stays over.
            for _ in 0..3 {
                assert!(next().await.is_none());
            }
        }
        // Whatever was reserved is free again.
        assert!(budget.answer((1 << 18) - 1).is_ok());
    }

    #[tokio::test]
    async fn one_who_does_not_read_keeps_no_thread_and_no_turn() {
        let budget = AnswerBudget::new(1 << 20);
        let list = long(&budget);
        let answer = spawn_blocking(move || list.into_response()).await.unwrap();
        let body = answer.into_body();
        drop(Arc::clone(&budget).next_turn().await);
        drop(body);
    }

    #[test]
    fn fragments_make_json() {
        let read = |fragments: Vec<Vec<u8>>| -> Value {
            serde_json::from_slice(&fragments.concat()).unwrap()
        };
        for count in 0..3 {
            let values = move || items((0..count).map(Value::from));
            let list: Vec<Value> = values().collect();
            assert_eq!(read(array(values()).collect()), json!(list));
            for object in [json!({}), json!({"a": 1})] {
                let object = object.as_object().unwrap();
                let written = read(self::object(object, vec![("list", values())]).collect());
                let mut whole = object.clone();
                whole.insert("list".to_owned(), json!(list));
                assert_eq!(written, Value::Object(whole));
            }
        }
    }
}
