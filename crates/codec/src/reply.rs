//! Reply codes, one enum per thing they close, so that a code cannot end up in the wrong close.

macro_rules! reply_codes {
    ($(#[$doc:meta])* $Enum:ident {
        $($(#[$code_doc:meta])* $Code:ident = $code:literal $name:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $Enum {
            $($(#[$code_doc])* $Code = $code,)*
        }

        impl $Enum {
            /// Every code, in ascending order.
            pub const ALL: &'static [Self] = &[$(Self::$Code,)*];

            /// The number on the wire.
            #[must_use]
            pub const fn code(self) -> u16 {
                self as u16
            }

            /// The name that begins a reply text.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$Code => $name,)*
                }
            }

            /// The code with this number, if it is one of these.
            #[must_use]
            pub const fn from_code(code: u16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$Code),)*
                    _ => None,
                }
            }
        }
    };
}

reply_codes! {
    /// Codes that close a channel; some also explain a `basic.return`.
    SoftCode {
        /// The content is larger than the broker accepts.
        ContentTooLarge = 311 "CONTENT_TOO_LARGE",
        /// No queue took a mandatory message.
        NoRoute = 312 "NO_ROUTE",
        /// No consumer could take an immediate message.
        NoConsumers = 313 "NO_CONSUMERS",
        /// The user lacks a permission.
        AccessRefused = 403 "ACCESS_REFUSED",
        /// The named thing does not exist.
        NotFound = 404 "NOT_FOUND",
        /// The queue belongs to another connection.
        ResourceLocked = 405 "RESOURCE_LOCKED",
        /// The request contradicts the state of what it names.
        PreconditionFailed = 406 "PRECONDITION_FAILED",
    }
}

reply_codes! {
    /// Codes that close the whole connection.
    HardCode {
        /// An operator or a shutdown ended the connection.
        ConnectionForced = 320 "CONNECTION_FORCED",
        /// The virtual host's path is not one.
        InvalidPath = 402 "INVALID_PATH",
        /// The bytes are not a frame.
        FrameError = 501 "FRAME_ERROR",
        /// The fields of a frame are not what they must be.
        SyntaxError = 502 "SYNTAX_ERROR",
        /// The method is not allowed in this state.
        CommandInvalid = 503 "COMMAND_INVALID",
        /// The channel is not in a state to take this.
        ChannelError = 504 "CHANNEL_ERROR",
        /// A frame of another kind had to come next.
        UnexpectedFrame = 505 "UNEXPECTED_FRAME",
        /// The broker lacks resources.
        ResourceError = 506 "RESOURCE_ERROR",
        /// The peer tried what it may not.
        NotAllowed = 530 "NOT_ALLOWED",
        /// The broker does not do this.
        NotImplemented = 540 "NOT_IMPLEMENTED",
        /// The broker failed.
        InternalError = 541 "INTERNAL_ERROR",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_numbers_convert_both_ways_and_never_overlap() {
        for &code in SoftCode::ALL {
            assert_eq!(SoftCode::from_code(code.code()), Some(code));
            assert_eq!(HardCode::from_code(code.code()), None);
        }
        for &code in HardCode::ALL {
            assert_eq!(HardCode::from_code(code.code()), Some(code));
            assert_eq!(SoftCode::from_code(code.code()), None);
        }
        assert_eq!(
            (SoftCode::NotFound.code(), SoftCode::NotFound.name()),
            (404, "NOT_FOUND")
        );
    }
}
