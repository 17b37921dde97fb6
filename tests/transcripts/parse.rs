//! Reads values and fields as they are written in a transcript.

use crate::value::Value;

type Fields = Vec<(String, Value)>;

/// A line from its beginning; whoever reads says what is wrong with it.
pub(crate) struct Cursor<'a>(pub(crate) &'a str);

impl<'a> Cursor<'a> {
    fn skip_space(&mut self) {
        self.0 = self.0.trim_start();
    }

    fn starts(&mut self, mark: char) -> bool {
        let rest = self.0.strip_prefix(mark);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    /// Letters, digits and what names have between them.
    pub(crate) fn word(&mut self) -> &'a str {
        self.skip_space();
        let is_end = |c: char| !(c.is_alphanumeric() || "-_.".contains(c));
        let (word, rest) = self.0.split_at(self.0.find(is_end).unwrap_or(self.0.len()));
        self.0 = rest;
        word
    }

    /// `key=value` or `key`, which is short for `key=true`, up to the end or the closing mark.
    pub(crate) fn fields(&mut self, end: Option<char>) -> Result<Fields, String> {
        let mut fields = Vec::new();
        loop {
            self.skip_space();
            if end.is_some_and(|end| self.starts(end)) || end.is_none() && self.0.is_empty() {
                return Ok(fields);
            }
            let key = if self.starts('"') {
                String::from_utf8(self.quoted()?).map_err(|error| error.to_string())?
            } else {
                self.word().to_owned()
            };
            if key.is_empty() {
                return Err(format!("a name was to come at {:?}", self.0));
            }
            let value = if self.starts('=') {
                self.value()?
            } else {
                Value::Bool(true)
            };
            fields.push((key, value));
        }
    }

    fn value(&mut self) -> Result<Value, String> {
        if self.starts('"') {
            return self.quoted().map(Value::Text);
        }
        if self.starts('{') {
            return self.fields(Some('}')).map(Value::Table);
        }
        if self.starts('[') {
            return self.array();
        }
        if self.starts('*') {
            let letter = self.0.chars().next().filter(char::is_ascii_alphabetic);
            self.0 = &self.0[letter.map_or(0, char::len_utf8)..];
            return Ok(match letter {
                Some(letter) if self.starts(':') => Value::Named(letter, self.word().to_owned()),
                Some(letter) => Value::AnyOf(letter),
                None => Value::Any,
            });
        }
        let word = self.word();
        match word {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            "void" => Ok(Value::Void),
            "x" if self.starts('"') => self.quoted().map(Value::Bytes),
            number => parse_number(number).ok_or_else(|| format!("no value: {number:?}")),
        }
    }

    fn array(&mut self) -> Result<Value, String> {
        let mut values = Vec::new();
        loop {
            self.skip_space();
            if self.starts(']') {
                return Ok(Value::Array(values));
            }
            values.push(self.value()?);
        }
    }

    /// What stands between quotes, of which the first is read.
    fn quoted(&mut self) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let mut rest = self.0.bytes();
        loop {
            let byte = match rest.next().ok_or("a quote is missing")? {
                b'"' => break,
                b'\\' => match rest.next().ok_or("an escape is cut off")? {
                    b'n' => b'\n',
                    b'x' => {
                        let digits = [rest.next(), rest.next()].map(|digit| digit.unwrap_or(b'?'));
                        let digits = std::str::from_utf8(&digits).unwrap_or("?");
                        u8::from_str_radix(digits, 16)
                            .map_err(|_| "two hex digits go behind \\x")?
                    }
                    byte => byte,
                },
                byte => byte,
            };
            bytes.push(byte);
        }
        self.0 = &self.0[self.0.len() - rest.len()..];
        Ok(bytes)
    }
}

/// A number with the letter of its type, or without as an `I` if it fits.
fn parse_number(word: &str) -> Option<Value> {
    let letter = word.chars().last().filter(char::is_ascii_alphabetic);
    let digits = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    if let Some(letter @ ('f' | 'd')) = letter {
        return Some(Value::Real(letter, digits.parse().ok()?));
    }
    let number: i128 = digits.parse().ok()?;
    let fits = i32::try_from(number).is_ok();
    Some(Value::Number(
        letter.unwrap_or(if fits { 'I' } else { 'l' }),
        number,
    ))
}
