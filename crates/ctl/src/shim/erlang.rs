//! Erlang terms: what `eval` is given, and how `rabbitmqctl` shows nested values.

use std::fmt;

use serde_json::Value;

/// Deepest nesting that is read.
const DEPTH_MAX: usize = 32;

/// A term, or an expression that evaluates to one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Term {
    Atom(String),
    Int(i64),
    Float(f64),
    Binary(String),
    Text(String),
    Tuple(Vec<Self>),
    List(Vec<Self>),
    Variable(String),
    /// Module (empty for a local one), function, arguments.
    Call(String, String, Vec<Self>),
    /// A pattern and what it must match.
    Match(Box<Self>, Box<Self>),
    /// Whether two must be equal or not, and they.
    Compare(bool, Box<Self>, Box<Self>),
}

impl Term {
    pub(crate) fn atom(name: &str) -> Self {
        Self::Atom(name.to_owned())
    }

    pub(crate) fn flag(value: bool) -> Self {
        Self::atom(if value { "true" } else { "false" })
    }

    /// The letters of an atom, a string or a binary; of anything else none.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Atom(text) | Self::Text(text) | Self::Binary(text) => text,
            _ => "",
        }
    }

    /// A table of AMQP as RabbitMQ's tools show it: a list of pairs with quoted names.
    pub(crate) fn table(value: &Value) -> Self {
        match value {
            Value::Null => Self::List(Vec::new()),
            Value::Bool(flag) => Self::flag(*flag),
            Value::Number(number) => match number.as_i64() {
                Some(number) => Self::Int(number),
                None => Self::Float(number.as_f64().unwrap_or_default()),
            },
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(items) => Self::List(items.iter().map(Self::table).collect()),
            Value::Object(fields) => {
                let pair = |(name, value): (&String, &Value)| {
                    Self::Tuple(vec![Self::Text(name.clone()), Self::table(value)])
                };
                Self::List(fields.iter().map(pair).collect())
            }
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Atom(name) if is_plain_atom(name) => f.write_str(name),
            Self::Atom(name) => write!(f, "'{name}'"),
            Self::Int(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number:?}"),
            Self::Binary(text) => write!(f, "<<\"{}\">>", escape(text)),
            Self::Text(text) => string(f, text),
            Self::Tuple(items) => sequence(f, '{', items, '}'),
            Self::List(items) => sequence(f, '[', items, ']'),
            Self::Variable(name) => f.write_str(name),
            Self::Call(module, function, arguments) => {
                if !module.is_empty() {
                    write!(f, "{module}:")?;
                }
                f.write_str(function)?;
                sequence(f, '(', arguments, ')')
            }
            Self::Match(pattern, value) => write!(f, "{pattern} = {value}"),
            Self::Compare(equal, left, right) => {
                let operator = if *equal { "==" } else { "/=" };
                write!(f, "{left} {operator} {right}")
            }
        }
    }
}

fn sequence(f: &mut fmt::Formatter<'_>, open: char, items: &[Term], close: char) -> fmt::Result {
    write!(f, "{open}")?;
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            f.write_str(",")?;
        }
        write!(f, "{item}")?;
    }
    write!(f, "{close}")
}

fn is_plain_atom(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '@')
}

/// A string: Erlang's are lists of characters, shown as letters if all are such in Latin-1.
fn string(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let is_letter = |c| matches!(c, ' '..='~' | '\u{a0}'..='\u{ff}') || short_escape(c).is_some();
    if !text.is_empty() && text.chars().all(is_letter) {
        return write!(f, "\"{}\"", escape(text));
    }
    let numbers = text.chars().map(|c| Term::Int(i64::from(u32::from(c))));
    sequence(f, '[', &numbers.collect::<Vec<_>>(), ']')
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match short_escape(c) {
            Some(letter) => escaped.extend(['\\', letter]),
            None => escaped.push(c),
        }
    }
    escaped
}

