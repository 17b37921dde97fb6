//! The property `expiration`: how long a message may wait in any queue.

use leveret_codec::{Properties, flag};
use leveret_session::Publishes;
use leveret_settings::TIME_MAX_MS;

use crate::context::refusal::Refusal;

/// The own expiration of a message, milliseconds: a batch with one has only that message.
pub(crate) fn expiration_of(batch: &Publishes<'_>) -> Option<u64> {
    if batch.properties & flag::EXPIRATION == 0 {
        return None;
    }
    let publish = batch.iter().next()?;
    let properties = Properties::decode(publish.header).ok()?;
    let text = std::str::from_utf8(properties.expiration?).ok()?;
    text.parse().ok()
}

/// Checks it.
///
/// # Errors
/// 406, in RabbitMQ's words.
pub(crate) fn check_expiration(expiration: &[u8]) -> Result<(), Refusal> {
    let text = String::from_utf8_lossy(expiration);
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(&text);
    let rest = unsigned.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let reason = match text.parse::<i128>() {
        _ if rest == unsigned => "no_integer".into(),
        _ if !rest.is_empty() => format!("{{leftover_string,{rest:?}}}"),
        Ok(number) if number < 0 => format!("{{value_negative,{number}}}"),
        Ok(number) if number <= i128::from(TIME_MAX_MS) => return Ok(()),
        _ => format!("{{value_too_large,{text}}}"),
    };
    Err(Refusal::Precondition(format!(
        "invalid expiration '{text}': {reason}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiration_is_a_number_of_milliseconds_within_ten_years() {
        let refused = |text: &str| match check_expiration(text.as_bytes()) {
            Err(Refusal::Precondition(text)) => text,
            other => panic!("{other:?}"),
        };
        for lawful in ["0", "60000", "+5", "315360000000"] {
            assert!(check_expiration(lawful.as_bytes()).is_ok(), "{lawful}");
        }
        for (text, reason) in [
            ("", "no_integer"),
            ("x", "no_integer"),
            ("1.5", "{leftover_string,\".5\"}"),
            ("-1", "{value_negative,-1}"),
            ("315360000001", "{value_too_large,315360000001}"),
            (
                &"9".repeat(50),
                &format!("{{value_too_large,{}}}", "9".repeat(50)),
            ),
        ] {
            assert_eq!(
                refused(text),
                format!("invalid expiration '{text}': {reason}")
            );
        }
    }
}
