//! One connection's protocol state, for its reader alone: bytes in, events out, no I/O.
//!
//! ```text
//! Header -> StartOk -> (login) -> TuneOk -> Open -> (vhost) -> Running
//!    any state -> Closing (connection.close sent) -> Ended
//! ```

use std::sync::Arc;

use leveret_codec::{
    ChannelCloseOk, ChannelOpenOk, ConnectionCloseOk, Frame, FrameKind, HardCode, Method, RawTable,
    decode_header, decode_header_start, frame, method_id, property_flags,
};

use crate::batch::{BATCH_MAX, MessagePlace, MessageRun, Publishes, Settlement};
use crate::content::{Assembled, Assembly, METHOD_EXPECTED, check_body_size, unexpected};
use crate::fault::Fault;
use crate::handshake::Stranger;
use crate::whole::{ACK, NACK, PUBLISH, REJECT, completes_soon, settlement, whole_message};

/// Largest frame before the client has agreed to one, as RabbitMQ 4.1 has it.
const FRAME_MAX_BEFORE_TUNE: u32 = 8192;

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
    /// Partial messages of one connection, bytes, unless it is a single one.
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
    /// A step of the handshake was taken; there may be more.
    Progress,
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
    /// A part has come of a message that is put together from several reads.
    Part,
    /// It is complete.
    Assembled(u16, Assembled),
    /// Acknowledgements and rejections of one channel.
    Settlements(u16, &'a [Settlement]),
    /// A channel is opened: answer with [`Session::channel_open_ok`] or a fault.
    ChannelOpened(u16),
    /// The client closes a channel: clean up, then [`Session::channel_close_ok`].
    ChannelClosed(u16),
    /// Any other method of an open channel, or `connection.update-secret` on channel 0.
    Method(u16, Method<'a>),
    /// The client closes the connection: clean up, then [`Session::close_ok`].
    Closed {
        /// Its reply code.
        code: u16,
        /// Its explanation.
        text: &'a [u8],
    },
    /// Hang up once everything is written.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionStage {
    Header,
    StartOk,
    TuneOk,
    Open,
    Running,
    Closing,
    Ended,
}

#[derive(Debug, Default)]
pub(crate) struct SessionChannel {
    pub(crate) content: Assembly,
    /// When the last part of it came.
    pub(crate) part_ms: u64,
    /// `channel.close` was sent: everything is discarded until `close-ok`.
    closing: bool,
}

/// The reader's half of a connection.
#[derive(Debug)]
pub struct Session {
    pub(crate) config: Arc<SessionConfig>,
    pub(crate) stage: SessionStage,
    pub(crate) frame_max: u32,
    pub(crate) channel_max: u16,
    pub(crate) heartbeat_s: u16,
    pub(crate) channels: Vec<Option<Box<SessionChannel>>>,
    pub(crate) assembly_bytes: usize,
    pub(crate) now_ms: u64,
    /// Bytes of the last batch of publishes, or of the last frame that was read on its own.
    last_read: usize,
    places: Vec<MessagePlace>,
    settlements: Vec<Settlement>,
    pub(crate) replies: Vec<u8>,
    pub(crate) stranger: Option<Stranger>,
}

impl Session {
    /// A session that waits for the protocol header.
    #[must_use]
    pub const fn new(config: Arc<SessionConfig>) -> Self {
        Self {
            config,
            stage: SessionStage::Header,
            frame_max: FRAME_MAX_BEFORE_TUNE,
            channel_max: 0,
            heartbeat_s: 0,
            channels: Vec::new(),
            assembly_bytes: 0,
            now_ms: 0,
            last_read: 0,
            places: Vec::new(),
            settlements: Vec::new(),
            replies: Vec::new(),
            stranger: None,
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
        self.stage == SessionStage::Running
    }

    /// Whether `connection.close` was sent and its answer is awaited, or nothing is any more.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        matches!(self.stage, SessionStage::Closing | SessionStage::Ended)
    }

    /// Reads on at `*at` and moves it past what was understood.
    ///
    /// # Errors
    /// A [`Fault`]: hand it to [`Session::fail`] after cleaning up.
    #[inline]
    pub fn next<'a>(&'a mut self, input: &'a [u8], at: &mut usize) -> Result<Event<'a>, Fault> {
        match self.stage {
            SessionStage::Running => self.running(input, at),
            SessionStage::Header => self.protocol_header(input, at),
            SessionStage::Closing => self.closing(input, at),
            SessionStage::Ended => Ok(Event::Ended),
            SessionStage::StartOk | SessionStage::TuneOk | SessionStage::Open => {
                self.handshake(input, at)
            }
        }
    }

    /// Moves `*at` back before the [`Event::Method`] or [`Event::Publishes`] that was read last: it
    /// is read again later.
    pub const fn unread(&self, at: &mut usize) {
        *at = at.saturating_sub(self.last_read);
    }

    /// Discards everything until `connection.close-ok`.
    fn closing<'a>(&mut self, input: &'a [u8], at: &mut usize) -> Result<Event<'a>, Fault> {
        loop {
            let rest = input.get(*at..).unwrap_or_default();
            let Ok(next) = frame(rest, self.frame_max) else {
                self.stage = SessionStage::Ended;
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
                    self.stage = SessionStage::Ended;
                    return Ok(Event::Ended);
                }
                Ok((10, 50)) => return Ok(Event::crossed(frame.payload)),
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
                            self.last_read = batch.end - *at;
                            *at = batch.end;
                            let batch = Publishes::read(frame.channel, batch, input, &self.places);
                            return Ok(Event::Publishes(batch));
                        }
                        None if self.completes_soon(rest) => return Ok(Event::Pending),
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
            self.last_read = len;
            if let Some(event) = self.frame(frame)? {
                return Ok(event);
            }
        }
    }

    fn completes_soon(&self, rest: &[u8]) -> bool {
        completes_soon(rest, self.frame_max, self.config.max_message_bytes)
    }

    pub(crate) fn open_channel(&mut self, channel: u16) -> Option<&mut SessionChannel> {
        let channel = self
            .channels
            .get_mut(usize::from(channel))?
            .as_deref_mut()?;
        (!channel.closing).then_some(channel)
    }

    /// Collects whole messages of one channel and route that begin at `start`; gives where the
    /// route is, where they end, and the properties that any of them has.
    #[inline]
    fn publishes(&mut self, input: &[u8], start: usize) -> Option<MessageRun> {
        self.places.clear();
        let frame_max = self.frame_max;
        let body_max = usize::try_from(self.config.max_message_bytes).unwrap_or(usize::MAX);
        let first = whole_message(input, start, frame_max)?;
        let route = input.get(first.route.0..first.route.1)?;
        let mut run = MessageRun {
            begin: start,
            route: first.route,
            end: start,
            properties: 0,
            body_len_max: 0,
        };
        let (mut last, mut is_like) = (first, false);
        loop {
            if !is_like {
                let body_len = last.body.1 - last.body.0;
                if body_len > body_max {
                    break;
                }
                run.body_len_max = run.body_len_max.max(body_len);
                run.properties |= property_flags(input.get(last.header.0..last.header.1)?);
            }
            self.places.push(last.place()?);
            run.end = last.end;
            if self.places.len() == BATCH_MAX {
                break;
            }
            let next = last.followed_by_like(input);
            is_like = next.is_some();
            let Some(next) = next.or_else(|| whole_message(input, last.end, frame_max)) else {
                break;
            };
            let same = is_like
                || (next.channel == first.channel
                    && input.get(next.route.0..next.route.1) == Some(route));
            if !same {
                break;
            }
            last = next;
        }
        (!self.places.is_empty()).then_some(run)
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
                let state = self.channels.get(usize::from(channel));
                let Some(Some(state)) = state else {
                    return Err(out_of_turn(frame));
                };
                if state.closing {
                    return Ok(None);
                }
                self.content(channel, frame)
            }
        }
    }

    fn content<'a>(&mut self, channel: u16, frame: Frame<'_>) -> Result<Option<Event<'a>>, Fault> {
        let max = self.config.max_message_bytes;
        let (held, now_ms) = (self.assembly_bytes, self.now_ms);
        let Some(state) = self.open_channel(channel) else {
            return Ok(None);
        };
        state.part_ms = now_ms;
        let of_others = held - state.content.held();
        let message = if frame.kind == FrameKind::Header {
            let start = decode_header_start(frame.payload)?;
            state.content.expect_header(&start)?;
            check_body_size(channel, start.body_size, max)?;
            state.content.header(&decode_header(frame.payload)?)
        } else {
            state.content.body(frame.payload)?
        };
        let held = of_others + state.content.held();
        self.assembly_bytes = held;
        // One message alone is bounded by its own size.
        if held > self.config.assembly_bytes_max && of_others > 0 {
            let text = "partial messages exceed limits.assembly_bytes_max";
            return Err(Fault::connection(HardCode::ResourceError, text, PUBLISH));
        }
        Ok(Some(message.map_or(Event::Part, |message| {
            Event::Assembled(channel, message)
        })))
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
        state.content.method()?;
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
                state.content = Assembly::Header {
                    route,
                    mandatory: publish.mandatory,
                };
                state.part_ms = self.now_ms;
                self.assembly_bytes += state.content.held();
                Ok(Some(Event::Part))
            }
            method => Ok(Some(Event::Method(channel, method))),
        }
    }

    fn connection_method<'a>(&self, payload: &'a [u8]) -> Result<Option<Event<'a>>, Fault> {
        match Method::decode(payload)? {
            Method::ConnectionClose(close) => Ok(Some(Event::closed(&close))),
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
            let open = self.channels.iter().flatten().count();
            let max = self.channel_max;
            let text = if open >= usize::from(max) {
                format!(
                    "number of channels opened ({open}) has reached the negotiated channel_max \
                     ({max})"
                )
            } else {
                format!("channel {channel} is above the negotiated channel_max ({max})")
            };
            return Err(Fault::connection(HardCode::NotAllowed, text, (20, 10)));
        }
        let index = usize::from(channel);
        if self.channels.len() <= index {
            self.channels.resize_with(index + 1, || None);
        }
        if let Some(slot) = self.channels.get_mut(index) {
            *slot = Some(Box::default());
        }
        Ok(Event::ChannelOpened(channel))
    }

    /// The channel was accepted.
    pub fn channel_open_ok(&mut self, channel: u16) {
        Method::from(ChannelOpenOk {}).encode(channel, &mut self.replies);
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
        self.stage = SessionStage::Ended;
        self.forget_channels();
    }

    /// The client is gone.
    pub const fn abandon(&mut self) {
        self.stage = SessionStage::Ended;
    }

    /// Tells the client about a fault and stops listening on that level.
    ///
    /// `tell`: whether wrong credentials are told at all (`authentication_failure_close`). Nothing
    /// else is told before the login, as RabbitMQ has it: whoever is not trusted yet gets silence.
    ///
    /// Gives whether the client is told.
    pub fn fail(&mut self, fault: &Fault, tell: bool) -> bool {
        if let Fault::Channel { channel, .. } = fault {
            fault.encode(&mut self.replies);
            if let Some(state) = self.open_channel(*channel) {
                let held = std::mem::take(&mut state.content).held();
                state.closing = true;
                self.assembly_bytes -= held;
            }
            return true;
        }
        let silent = match self.stage {
            SessionStage::Header => true,
            SessionStage::StartOk => !(tell && matches!(fault, Fault::Authentication { .. })),
            _ => false,
        };
        if silent {
            self.stage = SessionStage::Ended;
            return false;
        }
        fault.encode(&mut self.replies);
        self.stage = SessionStage::Closing;
        self.forget_channels();
        true
    }

    /// What was begun on them is not completed any more, and the client may take its time to go.
    fn forget_channels(&mut self) {
        self.channels = Vec::new();
        self.assembly_bytes = 0;
    }
}

/// A content frame on a channel that does not exist.
fn out_of_turn(frame: Frame<'_>) -> Fault {
    let start = (frame.kind == FrameKind::Header).then(|| decode_header_start(frame.payload));
    match start {
        Some(Err(error)) => error.into(),
        _ => unexpected(METHOD_EXPECTED),
    }
}

fn not_open(method: (u16, u16)) -> Fault {
    Fault::connection(HardCode::ChannelError, "expected 'channel.open'", method)
}

fn immediate() -> Fault {
    Fault::connection(HardCode::NotImplemented, "immediate=true", PUBLISH)
}
