//! What a value must be, as an argument and in a policy.

use leveret_codec::ValueRef;
use serde_json::Value;

/// Ten years, the longest that anything may be told to wait.
pub const TIME_MAX_MS: i64 = 315_360_000_000;

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Any integer.
    Integer,
    /// An integer of at least this.
    AtLeast(i64),
    /// The same, in milliseconds that a timer can wait.
    Milliseconds(i64),
    /// An integer within bounds.
    Within(i64, i64),
    /// On or off.
    Flag,
    /// Any text.
    Text,
    /// The name of an exchange, of which RabbitMQ speaks otherwise.
    Name,
    /// One of these texts, and the name of the error.
    OneOf(&'static [&'static str], &'static str),
    /// A number with a unit of time: `7D`.
    Age,
    /// Anything: RabbitMQ overlooks what is no number.
    Anything,
    /// Anything, and a redeclaration is not compared by it.
    Ignored,
}

impl Rule {
    /// Checks an argument.
    ///
    /// # Errors
    /// The reason, as RabbitMQ prints it.
    pub(crate) fn check(self, value: ValueRef<'_>) -> Result<(), String> {
        let unacceptable = || format!("{{unacceptable_type,{}}}", value.type_name());
        match self {
            Self::Integer | Self::AtLeast(_) | Self::Milliseconds(_) | Self::Within(..) => {
                let number = value.as_integer();
                let wrong = || format!("\"expected integer, got {}\"", value.type_name());
                self.check_number(number.ok_or_else(wrong)?)
            }
            Self::Flag => value.as_bool().map(|_| ()).ok_or_else(unacceptable),
            Self::Text | Self::Name | Self::Age => {
                value.as_str_bytes().map(|_| ()).ok_or_else(unacceptable)
            }
            Self::OneOf(allowed, error) => {
                let text = value.as_str_bytes().ok_or_else(unacceptable)?;
                let text = std::str::from_utf8(text).map_err(|_| unacceptable())?;
                if allowed.contains(&text) {
                    Ok(())
                } else {
                    Err(error.into())
                }
            }
            Self::Anything | Self::Ignored => Ok(()),
        }
    }

    fn check_number(self, number: i64) -> Result<(), String> {
        let negative = Err(format!("{{value_negative,{number}}}"));
        match self {
            Self::Milliseconds(1) if number == 0 => Err("{value_zero,0}".into()),
            Self::AtLeast(min) | Self::Milliseconds(min) | Self::Within(min, _) if number < min => {
                negative
            }
            Self::Milliseconds(_) if number > TIME_MAX_MS => {
                Err(format!("{{value_too_large,{number}}}"))
            }
            Self::Within(_, max) if number > max => Err(format!("{{max_value_exceeded,{number}}}")),
            _ => Ok(()),
        }
    }

    /// Whether a policy may have this value.
    pub(crate) fn holds(self, value: &Value) -> bool {
        let number = || value.as_i64();
        match self {
            Self::Integer => value.is_i64(),
            Self::AtLeast(min) => number().is_some_and(|number| number >= min),
            Self::Milliseconds(min) => {
                number().is_some_and(|number| (min..=TIME_MAX_MS).contains(&number))
            }
            Self::Within(min, max) => number().is_some_and(|n| (min..=max).contains(&n)),
            Self::Flag => value.is_boolean(),
            Self::Text | Self::Name => value.is_string(),
            Self::OneOf(allowed, _) => value.as_str().is_some_and(|text| allowed.contains(&text)),
            Self::Age => value.as_str().is_some_and(is_age),
            Self::Anything | Self::Ignored => true,
        }
    }
}

fn is_age(text: &str) -> bool {
    let digits = text.trim_end_matches(['Y', 'M', 'D', 'h', 'm', 's']);
    digits.len() + 1 == text.len() && digits.parse::<u64>().is_ok()
}
