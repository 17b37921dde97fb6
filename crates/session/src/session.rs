//! One connection's protocol state, for its reader alone: bytes in, events out, no I/O.
//!
//! ```text
//! Header -> StartOk -> (login) -> TuneOk -> Open -> (vhost) -> Running
//!    any state -> Closing (connection.close sent) -> Ended
//! ```

use std::sync::Arc;

use leveret_codec::{
    ChannelCloseOk, ChannelOpenOk, ConnectionCloseOk, ConnectionOpenOk, ConnectionStart,
    ConnectionTune, ConnectionTuneOk, FRAME_MIN_SIZE, Frame, FrameKind, HardCode, Method,
    PROTOCOL_HEADER, RawTable, SoftCode, decode_ack, decode_header, decode_nack, decode_publish,
    decode_reject, frame, method_id,
};

use crate::batch::{BATCH_MAX, Place, Publishes, Settlement, Verdict};
use crate::content::{Assembled, Content, unexpected};
use crate::fault::Fault;

/// Largest frame before the client has agreed to one, as RabbitMQ 4.1 has it.
const FRAME_MAX_BEFORE_TUNE: u32 = 8192;
/// A message that could still be completed by the next read stays in the read buffer up to here.
const IN_PLACE_BYTES_MAX: usize = 16 * 1024;
/// No AMQP 0-9-1 broker takes larger ones.
const BODY_BYTES_CEILING: u64 = 512 * 1024 * 1024;

const PUBLISH: (u16, u16) = (60, 40);
const ACK: (u16, u16) = (60, 80);
const REJECT: (u16, u16) = (60, 90);
const NACK: (u16, u16) = (60, 120);

/// What the server offers and bounds.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Largest frame, bytes.
    pub frame_max: u32,
    /// Highest channel number.
    pub channel_max: u16,
    /// Proposed heartbeat interval, seconds; 0 is off.
    pub heartbeat_s: u16,
    /// Largest message body, bytes.
    pub max_message_bytes: u64,
    /// Partial message bodies of one connection, bytes.
    pub assembly_bytes_max: usize,
    /// Encoded table (without its length) sent in `connection.start`.
    pub server_properties: Vec<u8>,
    /// Mechanisms, separated by spaces.
    pub mechanisms: String,
}

