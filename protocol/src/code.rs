//! The closed lists of error and close codes. A code is never reused for another meaning.

use std::fmt;

macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $wire:literal, $temporary:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name { $($(#[doc = $doc])+ $variant,)+ }

        impl $name {
            /// Every code, in the order of the table in `docs/protocol.md`.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The code as it stands on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $wire,)+ }
            }

            /// Whether the same request may succeed later.
            pub const fn temporary(self) -> bool {
                match self { $($name::$variant => $temporary,)+ }
            }

            /// One sentence for people.
            pub const fn description(self) -> &'static str {
                match self { $($name::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// The code named `wire`, if there is one.
            pub fn from_wire(wire: &str) -> Option<Self> {
                match wire { $($wire => Some($name::$variant),)+ _ => None }
            }
        }
    };
}

codes! {
    /// Why a request was refused: the `code` of an `ERR`.
    ErrorCode {
        /// The connection has not authenticated yet.
        Unauthorized = "unauthorized", false;
        /// AUTH came without a token.
        NoToken = "no_token", false;
        /// The token is malformed, forged, expired, revoked, of the wrong algorithm, or its claims are not acceptable.
        JwtInvalid = "jwt_invalid", false;
        /// The token that the connection is open with has run out, or was revoked.
        TokenExpired = "token_expired", false;
        /// The policy does not allow it.
        Forbidden = "forbidden", false;
        /// The frame is not valid JSON.
        BadJson = "bad_json", false;
        /// The frame is JSON, but a field is missing, of the wrong type or out of range; the message names it.
        BadFrame = "bad_frame", false;
        /// The topic, pattern or group is not well formed.
        BadTopic = "bad_topic", false;
        /// The payload is outside the payload profile.
        BadPayload = "bad_payload", false;
        /// The frame or event is larger than the hub accepts.
        TooLarge = "too_large", false;
        /// This connection already has a subscription of that topic and group.
        AlreadySubscribed = "already_subscribed", false;
        /// This connection has no subscription of that topic and group.
        NotSubscribed = "not_subscribed", false;
        /// No unsettled event of that id.
        UnknownId = "unknown_id", false;
        /// The lease has run out or belongs to a later delivery.
        StaleLease = "stale_lease", false;
        /// The position to start from is not in the log.
        PositionGone = "position_gone", false;
        /// Over a rate, or as much as one subject may have.
        RateLimited = "rate_limited", true;
        /// The hub has more to do than it can queue, or as many topics as it may.
        Overloaded = "overloaded", true;
        /// The event could not be published.
        PublishFailed = "publish_failed", false;
        /// The acknowledgement could not be stored.
        AckFailed = "ack_failed", true;
        /// The store cannot be reached or cannot write.
        StoreUnavailable = "store_unavailable", true;
        /// The hub is shutting down.
        ShuttingDown = "shutting_down", true;
        /// A defect of the hub.
        Internal = "internal", true;
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why the hub closed the WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseCode {
    /// The hub is shutting down; connect again.
    Shutdown,
    /// What came is no frame of RFC 6455.
    Violation,
    /// A text message was not UTF-8.
    NotText,
    /// A frame was larger than allowed.
    TooLarge,
    /// The token was refused three times, or ran out.
    Token,
    /// The page's origin is not on the hub's list.
    Origin,
    /// No AUTH in time.
    AuthTimeout,
    /// The client does not read what it asked for.
    SlowConsumer,
    /// The hub has as many connections as it accepts.
    ConnectionLimit,
}

impl CloseCode {
    /// Every code, in the order of the table in `docs/protocol.md`.
    pub const ALL: &'static [Self] = &[
        Self::Shutdown,
        Self::Violation,
        Self::NotText,
        Self::TooLarge,
        Self::Token,
        Self::Origin,
        Self::AuthTimeout,
        Self::SlowConsumer,
        Self::ConnectionLimit,
    ];

    /// The code in the close frame.
    pub const fn code(self) -> u16 {
        match self {
            Self::Shutdown => 1001,
            Self::Violation => 1002,
            Self::NotText => 1007,
            Self::TooLarge => 1009,
            Self::Token => 4401,
            Self::Origin => 4403,
            Self::AuthTimeout => 4408,
            Self::SlowConsumer => 4413,
            Self::ConnectionLimit => 4429,
        }
    }

    /// The reason in the close frame, at most 123 bytes.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Shutdown => "the hub is shutting down",
            Self::Violation => "not a WebSocket frame as RFC 6455 has it",
            Self::NotText => "a text message that is not UTF-8",
            Self::TooLarge => "frame too large",
            Self::Token => "token refused, expired or revoked",
            Self::Origin => "origin not allowed",
            Self::AuthTimeout => "no AUTH in time, or too much before it",
            Self::SlowConsumer => "the client does not read its answers",
            Self::ConnectionLimit => "too many connections",
        }
    }

    /// The code with that number, if it is one of the hub's.
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|c| c.code() == code)
    }

    /// Whether connecting again with a fresh token can help. A client stops for good on the others.
    pub const fn retryable(self) -> bool {
        match self {
            Self::Shutdown | Self::AuthTimeout | Self::SlowConsumer | Self::ConnectionLimit | Self::Token => true,
            // Something between the two may have spoilt it.
            Self::Violation | Self::NotText => true,
            Self::TooLarge | Self::Origin => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_names_round_trip_and_are_unique() {
        for (i, code) in ErrorCode::ALL.iter().enumerate() {
            assert_eq!(ErrorCode::from_wire(code.as_str()), Some(*code));
            assert!(!ErrorCode::ALL[..i].iter().any(|c| c.as_str() == code.as_str()));
            assert!(code.description().ends_with('.'));
        }
        assert_eq!(ErrorCode::from_wire("nonsense"), None);
    }

    #[test]
    fn the_table_in_the_document_is_this_table() {
        let document = include_str!("../../docs/protocol.md");
        for code in ErrorCode::ALL {
            let temporary = if code.temporary() { "yes" } else { "no" };
            let row = format!("| `{}` | {temporary} | {} |", code.as_str(), code.description());
            assert!(document.contains(&row), "docs/protocol.md lacks the row {row}");
        }
        for code in CloseCode::ALL {
            let row = format!("| {} | {} |", code.code(), code.reason());
            assert!(document.contains(&row), "docs/protocol.md lacks the row {row}");
        }
    }
}
