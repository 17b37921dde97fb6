//! AMQP URIs, as far as RabbitMQ looks at them before it keeps one.

use serde_json::Value;

/// Parameters of a URI that are whole numbers, and those that are so with TLS alone.
const NUMBERS: [&str; 4] = [
    "heartbeat",
    "connection_timeout",
    "channel_max",
    "frame_max",
];
const TLS_NUMBERS: [&str; 1] = ["depth"];
const TLS_FLAGS: [&str; 1] = ["fail_if_no_peer_cert"];
/// Stands for a password in what is said.
const HIDDEN: &str = "****";

/// Checks a URI.
///
/// # Errors
/// What is wrong with it, in RabbitMQ's words; a password in it is not quoted.
pub(super) fn check(text: &str) -> Result<(), String> {
    let parsed = parse(text);
    parsed.map_err(|reason| {
        let shown = without_password(text);
        format!(
            "\"{shown}\" not a valid URI: {{{reason},{}}}",
            string(&shown)
        )
    })
}

fn parse(text: &str) -> Result<(), String> {
    let no_scheme = || "{unable_to_parse_uri,no_scheme}".to_owned();
    let (scheme, rest) = text.split_once(':').ok_or_else(no_scheme)?;
    if scheme.is_empty() || scheme.contains('/') {
        return Err(no_scheme());
    }
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "amqp" => false,
        "amqps" => true,
        _ => return Err(format!("{{unexpected_uri_scheme,{}}}", string(scheme))),
    };
    let rest = rest.strip_prefix("//");
    let rest = rest.ok_or_else(|| "{case_clause,undefined}".to_owned())?;
    let rest = rest.split('#').next().unwrap_or(rest);
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = place.split_once('/').unwrap_or((place, ""));
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    decodes(user)?;
    port(text, host)?;
    if path.contains('/') {
        return Err(format!("{{invalid_vhost,{}}}", string(path)));
    }
    decodes(path)?;
    parameters(query, tls)
}

/// An address may have colons of its own, in brackets.
fn port(text: &str, host: &str) -> Result<(), String> {
    let after = host.rsplit_once(']').map_or(host, |(_, rest)| rest);
    let Some((_, port)) = after.split_once(':') else {
        return Ok(());
    };
    let malformed = || {
        let text = string(&without_password(text));
        format!("{{unable_to_parse_uri,{{malformed_uri,{text},badarg}}}}")
    };
    let number: i64 = port.parse().map_err(|_| malformed())?;
    if (1..=65_535).contains(&number) {
        return Ok(());
    }
    Err(format!("{{port_out_of_range,{number}}}"))
}

/// Whether what is percent-encoded can be decoded.
fn decodes(text: &str) -> Result<(), String> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        let mut digits = after.chars();
        let pair = [digits.next(), digits.next()];
        rest = digits.as_str();
        if pair
            .iter()
            .all(|digit| digit.is_some_and(|digit| digit.is_ascii_hexdigit()))
        {
            continue;
        }
        let codes = pair
            .iter()
            .flatten()
            .map(|digit| format!(",{}", u32::from(*digit)));
        let codes: String = codes.collect();
        // The atom has RabbitMQ's spelling.
        let kind = if pair[1].is_some() {
            "invalid_entitiy"
        } else {
            "unterminated_entity"
        };
        return Err(format!("{{{kind},['%'{codes}]}}"));
    }
    Ok(())
}

fn parameters(query: &str, tls: bool) -> Result<(), String> {
    let given = query
        .split('&')
        .filter_map(|parameter| parameter.split_once('='));
    for (key, value) in given.clone() {
        let number = NUMBERS.contains(&key);
        let tls_number = tls && TLS_NUMBERS.contains(&key);
        let wrong = if number || tls_number {
            value.parse::<i64>().is_err().then_some("not_an_integer")
        } else if tls && TLS_FLAGS.contains(&key) {
            (!matches!(value, "true" | "false")).then_some("not_boolean")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            let kind = if number {
                "invalid_amqp_params_parameter"
            } else {
                "invalid_ssl_parameter"
            };
            let all: Vec<_> = given
                .clone()
                .map(|(key, value)| {
                    let value = if is_secret(key) { HIDDEN } else { value };
                    format!("{{{},{}}}", string(key), string(value))
                })
                .collect();
            let (all, value) = (all.join(","), string(value));
            return Err(format!(
                "{{{kind},{key},{value},[{all}],{{{wrong},{value}}}}}"
            ));
        }
    }
    Ok(())
}