/// Something for the broker to do.
#[derive(Debug)]
pub enum Event<'a> {
    /// Nothing more without further bytes.
    Pending,
    /// Credentials: answer with [`Session::tune`] or a fault.
    Login {
        /// What the client says of itself.
        client_properties: RawTable<'a>,
        /// SASL mechanism.
        mechanism: &'a [u8],
        /// SASL response.
        response: &'a [u8],
    },
    /// The virtual host: answer with [`Session::open_ok`] or a fault.
    Open {
        /// Its name.
        vhost: &'a [u8],
    },
    /// Whole messages of one channel and route.
    Publishes(Publishes<'a>),
    /// One message put together from several reads.
    Assembled(u16, Assembled),
    /// Acknowledgements and rejections of one channel.
    Settlements(u16, &'a [Settlement]),
    /// A channel was opened; `open-ok` is among the replies.
    ChannelOpened(u16),
    /// The client closes a channel: clean up, then [`Session::channel_close_ok`].
    ChannelClosed(u16),
    /// Any other method of an open channel, or `connection.update-secret` on channel 0.
    Method(u16, Method<'a>),
    /// The client closes the connection: clean up, then [`Session::close_ok`].
    Closed,
    /// Hang up once everything is written.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Header,
    StartOk,
    TuneOk,
    Open,
    Running,
    Closing,
    Ended,
}

#[derive(Debug, Default)]
struct Channel {
    content: Content,
    /// `channel.close` was sent: everything is discarded until `close-ok`.
    closing: bool,
}

/// The reader's half of a connection.
#[derive(Debug)]
pub struct Session {
    config: Arc<SessionConfig>,
    stage: Stage,
    frame_max: u32,
    channel_max: u16,
    heartbeat_s: u16,
    channels: Vec<Option<Box<Channel>>>,
    assembly_bytes: usize,
    places: Vec<Place>,
    settlements: Vec<Settlement>,
    replies: Vec<u8>,
}

impl Session {
    /// A session that waits for the protocol header.
    #[must_use]
    pub const fn new(config: Arc<SessionConfig>) -> Self {
        Self {
            config,
            stage: Stage::Header,
            frame_max: FRAME_MAX_BEFORE_TUNE,
            channel_max: 0,
            heartbeat_s: 0,
            channels: Vec::new(),
            assembly_bytes: 0,
            places: Vec::new(),
            settlements: Vec::new(),
            replies: Vec::new(),
        }
    }

    /// Frames to send before anything else; the caller takes and clears them.
    pub const fn replies(&mut self) -> &mut Vec<u8> {
        &mut self.replies
    }

    /// The largest frame in force, bytes.
    #[must_use]
    pub const fn frame_max(&self) -> u32 {
        self.frame_max
    }

    /// The negotiated heartbeat interval, seconds; 0 is off.
    #[must_use]
    pub const fn heartbeat_s(&self) -> u16 {
        self.heartbeat_s
    }

    /// The negotiated highest channel number.
    #[must_use]
    pub const fn channel_max(&self) -> u16 {
        self.channel_max
    }

    /// Whether login and virtual host are settled.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.stage == Stage::Running
    }

    /// Whether `connection.close` was sent and its answer is awaited, or nothing is any more.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        matches!(self.stage, Stage::Closing | Stage::Ended)
    }

    /// Reads on at `*at` and moves it past what was understood.
    ///
    /// # Errors
    /// A [`Fault`]: hand it to [`Session::fail`] after cleaning up.
    #[inline]
    pub fn next<'a>(&'a mut self, input: &'a [u8], at: &mut usize) -> Result<Event<'a>, Fault> {
        match self.stage {
            Stage::Running => self.running(input, at),
            Stage::Header => self.protocol_header(input, at),
            Stage::Closing => self.closing(input, at),
            Stage::Ended => Ok(Event::Ended),
            Stage::StartOk | Stage::TuneOk | Stage::Open => self.handshake(input, at),
        }
    }

    fn protocol_header<'a>(&mut self, input: &[u8], at: &mut usize) -> Result<Event<'a>, Fault> {
        let Some(header) = input.get(*at..).and_then(|rest| rest.first_chunk::<8>()) else {
            return Ok(Event::Pending);
        };
        *at += header.len();
        if *header != PROTOCOL_HEADER && header != b"AMQP\x01\x01\x00\x09" {
            if !speaks_http_or_tls(header) {
                self.replies.extend_from_slice(&PROTOCOL_HEADER);
            }
            self.stage = Stage::Ended;
            return Ok(Event::Ended);
        }
        let properties = RawTable::parse(&self.config.server_properties).map_err(Fault::from)?;
        let start = ConnectionStart {
            version_major: 0,
            version_minor: 9,
            server_properties: properties,
            mechanisms: self.config.mechanisms.as_bytes(),
            locales: b"en_US",
        };
        Method::from(start).encode(0, &mut self.replies);
        self.stage = Stage::StartOk;
        Ok(Event::Pending)
    }

    fn handshake<'a>(&'a mut self, input: &'a [u8], at: &mut usize) -> Result<Event<'a>, Fault> {
        let Some((frame, len)) = frame(input.get(*at..).unwrap_or_default(), self.frame_max)?
        else {
            return Ok(Event::Pending);
        };
        *at += len;
        if frame.kind == FrameKind::Heartbeat {
            return Ok(Event::Pending);
        }
        if frame.kind != FrameKind::Method || frame.channel != 0 {
            return Err(unexpected("expected a connection method on channel 0"));
        }
        match (self.stage, Method::decode(frame.payload)?) {
            (Stage::StartOk, Method::ConnectionStartOk(ok)) => Ok(Event::Login {
                client_properties: ok.client_properties,
                mechanism: ok.mechanism,
                response: ok.response,
            }),
            (Stage::TuneOk, Method::ConnectionTuneOk(ok)) => {
                self.tuned(ok)?;
                Ok(Event::Pending)
            }
            (Stage::Open, Method::ConnectionOpen(open)) => Ok(Event::Open {
                vhost: open.virtual_host,
            }),
            (_, Method::ConnectionClose(_)) => Ok(Event::Closed),
            (_, method) => Err(Fault::connection(
                HardCode::CommandInvalid,
                format!("unexpected method {} before connection.open", method.name()),
                method.id(),
            )),
        }
    }

    /// The login was accepted: proposes limits.
    pub fn tune(&mut self) {
        let tune = ConnectionTune {
            channel_max: self.config.channel_max,
            frame_max: self.config.frame_max,
            heartbeat: self.config.heartbeat_s,
        };
        Method::from(tune).encode(0, &mut self.replies);
        self.stage = Stage::TuneOk;
    }

    fn tuned(&mut self, ok: ConnectionTuneOk) -> Result<(), Fault> {
        negotiated(
            "frame_max",
            ok.frame_max,
            FRAME_MIN_SIZE,
            self.config.frame_max,
        )?;
        let channel_max = u32::from(self.config.channel_max);
        negotiated("channel_max", u32::from(ok.channel_max), 1, channel_max)?;
        self.frame_max = ok.frame_max;
        self.channel_max = ok.channel_max;
        self.heartbeat_s = ok.heartbeat;
        self.stage = Stage::Open;
        Ok(())
    }

    /// The virtual host was accepted.
    pub fn open_ok(&mut self) {
        Method::from(ConnectionOpenOk {}).encode(0, &mut self.replies);
        self.stage = Stage::Running;
    }

    /// Discards everything until `connection.close-ok`.
    fn closing<'a>(&mut self, input: &'a [u8], at: &mut usize) -> Result<Event<'a>, Fault> {
        loop {
            let rest = input.get(*at..).unwrap_or_default();
            let Ok(next) = frame(rest, self.frame_max) else {
                self.stage = Stage::Ended;
                return Ok(Event::Ended);
            };
            let Some((frame, len)) = next else {
                return Ok(Event::Pending);
            };
            *at += len;
            if frame.kind != FrameKind::Method || frame.channel != 0 {
                continue;
            }
            match method_id(frame.payload) {
                Ok((10, 51)) => {
                    self.stage = Stage::Ended;
                    return Ok(Event::Ended);
                }
                Ok((10, 50)) => return Ok(Event::Closed),
                _ => {}
            }
        }
    }

    #[inline]
    fn running<'a>(&'a mut self, input: &'a [u8], at: &mut usize) -> Result<Event<'a>, Fault> {
        loop {
            let rest = input.get(*at..).unwrap_or_default();
            let Some((frame, len)) = frame(rest, self.frame_max)? else {
                return Ok(Event::Pending);
            };
            if frame.kind == FrameKind::Method
                && let Some(channel) = self.open_channel(frame.channel)
                && channel.content.is_idle()
            {
                match method_id(frame.payload)? {
                    PUBLISH => match self.publishes(input, *at) {
                        Some(batch) => {
                            *at = batch.end;
                            let route = input.get(batch.route.0..batch.route.1);
                            let (route, places) = (route.unwrap_or_default(), &self.places);
                            let batch = Publishes::read(frame.channel, route, input, places);
                            return Ok(Event::Publishes(batch));
                        }
                        None if completes_soon(rest) => return Ok(Event::Pending),
                        None => {}
                    },
                    ACK | NACK | REJECT => {
                        *at = self.settlements(input, *at, frame.channel)?;
                        return Ok(Event::Settlements(frame.channel, &self.settlements));
                    }
                    _ => {}
                }
            }
            *at += len;
            if let Some(event) = self.frame(frame)? {
                return Ok(event);
            }
        }
    }

    fn open_channel(&mut self, channel: u16) -> Option<&mut Channel> {
        let channel = self
            .channels
            .get_mut(usize::from(channel))?
            .as_deref_mut()?;
        (!channel.closing).then_some(channel)
    }

    /// Collects whole messages of one channel and route that begin at `start`.
    #[inline]
    fn publishes(&mut self, input: &[u8], start: usize) -> Option<Run> {
        self.places.clear();
        let mut run: Option<Run> = None;
        let mut at = start;
        while self.places.len() < BATCH_MAX {
            let Some(whole) = whole_message(input, at, self.frame_max) else {
                break;
            };
            if whole.body.1 - whole.body.0 > self.config.max_message_bytes as usize {
                break;
            }
            let first = run.get_or_insert(Run {
                channel: whole.channel,
                ..whole.run
            });
            if first.channel != whole.channel
                || input.get(first.route.0..first.route.1)
                    != input.get(whole.run.route.0..whole.run.route.1)
            {
                break;
            }
            first.end = whole.run.end;
            at = whole.run.end;
            self.places.push(whole.place()?);
        }
        run.filter(|_| !self.places.is_empty())
    }

    /// Collects settlements of one channel that begin at `at`; gives where they end.
    #[inline]
    fn settlements(&mut self, input: &[u8], start: usize, channel: u16) -> Result<usize, Fault> {
        self.settlements.clear();
        let mut at = start;
        while self.settlements.len() < BATCH_MAX {
            let rest = input.get(at..).unwrap_or_default();
            let Ok(Some((frame, len))) = frame(rest, self.frame_max) else {
                break;
            };
            if frame.kind != FrameKind::Method || frame.channel != channel {
                break;
            }
            let Some(settlement) = settlement(frame.payload)? else {
                break;
            };
            self.settlements.push(settlement);
            at += len;
        }
        Ok(at)
    }

    /// One frame that is not part of a batch.
    fn frame<'a>(&mut self, frame: Frame<'a>) -> Result<Option<Event<'a>>, Fault> {
        let channel = frame.channel;
        match frame.kind {
            FrameKind::Heartbeat if channel == 0 => Ok(None),
            FrameKind::Heartbeat => Err(unexpected("heartbeat frame on a channel other than 0")),
            FrameKind::Method => self.method(channel, frame.payload),
            FrameKind::Header | FrameKind::Body => {
                let Some(state) = self.channels.get_mut(usize::from(channel)) else {
                    return Err(not_open((0, 0)));
                };
                let Some(state) = state else {
                    return Err(not_open((0, 0)));
                };
                if state.closing {
                    return Ok(None);
                }
                self.content(channel, frame)
            }
        }
    }

    fn content<'a>(&mut self, channel: u16, frame: Frame<'_>) -> Result<Option<Event<'a>>, Fault> {
        let (max, held_max) = (
            self.config.max_message_bytes,
            self.config.assembly_bytes_max,
        );
        let held = self.assembly_bytes;
        let Some(state) = self.open_channel(channel) else {
            return Ok(None);
        };
        let before = state.content.held();
        let message = if frame.kind == FrameKind::Header {
            let header = decode_header(frame.payload)?;
            check_body_size(channel, header.body_size, max)?;
            state.content.header(&header)?
        } else {
            if held + frame.payload.len() > held_max {
                let text = "partial message bodies exceed limits.assembly_bytes_max";
                return Err(Fault::connection(HardCode::ResourceError, text, PUBLISH));
            }
            state.content.body(frame.payload)?
        };
        let after = state.content.held();
        self.assembly_bytes = held - before + after;
        Ok(message.map(|message| Event::Assembled(channel, message)))
    }

    fn method<'a>(&mut self, channel: u16, payload: &'a [u8]) -> Result<Option<Event<'a>>, Fault> {
        let id = method_id(payload)?;
        if channel == 0 {
            return self.connection_method(payload);
        }
        let state = self
            .channels
            .get_mut(usize::from(channel))
            .and_then(Option::as_deref_mut);
        let Some(state) = state else {
            return self.method_without_channel(channel, id);
        };
        if state.closing {
            self.method_while_closing(channel, id);
            return Ok(None);
        }
        state.content.method(id)?;
        match Method::decode(payload)? {
            Method::ChannelOpen(_) => Err(Fault::connection(
                HardCode::ChannelError,
                "second 'channel.open' seen",
                id,
            )),
            Method::ChannelClose(_) => Ok(Some(Event::ChannelClosed(channel))),
            Method::ChannelCloseOk(_) => Ok(None),
            Method::BasicPublish(publish) => {
                if publish.immediate {
                    return Err(immediate());
                }
                let mut route =
                    Vec::with_capacity(2 + publish.exchange.len() + publish.routing_key.len());
                leveret_codec::push_route(&mut route, publish.exchange, publish.routing_key);
                state.content = Content::Header {
                    route,
                    mandatory: publish.mandatory,
                };
                Ok(None)
            }
            method => Ok(Some(Event::Method(channel, method))),
        }
    }

    fn connection_method<'a>(&self, payload: &'a [u8]) -> Result<Option<Event<'a>>, Fault> {
        match Method::decode(payload)? {
            Method::ConnectionClose(_) => Ok(Some(Event::Closed)),
            method @ Method::ConnectionUpdateSecret(_) => Ok(Some(Event::Method(0, method))),
            method => Err(Fault::connection(
                HardCode::ChannelError,
                format!(
                    "unexpected method {} in connection state running",
                    method.name()
                ),
                method.id(),
            )),
        }
    }

    fn method_without_channel<'a>(
        &mut self,
        channel: u16,
        id: (u16, u16),
    ) -> Result<Option<Event<'a>>, Fault> {
        match id {
            (20, 10) => self.channel_open(channel).map(Some),
            // The answer to a close that crossed the client's own.
            (20, 41) => Ok(None),
            _ => Err(not_open(id)),
        }
    }

    fn channel_open<'a>(&mut self, channel: u16) -> Result<Event<'a>, Fault> {
        if channel > self.channel_max {
            let text = format!(
                "channel {channel} is above the negotiated channel_max ({})",
                self.channel_max
            );
            return Err(Fault::connection(HardCode::NotAllowed, text, (20, 10)));
        }
        let index = usize::from(channel);
        if self.channels.len() <= index {
            self.channels.resize_with(index + 1, || None);
        }
        if let Some(slot) = self.channels.get_mut(index) {
            *slot = Some(Box::default());
        }
        Method::from(ChannelOpenOk {}).encode(channel, &mut self.replies);
        Ok(Event::ChannelOpened(channel))
    }

    fn method_while_closing(&mut self, channel: u16, id: (u16, u16)) {
        match id {
            (20, 40) => Method::from(ChannelCloseOk {}).encode(channel, &mut self.replies),
            (20, 41) => self.forget_channel(channel),
            _ => {}
        }
    }

    fn forget_channel(&mut self, channel: u16) {
        if let Some(slot) = self.channels.get_mut(usize::from(channel))
            && let Some(state) = slot.take()
        {
            self.assembly_bytes -= state.content.held();
        }
    }

    /// The client's `channel.close` has been carried out.
    pub fn channel_close_ok(&mut self, channel: u16) {
        self.forget_channel(channel);
        Method::from(ChannelCloseOk {}).encode(channel, &mut self.replies);
    }

    /// The client's `connection.close` has been carried out.
    pub fn close_ok(&mut self) {
        Method::from(ConnectionCloseOk {}).encode(0, &mut self.replies);
        self.stage = Stage::Ended;
    }

    /// Tells the client about a fault and stops listening on that level.
    ///
    /// `tell`: whether a refused login is told at all (`authentication_failure_close`).
    pub fn fail(&mut self, fault: &Fault, tell: bool) {
        if let Fault::Channel { channel, .. } = fault {
            fault.encode(&mut self.replies);
            if let Some(state) = self.open_channel(*channel) {
                let held = std::mem::take(&mut state.content).held();
                state.closing = true;
                self.assembly_bytes -= held;
            }
            return;
        }
        if self.stage == Stage::Header || (matches!(fault, Fault::Authentication { .. }) && !tell) {
            self.stage = Stage::Ended;
            return;
        }
        fault.encode(&mut self.replies);
        self.stage = Stage::Closing;
    }

    /// Bytes of partial message bodies held.
    #[must_use]
    pub const fn assembly_bytes(&self) -> usize {
        self.assembly_bytes
    }
}

