//! The arguments of `rabbitmqctl`: options may stand anywhere, before and after the command.

use super::{Stop, exit};

/// Options that take a value, with their short forms.
const VALUED: &[(&str, &str)] = &[
    ("node", "-n"),
    ("vhost", "-p"),
    ("timeout", "-t"),
    ("formatter", ""),
    ("apply-to", ""),
    ("priority", ""),
    ("script-name", ""),
    ("limit", ""),
    ("per-connection-delay", ""),
    ("format", ""),
    ("description", ""),
    ("tags", ""),
    ("default-queue-type", ""),
    ("erlang-cookie", ""),
    ("address", ""),
    ("user", ""),
    ("pid", "-P"),
];

/// Options that are there or not.
const FLAGS: &[(&str, &str)] = &[
    ("quiet", "-q"),
    ("silent", "-s"),
    ("longnames", "-l"),
    ("help", "-?"),
    ("no-table-headers", ""),
    ("if-empty", "-e"),
    ("if-unused", "-u"),
    ("global", ""),
    ("online", ""),
    ("offline", ""),
    ("local", ""),
    ("pre-hashed-password", ""),
    ("skip-if-unchanged", ""),
    ("unsafe", ""),
    ("idempotent", ""),
    ("wait", ""),
    ("no-wait", ""),
    ("experimental", ""),
    ("opt-in", ""),
    ("minimal", "-m"),
    ("enabled", "-E"),
    ("implicitly-enabled", ""),
    ("verbose", "-v"),
    ("all", ""),
];

/// What the command line says.
#[derive(Debug, Default)]
pub(crate) struct Invocation {
    pub(crate) command: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) quiet: bool,
    pub(crate) silent: bool,
    pub(crate) help: bool,
    pub(crate) timeout: Option<f64>,
    /// Long names with their values; of a flag the value is empty.
    options: Vec<(&'static str, String)>,
    /// As given, for error messages.
    pub(crate) given: Vec<String>,
}

impl Invocation {
    pub(crate) fn parse(given: &[String]) -> Result<Self, Stop> {
        let mut invocation = Self {
            given: given.to_vec(),
            ..Self::default()
        };
        let mut unknown = Vec::new();
        let mut words = given.iter();
        let mut only_arguments = false;
        while let Some(word) = words.next() {
            if only_arguments || !is_option(word) {
                invocation.positional(word);
                continue;
            }
            if word == "--" {
                only_arguments = true;
                continue;
            }
            let (name, inline) = match word.strip_prefix("--").and_then(|_| word.split_once('=')) {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            if let Some(long) = long_name(FLAGS, name) {
                invocation.options.push((long, String::new()));
            } else if let Some(long) = long_name(VALUED, name) {
                let value = inline.or_else(|| words.next().cloned());
                let value = value.ok_or_else(|| invalid(&[format!("{name} : ")], given))?;
                invocation.options.push((long, value));
            } else {
                unknown.push(format!("{name} : {}", inline.unwrap_or_default()));
            }
        }
        if !unknown.is_empty() {
            return Err(invalid(&unknown, given));
        }
        invocation.quiet = invocation.has("quiet") || invocation.has("silent");
        invocation.silent = invocation.has("silent");
        invocation.help = invocation.has("help");
        invocation.timeout = match invocation.option("timeout") {
            None | Some("infinity") => None,
            Some(text) => {
                let seconds = text
                    .parse()
                    .ok()
                    .filter(|seconds| *seconds > 0.0 && *seconds < 1e9);
                Some(seconds.ok_or_else(|| invalid(&[format!("--timeout : {text}")], given))?)
            }
        };
        Ok(invocation)
    }

    /// The value of an option by its long name.
    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        let mut found = self.options.iter().rev();
        found
            .find(|(option, _)| *option == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.option(name).is_some()
    }

    /// Whether the output is for a program, which is spared our commentary.
    pub(crate) fn is_for_machines(&self) -> bool {
        matches!(self.option("formatter"), Some("json" | "csv" | "erlang"))
    }

    fn positional(&mut self, word: &str) {
        if self.command.is_empty() {
            word.clone_into(&mut self.command);
        } else {
            self.arguments.push(word.to_owned());
        }
    }
}

/// A dash alone is standard input, and a negative number an argument.
fn is_option(word: &str) -> bool {
    word.len() > 1 && word.starts_with('-') && word.parse::<f64>().is_err()
}

fn long_name(options: &[(&'static str, &str)], name: &str) -> Option<&'static str> {
    let is = |(long, short): &&(&'static str, &str)| {
        name.strip_prefix("--") == Some(long) || (!short.is_empty() && name == *short)
    };
    options.iter().find(is).map(|(long, _)| *long)
}

fn invalid(options: &[String], given: &[String]) -> Stop {
    let text = format!(
        "Error (argument validation): Invalid options for this command:\n{}\n\
         Arguments given:\n\t{}",
        options.join("\n"),
        given.join(" "),
    );
    Stop::new(exit::USAGE, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Invocation, Stop> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        Invocation::parse(&words)
    }

    #[test]
    fn options_stand_anywhere() {
        let invocation = parse("-n rabbit@x set_policy --priority -1 -p / n ^a {}").unwrap();
        assert_eq!(invocation.command, "set_policy");
        assert_eq!(invocation.arguments, ["n", "^a", "{}"]);
        assert_eq!(invocation.option("priority"), Some("-1"));
        assert_eq!(invocation.option("vhost"), Some("/"));
        let invocation = parse("list_queues --formatter=json name -q").unwrap();
        assert_eq!(invocation.option("formatter"), Some("json"));
        assert!(invocation.quiet && !invocation.silent && invocation.is_for_machines());
        let invocation = parse("export_definitions - -- -x").unwrap();
        assert_eq!(invocation.arguments, ["-", "-x"]);
    }

    #[test]
    fn what_is_not_known_is_a_mistake() {
        assert_eq!(parse("list_queues --bogus").unwrap_err().code, exit::USAGE);
        assert_eq!(parse("list_queues -p").unwrap_err().code, exit::USAGE);
        assert_eq!(parse("list_queues -t never").unwrap_err().code, exit::USAGE);
    }
}
