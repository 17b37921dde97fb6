//! The syntax of `rabbitmqadmin` 2, read as that of its first version: `queues declare --name q` or
//! `declare queue --name q` for `declare queue name=q`.

use super::{Stop, usage};

/// Groups of commands, with the noun of the first version's verbs.
const GROUPS: &[(&str, &str)] = &[
    ("bindings", "binding"),
    ("channels", "channel"),
    ("connections", "connection"),
    ("consumers", "consumer"),
    ("exchanges", "exchange"),
    ("nodes", "node"),
    ("operator_policies", "operator_policy"),
    ("parameters", "parameter"),
    ("permissions", "permission"),
    ("policies", "policy"),
    ("queues", "queue"),
    ("users", "user"),
    ("vhost_limits", "vhost_limit"),
    ("vhosts", "vhost"),
];

/// Nouns that the second version has in the plural after a verb.
const PLURALS: &[(&str, &str)] = &[("permissions", "permission")];

/// Options that go by another name there; with the nouns they are of, or none for all.
const RENAMED: &[(&str, &str, &str)] = &[
    ("ack_mode", "", "ackmode"),
    ("apply_to", "", "apply-to"),
    ("type", "queue", "queue_type"),
    ("username", "permission", "user"),
    ("user", "permission", "user"),
];

/// Options without a value. Nobody is asked, so that approval has no effect.
const FLAGS: &[&str] = &["idempotently", "approve", "tracing"];

/// Whether the command line is in that syntax as far as it is read.
pub(super) fn begins(words: &[String], options: &[(String, String)]) -> bool {
    let named = |word: &String| GROUPS.iter().any(|(group, _)| group == word);
    !options.is_empty()
        || words
            .first()
            .is_some_and(|word| named(word) || word == "definitions")
}

/// The value of an option: the rest after `=`, or the next word.
pub(super) fn option<'a>(
    name: &str,
    inline: Option<String>,
    rest: &mut impl Iterator<Item = &'a String>,
) -> Result<(String, String), Stop> {
    let name = name.trim_start_matches('-').replace('-', "_");
    if FLAGS.contains(&name.as_str()) {
        return Ok((name, inline.unwrap_or_else(|| "true".to_owned())));
    }
    let value = inline.or_else(|| rest.next().cloned());
    let value = value.ok_or_else(|| usage(&format!("--{name} needs a value")))?;
    Ok((name, value))
}

/// The words of the first version that say the same.
pub(super) fn translate(
    words: Vec<String>,
    options: Vec<(String, String)>,
    vhost: &str,
) -> Result<Vec<String>, Stop> {
    if !begins(&words, &options) {
        return Ok(words);
    }
    let (verb, noun) = match words.as_slice() {
        [group, verb] if begins(&words, &[]) => (verb.as_str(), group.as_str()),
        [verb, noun] => (verb.as_str(), noun.as_str()),
        _ => return Err(usage("a command of two words was expected, and options")),
    };
    let singular = GROUPS.iter().chain(PLURALS).find(|(name, _)| *name == noun);
    let singular = singular.map_or(noun, |(_, singular)| singular);
    if noun == "definitions" {
        return definitions(verb, options);
    }
    let mut translated = match (verb, noun) {
        ("list" | "show", _) => vec![verb.to_owned(), noun.to_owned()],
        ("publish", "message") | ("get", "messages") => vec![verb.to_owned()],
        ("bind", "exchanges") => vec!["declare".to_owned(), "binding".to_owned()],
        ("unbind", "exchanges") => vec!["delete".to_owned(), "binding".to_owned()],
        ("set", "parameters") => vec!["declare".to_owned(), singular.to_owned()],
        ("clear", "parameters") => vec!["delete".to_owned(), singular.to_owned()],
        _ => vec![verb.to_owned(), singular.to_owned()],
    };
    let unbinds = translated.ends_with(&["delete".to_owned(), "binding".to_owned()]);
    // The first version wants these said, the second has them elsewhere or does without.
    let mut needed = match (verb, singular) {
        ("declare" | "delete", "permission" | "vhost_limit") => vec![("vhost", vhost)],
        ("declare", "user") => vec![("tags", "")],
        _ => Vec::new(),
    };
    for (name, value) in options {
        if ["idempotently", "approve"].contains(&name.as_str()) {
            continue;
        }
        if name == "columns" {
            translated.extend(value.split(',').map(str::to_owned));
            continue;
        }
        let of = |(option, of, _): &&(&str, &str, &str)| {
            *option == name && (of.is_empty() || *of == singular)
        };
        let name = match name.as_str() {
            "routing_key" if unbinds => "properties_key",
            name => RENAMED.iter().find(of).map_or(name, |(.., to)| to),
        };
        needed.retain(|(needed, _)| *needed != name);
        translated.push(format!("{name}={value}"));
    }
    translated.extend(needed.iter().map(|(name, value)| format!("{name}={value}")));
    Ok(translated)
}

fn definitions(verb: &str, options: Vec<(String, String)>) -> Result<Vec<String>, Stop> {
    let verb = match verb {
        "export" | "export_from_vhost" => "export",
        "import" | "import_into_vhost" => "import",
        other => return Err(usage(&format!("definitions {other} is not understood"))),
    };
    let file = options.into_iter().find(|(name, _)| name == "file");
    let (_, file) = file.ok_or_else(|| usage("--file is required"))?;
    Ok(vec![verb.to_owned(), file])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(line: &str) -> String {
        let mut words = Vec::new();
        let mut options = Vec::new();
        let all: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let mut rest = all.iter();
        while let Some(word) = rest.next() {
            if word.starts_with("--") {
                options.push(option(word, None, &mut rest).unwrap());
            } else {
                words.push(word.clone());
            }
        }
        translate(words, options, "shop").unwrap().join(" ")
    }

    #[test]
    fn both_orders_mean_the_same() {
        for line in [
            "queues declare --name q --type quorum",
            "declare queue --name q --type quorum",
        ] {
            assert_eq!(translated(line), "declare queue name=q queue_type=quorum");
        }
        assert_eq!(translated("list queues"), "list queues");
        assert_eq!(
            translated("queues list --columns name,messages"),
            "list queues name messages"
        );
        assert_eq!(
            translated("exchanges declare --name x --type topic"),
            "declare exchange name=x type=topic"
        );
    }

    #[test]
    fn what_the_first_version_wants_is_added() {
        assert_eq!(
            translated("permissions declare --username u --configure a --read b --write c"),
            "declare permission user=u configure=a read=b write=c vhost=shop"
        );
        assert_eq!(
            translated("users declare --name u"),
            "declare user name=u tags="
        );
        assert_eq!(
            translated("get messages --queue q --ack-mode ack_requeue_false"),
            "get queue=q ackmode=ack_requeue_false"
        );
        assert_eq!(translated("definitions export --file f"), "export f");
        assert_eq!(
            translated("queues delete --name q --idempotently"),
            "delete queue name=q"
        );
    }

    #[test]
    fn a_binding_is_deleted_by_its_routing_key() {
        assert_eq!(
            translated("bindings delete --source x --destination q --routing-key a"),
            "delete binding source=x destination=q properties_key=a"
        );
    }

    #[test]
    fn the_first_version_stays_as_it_is() {
        let line = "declare queue name=q durable=true";
        assert_eq!(translated(line), line);
    }
}