/// Messages that follow each other: where their route is and where they end.
#[derive(Clone, Copy, Debug)]
struct Run {
    channel: u16,
    route: (usize, usize),
    end: usize,
}

/// One message whose frames follow each other without others between.
struct Whole {
    channel: u16,
    run: Run,
    header: (usize, usize),
    body: (usize, usize),
    mandatory: bool,
}

impl Whole {
    fn place(&self) -> Option<Place> {
        let range =
            |(from, to): (usize, usize)| Some((u32::try_from(from).ok()?, u32::try_from(to).ok()?));
        Some(Place {
            header: range(self.header)?,
            body: range(self.body)?,
            mandatory: self.mandatory,
        })
    }
}

/// Reads publish, content header and body frame at `start`, if they are all there and lawful;
/// anything else goes frame by frame, where errors are found.
#[inline]
fn whole_message(input: &[u8], start: usize, frame_max: u32) -> Option<Whole> {
    let (method, len) = frame(input.get(start..)?, frame_max).ok()??;
    if method.kind != FrameKind::Method || method_id(method.payload).ok()? != PUBLISH {
        return None;
    }
    let publish = decode_publish(method.payload).ok()?;
    if publish.immediate {
        return None;
    }
    let header_at = start + len;
    let (header, len) = frame(input.get(header_at..)?, frame_max).ok()??;
    if header.kind != FrameKind::Header || header.channel != method.channel {
        return None;
    }
    let content = decode_header(header.payload).ok()?;
    if content.class_id != PUBLISH.0 || content.weight != 0 {
        return None;
    }
    let body_at = header_at + len;
    let (body, end) = if content.body_size == 0 {
        ((body_at, body_at), body_at)
    } else {
        let (body, len) = frame(input.get(body_at..)?, frame_max).ok()??;
        let whole = body.kind == FrameKind::Body
            && body.channel == method.channel
            && body.payload.len() as u64 == content.body_size;
        if !whole {
            return None;
        }
        (payload_range(body_at, body.payload.len()), body_at + len)
    };
    // Behind the frame head, class, method and ticket.
    let route_at = start + FRAME_HEAD_BYTES + 6;
    let route = (route_at, route_at + publish.route.len());
    Some(Whole {
        channel: method.channel,
        run: Run {
            channel: method.channel,
            route,
            end,
        },
        header: payload_range(header_at, header.payload.len()),
        body,
        mandatory: publish.mandatory,
    })
}