/// A text as Erlang prints a list of characters.
fn string(text: &str) -> String {
    if text.is_empty() {
        return "[]".to_owned();
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A text with the passwords of the URIs in it taken out.
fn without_password(text: &str) -> String {
    let (place, query) = text.split_once('?').unwrap_or((text, ""));
    let mut shown = String::with_capacity(text.len());
    match place
        .split_once("://")
        .and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?)))
    {
        Some((scheme, (credentials, host))) => {
            let user = credentials.split(':').next().unwrap_or_default();
            let password = if credentials.contains(':') {
                ":****"
            } else {
                ""
            };
            shown.push_str(&format!("{scheme}://{user}{password}@{host}"));
        }
        None => shown.push_str(place),
    }
    if text.contains('?') {
        let parameters = query
            .split('&')
            .map(|parameter| match parameter.split_once('=') {
                Some((key, _)) if is_secret(key) => format!("{key}={HIDDEN}"),
                _ => parameter.to_owned(),
            });
        shown.push('?');
        shown.push_str(&parameters.collect::<Vec<_>>().join("&"));
    }
    shown
}

fn is_secret(key: &str) -> bool {
    key.to_ascii_lowercase().contains("password")
}

/// A value as it may be quoted: without the passwords in it.
pub(super) fn hidden(key: &str, value: &Value) -> Value {
    match value {
        Value::Null | Value::Bool(_) => value.clone(),
        _ if is_secret(key) => HIDDEN.into(),
        Value::Number(_) => value.clone(),
        Value::String(text) => without_password(text).into(),
        Value::Array(list) => list.iter().map(|value| hidden("", value)).collect(),
        Value::Object(object) => {
            let fields = object
                .iter()
                .map(|(key, value)| (key.clone(), hidden(key, value)));
            Value::Object(fields.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_taken_and_refused_as_rabbitmq_does() {
        for good in [
            "amqp://",
            "amqp://h",
            "AMQP://h",
            "amqp://u@h",
            "amqp://u:p@h:5672/v",
            "amqp://h/",
            "amqp://h/%2F",
            "amqp://[::1]:5672",
            "amqps://h?verify=x",
            "amqp://h?depth=x",
            "amqp://h?connection_timeout=1&heartbeat=5",
            "amqp://h?channel_max=-1",
            "amqp://h#f",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (wrong, reason) in [
            ("amqp", "{{unable_to_parse_uri,no_scheme},\"amqp\"}"),
            ("", "{{unable_to_parse_uri,no_scheme},[]}"),
            ("amqp:", "{{case_clause,undefined},\"amqp:\"}"),
            (
                "http://x",
                "{{unexpected_uri_scheme,\"http\"},\"http://x\"}",
            ),
            ("amqp://h:0", "{{port_out_of_range,0},\"amqp://h:0\"}"),
            ("amqp://h/a/b", "{{invalid_vhost,\"a/b\"},\"amqp://h/a/b\"}"),
            (
                "amqp://h/%2",
                "{{unterminated_entity,['%',50]},\"amqp://h/%2\"}",
            ),
            (
                "amqp://h/%zz",
                "{{invalid_entitiy,['%',122,122]},\"amqp://h/%zz\"}",
            ),
            (
                "amqps://h?depth=x",
                "{{invalid_ssl_parameter,depth,\"x\",[{\"depth\",\"x\"}],{not_an_integer,\"x\"}},\
                 \"amqps://h?depth=x\"}",
            ),
        ] {
            assert_eq!(
                check(wrong),
                Err(format!("\"{wrong}\" not a valid URI: {reason}"))
            );
        }
        assert!(
            check("amqp://h:port")
                .unwrap_err()
                .contains("malformed_uri")
        );
    }

    #[test]
    fn passwords_are_hidden() {
        let shown = without_password("amqps://u:se@cret@h?password=x&verify=y");
        assert_eq!(shown, "amqps://u:****@h?password=****&verify=y");
    }
}
