//! From the protocol header to `connection.open-ok`.

use leveret_codec::{
    ConnectionClose, ConnectionOpenOk, ConnectionStart, ConnectionTune, ConnectionTuneOk,
    FRAME_MIN_SIZE, FrameKind, HardCode, Method, PROTOCOL_HEADER, RawTable, frame,
};

use crate::content::unexpected;
use crate::fault::Fault;
use crate::session::{Event, Session, SessionStage};

/// What is spoken on an AMQP 0-9-1 port by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// A TLS handshake, to a port that has none.
    Tls,
    /// A request of HTTP.
    Http,
    /// AMQP 1.0, with or without one of its security layers.
    Amqp10,
    /// Another version of AMQP.
    OtherAmqp,
    /// Nothing known.
    Unknown,
}

impl Stranger {
    const HTTP: [&[u8]; 8] = [
        b"GET ",
        b"POST ",
        b"PUT ",
        b"HEAD ",
        b"PATCH ",
        b"DELETE ",
        b"OPTIONS ",
        b"CONNECT ",
    ];

    /// Its name, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tls => "TLS",
            Self::Http => "HTTP",
            Self::Amqp10 => "AMQP 1.0",
            Self::OtherAmqp => "another version of AMQP",
            Self::Unknown => "an unknown protocol",
        }
    }

    fn of(header: [u8; 8]) -> Self {
        match header {
            [0x16, 0x03, ..] => Self::Tls,
            [b'A', b'M', b'Q', b'P', 0 | 2 | 3, 1, 0, 0] => Self::Amqp10,
            [b'A', b'M', b'Q', b'P', ..] => Self::OtherAmqp,
            _ if Self::HTTP.iter().any(|method| header.starts_with(method)) => Self::Http,
            _ => Self::Unknown,
        }
    }
}

impl<'a> Event<'a> {
    pub(crate) const fn closed(close: &ConnectionClose<'a>) -> Self {
        Self::Closed {
            code: close.reply_code,
            text: close.reply_text,
        }
    }

    /// A client's `connection.close` that crossed the broker's own: only that it came counts.
    pub(crate) fn crossed(payload: &'a [u8]) -> Self {
        match Method::decode(payload) {
            Ok(Method::ConnectionClose(close)) => Self::closed(&close),
            _ => Self::Closed { code: 0, text: &[] },
        }
    }
}

impl Session {
    /// What the client speaks instead of AMQP 0-9-1, if it has begun with that.
    #[must_use]
    pub const fn stranger(&self) -> Option<Stranger> {
        self.stranger
    }

    pub(crate) fn protocol_header<'a>(
        &mut self,
        input: &[u8],
        at: &mut usize,
    ) -> Result<Event<'a>, Fault> {
        let Some(header) = input.get(*at..).and_then(|rest| rest.first_chunk::<8>()) else {
            return Ok(Event::Pending);
        };
        *at += header.len();
        if *header != PROTOCOL_HEADER && header != b"AMQP\x01\x01\x00\x09" {
            let stranger = Stranger::of(*header);
            if !matches!(stranger, Stranger::Http | Stranger::Tls) {
                self.replies.extend_from_slice(&PROTOCOL_HEADER);
            }
            self.stranger = Some(stranger);
            self.stage = SessionStage::Ended;
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
        self.stage = SessionStage::StartOk;
        Ok(Event::Progress)
    }

    pub(crate) fn handshake<'a>(
        &'a mut self,
        input: &'a [u8],
        at: &mut usize,
    ) -> Result<Event<'a>, Fault> {
        let Some((frame, len)) = frame(input.get(*at..).unwrap_or_default(), self.frame_max)?
        else {
            return Ok(Event::Pending);
        };
        *at += len;
        if frame.kind == FrameKind::Heartbeat {
            return Ok(Event::Progress);
        }
        if frame.kind != FrameKind::Method || frame.channel != 0 {
            return Err(unexpected("expected a connection method on channel 0"));
        }
        match (self.stage, Method::decode(frame.payload)?) {
            (SessionStage::StartOk, Method::ConnectionStartOk(ok)) => Ok(Event::Login {
                client_properties: ok.client_properties,
                mechanism: ok.mechanism,
                response: ok.response,
            }),
            (SessionStage::TuneOk, Method::ConnectionTuneOk(ok)) => {
                self.tuned(ok)?;
                Ok(Event::Progress)
            }
            (SessionStage::Open, Method::ConnectionOpen(open)) => Ok(Event::Open {
                vhost: open.virtual_host,
            }),
            (_, Method::ConnectionClose(close)) => Ok(Event::closed(&close)),
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
        self.stage = SessionStage::TuneOk;
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
        self.stage = SessionStage::Open;
        Ok(())
    }

    /// The virtual host was accepted.
    pub fn open_ok(&mut self) {
        Method::from(ConnectionOpenOk {}).encode(0, &mut self.replies);
        self.stage = SessionStage::Running;
    }
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
