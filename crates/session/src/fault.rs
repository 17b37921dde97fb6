//! Faults and the one place where they become close methods.

use leveret_codec::{ChannelClose, ConnectionClose, FrameError, HardCode, Method, SoftCode};

/// Longest reply text: a short string.
const TEXT_BYTES_MAX: usize = 255;
/// `ACCESS_REFUSED`, lawful on a connection only for a refused login.
const LOGIN_REFUSED: u16 = 403;

/// Why a channel or the connection is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A soft error: only the channel is closed.
    Channel {
        /// Its number.
        channel: u16,
        /// Reply code.
        code: SoftCode,
        /// Explanation, without the code's name.
        text: String,
        /// Class and method id of the offending method, 0 if none.
        method: (u16, u16),
    },
    /// A hard error: the connection is closed.
    Connection {
        /// Reply code.
        code: HardCode,
        /// Explanation, without the code's name.
        text: String,
        /// Class and method id of the offending method, 0 if none.
        method: (u16, u16),
    },
    /// Refused credentials.
    Authentication {
        /// Explanation, without the code's name.
        text: String,
    },
}

impl Fault {
    /// A hard error.
    #[must_use]
    pub fn connection(code: HardCode, text: impl Into<String>, method: (u16, u16)) -> Self {
        Self::Connection {
            code,
            text: text.into(),
            method,
        }
    }

    /// A soft error.
    #[must_use]
    pub fn channel(
        channel: u16,
        code: SoftCode,
        text: impl Into<String>,
        method: (u16, u16),
    ) -> Self {
        Self::Channel {
            channel,
            code,
            text: text.into(),
            method,
        }
    }

    /// The reply code.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Channel { code, .. } => code.code(),
            Self::Connection { code, .. } => code.code(),
            Self::Authentication { .. } => LOGIN_REFUSED,
        }
    }

    /// The text as clients see it: `NOT_FOUND - no queue 'q' in vhost '/'`.
    #[must_use]
    pub fn reply_text(&self) -> String {
        let (name, text) = match self {
            Self::Channel { code, text, .. } => (code.name(), text),
            Self::Connection { code, text, .. } => (code.name(), text),
            Self::Authentication { text } => (SoftCode::AccessRefused.name(), text),
        };
        let mut reply = format!("{name} - {text}");
        let mut end = reply.len().min(TEXT_BYTES_MAX);
        while !reply.is_char_boundary(end) {
            end -= 1;
        }
        reply.truncate(end);
        reply
    }

    /// Appends the close method to the outbound bytes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let text = self.reply_text();
        let text = text.as_bytes();
        let (code, (class_id, method_id)) = match self {
            Self::Channel {
                channel,
                code,
                method: (class_id, method_id),
                ..
            } => {
                let close = ChannelClose {
                    reply_code: code.code(),
                    reply_text: text,
                    class_id: *class_id,
                    method_id: *method_id,
                };
                return Method::ChannelClose(close).encode(*channel, out);
            }
            Self::Connection { code, method, .. } => (code.code(), *method),
            Self::Authentication { .. } => (LOGIN_REFUSED, (0, 0)),
        };
        let close = ConnectionClose {
            reply_code: code,
            reply_text: text,
            class_id,
            method_id,
        };
        Method::ConnectionClose(close).encode(0, out);
    }
}

impl From<FrameError> for Fault {
    fn from(error: FrameError) -> Self {
        let (code, method) = match error {
            FrameError::UnknownMethod { class, method } => {
                (HardCode::CommandInvalid, (class, method))
            }
            _ => (HardCode::FrameError, (0, 0)),
        };
        Self::connection(code, error.to_string(), method)
    }
}