const FRAME_HEAD_BYTES: usize = 7;

const fn payload_range(frame_at: usize, len: usize) -> (usize, usize) {
    (
        frame_at + FRAME_HEAD_BYTES,
        frame_at + FRAME_HEAD_BYTES + len,
    )
}

/// Whether the message that begins here is merely cut off by the end of the read, and small.
///
/// Frames of other channels in between mean that it must be put together frame by frame: whoever
/// sent them may wait for an answer before going on.
fn completes_soon(rest: &[u8]) -> bool {
    let channel = rest.get(1..3);
    let mut at = 0;
    for kind in 1..=3u8 {
        let frame = rest.get(at..).unwrap_or_default();
        let Some(len) = leveret_codec::frame_len(frame) else {
            return at <= IN_PLACE_BYTES_MAX;
        };
        if frame.first() != Some(&kind) || frame.get(1..3) != channel {
            return false;
        }
        at += len;
        if at > rest.len() {
            return at <= IN_PLACE_BYTES_MAX;
        }
    }
    false
}

fn settlement(payload: &[u8]) -> Result<Option<Settlement>, Fault> {
    let method = method_id(payload)?;
    let requeue = |requeue| {
        if requeue {
            Verdict::Requeue
        } else {
            Verdict::Discard
        }
    };
    let (tag, multiple, verdict) = match method {
        ACK => {
            let ack = decode_ack(payload)?;
            (ack.delivery_tag, ack.multiple, Verdict::Ack)
        }
        NACK => {
            let nack = decode_nack(payload)?;
            (nack.delivery_tag, nack.multiple, requeue(nack.requeue))
        }
        REJECT => {
            let reject = decode_reject(payload)?;
            (reject.delivery_tag, false, requeue(reject.requeue))
        }
        _ => return Ok(None),
    };
    Ok(Some(Settlement {
        tag,
        multiple,
        verdict,
        method,
    }))
}

