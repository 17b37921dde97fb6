//! Definitions as text, read object by object: what is made of one is gone before the next.

use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use crate::problem::Problem;

/// One object of a file is no larger: what is read of it takes a multiple.
const ITEM_BYTES_MAX: usize = 1 << 20;

/// What is read of a file; RabbitMQ's has more that means nothing here.
const SECTIONS: [&str; 10] = [
    "users",
    "vhosts",
    "permissions",
    "topic_permissions",
    "global_parameters",
    "policies",
    "parameters",
    "exchanges",
    "queues",
    "bindings",
];

/// A file that is known to be an object, by its sections.
#[derive(Debug)]
pub(super) struct DefinitionsFile<'a>(Vec<(&'static str, &'a [u8])>);

impl<'a> DefinitionsFile<'a> {
    /// Checks a whole file without making anything of it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn of(json: &'a [u8]) -> Result<Self, Problem> {
        let json = json.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(json);
        let json = json.trim_ascii();
        serde_json::from_slice::<IgnoredAny>(json)
            .map_err(|error| Problem::BadRequestAs("not_json", error.to_string()))?;
        if json.first() != Some(&b'{') {
            return Err(Problem::bad("definitions must be an object"));
        }
        let mut parts = ValueParts(json.get(1..).unwrap_or_default());
        let mut sections: Vec<(&'static str, &[u8])> = Vec::new();
        while let Some((key, value)) = parts.next().zip(parts.next()) {
            if let Some(name) = SECTIONS.iter().find(|name| is_key(key, name)) {
                // Of several with one name the last one counts.
                sections.retain(|(known, _)| known != name);
                sections.push((name, value));
            }
        }
        Ok(Self(sections))
    }

    /// The objects of a list; none if there is no list. None of them when it is something else.
    pub(super) fn list(&self, name: &str) -> Option<impl Iterator<Item = &'a [u8]> + use<'a>> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        let list = found.map_or(b"[]".as_slice(), |(_, list)| list);
        let list = if list == b"null" {
            b"[]".as_slice()
        } else {
            list
        };
        Some(ValueParts(list.strip_prefix(b"[")?))
    }
}

/// One object of a list.
pub(super) fn object(item: &[u8]) -> Result<Map<String, Value>, Problem> {
    if item.len() > ITEM_BYTES_MAX {
        return Err(Problem::bad(format!("larger than {ITEM_BYTES_MAX} bytes")));
    }
    serde_json::from_slice(item).map_err(|_| Problem::bad("must be an object"))
}

/// Whether a string in JSON is this name; names of sections are plain, but may be written escaped.
fn is_key(key: &[u8], wanted: &str) -> bool {
    // Six bytes for each at most, and the quotes.
    key.len() <= wanted.len() * 6 + 2
        && serde_json::from_slice::<String>(key).is_ok_and(|key| key == wanted)
}

/// The values inside of a valid list or object, names of values among them.
struct ValueParts<'a>(&'a [u8]);

impl<'a> Iterator for ValueParts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let between = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b',' | b':');
        let start = self.0.iter().position(|byte| !between(byte))?;
        let rest = self.0.get(start..)?;
        let bytes = length(rest);
        let (value, rest) = rest.split_at_checked(bytes).filter(|_| bytes > 0)?;
        self.0 = rest;
        Some(value)
    }
}

/// How long the value is that valid JSON begins with; 0 at the end of a list or object.
fn length(json: &[u8]) -> usize {
    let (mut depth, mut in_string) = (0_usize, false);
    let mut bytes = json.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        let ends = match (in_string, byte) {
            (true, b'\\') => {
                bytes.next();
                false
            }
            (true, b'"') => {
                in_string = false;
                depth == 0
            }
            (true, _) => false,
            (false, b'"') => {
                in_string = true;
                false
            }
            (false, b'[' | b'{') => {
                depth += 1;
                false
            }
            (false, b']' | b'}') if depth > 0 => {
                depth -= 1;
                depth == 0
            }
            (false, b']' | b'}' | b',' | b':') if depth == 0 => return at,
            (false, byte) if depth == 0 && byte.is_ascii_whitespace() => return at,
            (false, _) => false,
        };
        if ends {
            return at + 1;
        }
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(json: &str, name: &str) -> Option<Vec<String>> {
        let source = DefinitionsFile::of(json.as_bytes()).unwrap();
        let list = source.list(name)?;
        Some(
            list.map(|item| String::from_utf8_lossy(item).into_owned())
                .collect(),
        )
    }

    #[test]
    fn lists_fall_into_their_objects() {
        let json = r#" { "users" : [ {"n":"]},\""} , 1,"x",[2,[3]] ,null], "vhosts":null,
            "\u0071ueues":[true], "users\\": 1, "policies": {} , "bindings":[{}] } "#;
        let some = |items: &[&str]| Some(items.iter().map(|&item| item.to_owned()).collect());
        assert_eq!(
            items(json, "users"),
            some(&[r#"{"n":"]},\""}"#, "1", "\"x\"", "[2,[3]]", "null"])
        );
        assert_eq!(items(json, "vhosts"), some(&[]));
        assert_eq!(items(json, "queues"), some(&["true"]));
        assert_eq!(items(json, "policies"), None);
        assert_eq!(items(json, "bindings"), some(&["{}"]));
        assert_eq!(items(json, "exchanges"), some(&[]));
        assert_eq!(items(r#"{"users":[1],"users":[2]}"#, "users"), some(&["2"]));
        assert_eq!(items("\u{feff}{}", "users"), some(&[]));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for wrong in ["", "[", "{\"a\":}", "{} x", "[]", "1"] {
            assert!(DefinitionsFile::of(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(object(b"[]").is_err());
        let large = format!("{{\"n\":\"{}\"}}", "x".repeat(ITEM_BYTES_MAX));
        let refused = object(large.as_bytes()).unwrap_err().reason();
        assert_eq!(refused, "larger than 1048576 bytes");
    }
}