/// The letter after a backslash that stands for a character.
fn short_escape(c: char) -> Option<char> {
    match c {
        '\\' | '"' => Some(c),
        '\n' => Some('n'),
        '\r' => Some('r'),
        '\t' => Some('t'),
        '\u{8}' => Some('b'),
        '\u{b}' => Some('v'),
        '\u{c}' => Some('f'),
        '\u{1b}' => Some('e'),
        _ => None,
    }
}

/// Reads expressions separated by commas, ended by a full stop.
pub(crate) fn parse(text: &str) -> Result<Vec<Term>, String> {
    let mut reader = Reader { rest: text };
    let mut expressions = Vec::new();
    loop {
        expressions.push(reader.expression(0)?);
        if reader.take(",") {
            continue;
        }
        // The full stop may be left out: RabbitMQ's tools add it.
        reader.take(".");
        reader.space();
        if reader.rest.is_empty() {
            return Ok(expressions);
        }
        return Err(reader.wrong());
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Takes `token` if it is next.
    fn take(&mut self, token: &str) -> bool {
        self.space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn wrong(&self) -> String {
        let near: String = self.rest.chars().take(20).collect();
        if near.is_empty() {
            return "something is missing at its end".to_owned();
        }
        format!("not understood from `{near}` on")
    }

    /// Takes characters while `wanted` holds.
    fn run(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        let (run, rest) = self.rest.split_at(end);
        self.rest = rest;
        run
    }

    fn expression(&mut self, depth: usize) -> Result<Term, String> {
        let mut left = self.term(depth)?;
        if let Some(equal) = self.comparison() {
            let right = self.term(depth)?;
            left = Term::Compare(equal, Box::new(left), Box::new(right));
        }
        if self.take("=") {
            let right = self.expression(depth + 1)?;
            return Ok(Term::Match(Box::new(left), Box::new(right)));
        }
        Ok(left)
    }

    /// Takes a comparison; whether it holds for equals.
    fn comparison(&mut self) -> Option<bool> {
        let operators = [("=:=", true), ("==", true), ("=/=", false), ("/=", false)];
        let found = operators
            .into_iter()
            .find(|(operator, _)| self.take(operator));
        found.map(|(_, equal)| equal)
    }

    fn term(&mut self, depth: usize) -> Result<Term, String> {
        if depth > DEPTH_MAX {
            return Err("nested too deep".to_owned());
        }
        self.space();
        let first = self.rest.chars().next().ok_or_else(|| self.wrong())?;
        match first {
            '{' => {
                self.take("{");
                Ok(Term::Tuple(self.items("}", depth)?))
            }
            '[' => {
                self.take("[");
                Ok(Term::List(self.items("]", depth)?))
            }
            '<' if self.take("<<") => {
                if self.take(">>") {
                    return Ok(Term::Binary(String::new()));
                }
                self.space();
                let text = self.quoted('"')?;
                if self.take(">>") {
                    Ok(Term::Binary(text))
                } else {
                    Err(self.wrong())
                }
            }
            '"' => Ok(Term::Text(self.quoted('"')?)),
            '-' | '0'..='9' => self.number(),
            'A'..='Z' | '_' => Ok(Term::Variable(self.run(is_word).to_owned())),
            '\'' | 'a'..='z' => self.atom_or_call(depth),
            _ => Err(self.wrong()),
        }
    }

    fn items(&mut self, close: &str, depth: usize) -> Result<Vec<Term>, String> {
        let mut items = Vec::new();
        if self.take(close) {
            return Ok(items);
        }
        loop {
            items.push(self.expression(depth + 1)?);
            if self.take(close) {
                return Ok(items);
            }
            if !self.take(",") {
                return Err(self.wrong());
            }
        }
    }

    fn atom(&mut self) -> Result<String, String> {
        self.space();
        if self.rest.starts_with('\'') {
            return self.quoted('\'');
        }
        let name = self.run(is_word);
        if name.is_empty() {
            Err(self.wrong())
        } else {
            Ok(name.to_owned())
        }
    }

    fn atom_or_call(&mut self, depth: usize) -> Result<Term, String> {
        let first = self.atom()?;
        let (module, function) = if self.take(":") {
            (first, self.atom()?)
        } else {
            (String::new(), first)
        };
        if self.take("(") {
            let arguments = self.items(")", depth)?;
            return Ok(Term::Call(module, function, arguments));
        }
        if module.is_empty() {
            Ok(Term::Atom(function))
        } else {
            Err(self.wrong())
        }
    }

    fn number(&mut self) -> Result<Term, String> {
        let sign = if self.take("-") { "-" } else { "" };
        let digits = self.run(|c| c.is_ascii_digit());
        let mut text = format!("{sign}{digits}");
        let fraction = self.rest.strip_prefix('.');
        if let Some(fraction) =
            fraction.filter(|text| text.starts_with(|c: char| c.is_ascii_digit()))
        {
            self.rest = fraction;
            text.push('.');
            text.push_str(self.run(|c| c.is_ascii_digit()));
            if self.rest.starts_with(['e', 'E']) {
                text.push_str(self.run(|c| c.is_ascii_digit() || "eE+-".contains(c)));
            }
            return text.parse().map(Term::Float).map_err(|_| self.wrong());
        }
        text.parse().map(Term::Int).map_err(|_| self.wrong())
    }

    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let body = self.rest.strip_prefix(quote).ok_or_else(|| self.wrong())?;
        let mut text = String::new();
        let mut characters = body.char_indices();
        while let Some((index, c)) = characters.next() {
            match c {
                '\\' => match characters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, c)) => text.push(c),
                    None => break,
                },
                c if c == quote => {
                    self.rest = &body[index + c.len_utf8()..];
                    return Ok(text);
                }
                c => text.push(c),
            }
        }
        Err("unterminated string".to_owned())
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '@'
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions_are_read_and_shown_again() {
        let cases = [
            "rabbit_alarm:set_alarm({{resource_limit,memory,node()},[]})",
            "application:set_env(rabbit,loopback_users,[<<\"guest\">>])",
            "{ok,V} = application:get_env(rabbit,channel_max)",
            "[] /= rabbit_networking:active_listeners()",
            "{true,a} = {rabbit:is_booted(node()),a}",
            "[1,-2,0.4,1.0e-5,\"text\",'odd atom',<<\"\">>]",
        ];
        for text in cases {
            let terms = parse(&format!("{text}.")).unwrap();
            assert_eq!(terms.len(), 1, "{text}");
            assert_eq!(terms[0].to_string().replace("1e-5", "1.0e-5"), text);
        }
        assert_eq!(parse("a, B . ").unwrap().len(), 2);
        assert_eq!(
            parse("[ <<\"guest\">> \n ]").unwrap()[0].to_string(),
            "[<<\"guest\">>]"
        );
    }

    #[test]
    fn what_is_not_erlang_is_an_error() {
        for text in ["", "1+", "{a", "<<\"x\"", "\"open", "a:b", ")", "a b."] {
            assert!(parse(text).is_err(), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(parse(&deep), Err("nested too deep".to_owned()));
    }

    #[test]
    fn tables_are_lists_of_pairs() {
        let table = json!({"x-max-length": 5, "t": {"a": true}, "s": "q\"", "l": [1.5]});
        let shown = r#"[{"x-max-length",5},{"t",[{"a",true}]},{"s","q\""},{"l",[1.5]}]"#;
        assert_eq!(Term::table(&table).to_string(), shown);
        // As RabbitMQ 4.3.6 shows them.
        let strings = json!([
            "c\td \"e\" é \\",
            "",
            "it's",
            "\u{20ac}",
            "a\u{1}b",
            "\r\u{8}\u{c}\u{b}\u{1b}"
        ]);
        let shown = r#"["c\td \"e\" é \\",[],"it's",[8364],[97,1,98],"\r\b\f\v\e"]"#;
        assert_eq!(Term::table(&strings).to_string(), shown);
    }
}