fn check_body_size(channel: u16, size: u64, max: u64) -> Result<(), Fault> {
    if size > BODY_BYTES_CEILING {
        let text = format!("content of {size} bytes is announced, {BODY_BYTES_CEILING} at most");
        return Err(Fault::connection(HardCode::FrameError, text, PUBLISH));
    }
    if size > max {
        let text = format!("message size {size} is larger than configured max size {max}");
        return Err(Fault::channel(
            channel,
            SoftCode::PreconditionFailed,
            text,
            PUBLISH,
        ));
    }
    Ok(())
}

fn negotiated(name: &str, client: u32, min: u32, max: u32) -> Result<(), Fault> {
    let text = if client != 0 && client < min {
        format!("negotiated {name} = {client} is lower than the minimum allowed value ({min})")
    } else if max != 0 && (client == 0 || client > max) {
        format!("negotiated {name} = {client} is higher than the maximum allowed value ({max})")
    } else {
        return Ok(());
    };
    Err(Fault::connection(HardCode::NotAllowed, text, (10, 31)))
}

fn speaks_http_or_tls(header: &[u8; 8]) -> bool {
    const HTTP: [&[u8]; 7] = [
        b"GET ",
        b"POST ",
        b"PUT ",
        b"HEAD ",
        b"DELETE ",
        b"OPTIONS ",
        b"CONNECT ",
    ];
    header.starts_with(&[0x16, 0x03]) || HTTP.iter().any(|method| header.starts_with(method))
}

fn not_open(method: (u16, u16)) -> Fault {
    Fault::connection(HardCode::ChannelError, "expected 'channel.open'", method)
}

fn immediate() -> Fault {
    Fault::connection(HardCode::NotImplemented, "immediate=true", PUBLISH)
}
