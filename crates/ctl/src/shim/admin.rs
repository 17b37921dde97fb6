//! `rabbitmqadmin` in the syntax of its first version, `verb noun name=value …`, and of its second.

mod objects;
mod print;
mod v2;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{Outcome, Stop};
use crate::client::{Client, Request};
use crate::failure::{Failure, Kind};
use crate::settings::{Overrides, Settings};
use objects::{Object, Shape};

/// `rabbitmqadmin` knows one code for all that goes wrong.
const FAILED: u8 = 1;

/// Options with a value: short, long, and the key of a configuration file.
const VALUED: &[(&str, &str, &str)] = &[
    ("-c", "--config", "config"),
    ("-N", "--node", "node"),
    ("-H", "--host", "hostname"),
    ("-P", "--port", "port"),
    ("", "--path-prefix", "path_prefix"),
    ("-V", "--vhost", "vhost"),
    ("-u", "--username", "username"),
    ("-p", "--password", "password"),
    ("-U", "--base-uri", "base_uri"),
    ("-t", "--request-timeout", "request_timeout"),
    ("-f", "--format", "format"),
    ("-S", "--sort", "sort"),
    ("-d", "--depth", "depth"),
    ("", "--ssl-ca-cert-file", "ssl_ca_cert_file"),
];

/// What belongs to the command where it follows one in the second version's syntax.
const OF_COMMANDS: &[&str] = &["--password", "--username", "--node", "--vhost"];

/// Options that are there or not.
const FLAGS: &[(&str, &str, &str)] = &[
    ("-q", "--quiet", "quiet"),
    ("-s", "--ssl", "ssl"),
    ("-k", "--ssl-insecure", "ssl_insecure"),
    ("-R", "--sort-reverse", "sort_reverse"),
    ("-h", "--help", "help"),
    ("", "--version", "version"),
    ("", "--non-interactive", "non_interactive"),
    ("", "--tls", "ssl"),
    ("", "--insecure", "ssl_insecure"),
];

/// A run: options by their configuration keys, and what is left of the command line.
struct Admin {
    options: BTreeMap<&'static str, String>,
    words: Vec<String>,
    client: Client,
}

fn usage(text: &str) -> Stop {
    Stop::new(
        FAILED,
        format!("\nERROR: {text}\n\nrabbitmqadmin --help for help\n"),
    )
}

/// RabbitMQ's tool tells less of an error than the API does.
fn died(failure: &Failure, path: &str) -> Stop {
    let text = match failure.kind {
        Kind::Unauthorised => format!("Access refused: {path}"),
        Kind::NotFound => format!("Not found: {path}"),
        Kind::Unreachable => format!("Could not connect: {}", failure.text),
        _ => failure.text.trim_start_matches(": ").to_owned(),
    };
    Stop::new(FAILED, format!("*** {text}\n"))
}

pub(super) fn run(arguments: &[String]) -> Outcome {
    let (mut options, words) = parse(arguments)?;
    if options.contains_key("version") {
        println!("rabbitmqadmin {}", env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    if options.contains_key("help") || words.first().is_some_and(|word| word == "help") {
        println!("{}", objects::help());
        return Ok(());
    }
    if words.is_empty() {
        return Err(usage("Action not specified"));
    }
    read_config(&mut options)?;
    let client = client(&options)?;
    let admin = Admin {
        options,
        words,
        client,
    };
    let rest = &admin.words[1..];
    match admin.words[0].as_str() {
        "list" => admin.list(rest, objects::LISTABLE),
        "show" => admin.list(rest, &["overview"]),
        "declare" => admin.change(rest, objects::DECLARABLE, "PUT", "declared"),
        "delete" => admin.change(rest, objects::DELETABLE, "DELETE", "deleted"),
        "close" => admin.change(rest, objects::CLOSABLE, "DELETE", "closed"),
        "purge" => admin.change(rest, objects::PURGABLE, "DELETE", "purged"),
        "publish" => admin.publish(rest),
        "get" => admin.fetch(rest),
        "export" => admin.export(rest),
        "import" => admin.import(rest),
        other => Err(usage(&format!("Action {other} not understood"))),
    }
}

type Options = BTreeMap<&'static str, String>;

fn parse(arguments: &[String]) -> Result<(Options, Vec<String>), Stop> {
    let mut options = BTreeMap::new();
    let (mut words, mut of_command) = (Vec::new(), Vec::new());
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        if !word.starts_with('-') || word == "-" {
            words.push(word.clone());
            continue;
        }
        let (name, inline) = match word.split_once('=') {
            Some((name, value)) if word.starts_with("--") => (name, Some(value.to_owned())),
            _ => (word.as_str(), None),
        };
        let is = |(short, long, _): &&(&str, &str, &str)| *short == name || *long == name;
        let is_of_command = OF_COMMANDS.contains(&name) && v2::begins(&words, &of_command);
        if is_of_command {
            of_command.push(v2::option(name, inline, &mut rest)?);
        } else if let Some((_, _, key)) = FLAGS.iter().find(is) {
            options.insert(*key, String::new());
        } else if let Some((_, _, key)) = VALUED.iter().find(is) {
            let value = inline.or_else(|| rest.next().cloned());
            let value =
                value.ok_or_else(|| usage(&format!("{name} option requires 1 argument")))?;
            options.insert(*key, value);
        } else if name.starts_with("--") && words.len() >= 2 {
            of_command.push(v2::option(name, inline, &mut rest)?);
        } else {
            return Err(usage(&format!("no such option: {name}")));
        }
    }
    if v2::begins(&words, &of_command) {
        options.insert("v2", String::new());
    }
    if of_command.iter().any(|(name, _)| name == "idempotently") {
        options.insert("idempotently", String::new());
    }
    let vhost = options.get("vhost").map_or("/", String::as_str);
    let words = v2::translate(words, of_command, vhost)?;
    Ok((options, words))
}

/// Adds what the section of the configuration file says and the command line does not.
fn read_config(options: &mut Options) -> Outcome {
    let named = options.get("config").cloned();
    let default = std::env::var("HOME").map(|home| format!("{home}/.rabbitmqadmin.conf"));
    let Some(path) = named.clone().or_else(|| default.ok()) else {
        return Ok(());
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(_) if named.is_none() => return Ok(()),
        Err(_) => return Err(usage(&format!("Could not read config file '{path}'"))),
    };
    let node = options.get("node").cloned();
    let section = format!("[{}]", node.as_deref().unwrap_or("default"));
    let mut lines = text.lines().map(str::trim);
    if !lines.any(|line| line == section) {
        return match node {
            Some(node) => Err(usage(&format!(
                "Could not read section '{node}' in config file '{path}'"
            ))),
            None => Ok(()),
        };
    }
    let own = lines.take_while(|line| !line.starts_with('['));
    for line in own.filter(|line| !line.starts_with(['#', ';'])) {
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        let known = VALUED
            .iter()
            .chain(FLAGS)
            .find(|(_, _, known)| *known == key.trim());
        let value = value.trim();
        if let Some((_, _, key)) = known.filter(|_| value != "False") {
            options.entry(key).or_insert_with(|| value.to_owned());
        }
    }
    Ok(())
}

/// Where the options point; without any, where `leveretctl` would go.
fn client(options: &Options) -> Result<Client, Stop> {
    let option = |key: &str| options.get(key).cloned();
    let mut overrides = Overrides {
        username: option("username"),
        password: option("password"),
        insecure: options.contains_key("ssl_insecure"),
        ..Overrides::default()
    };
    let secure = options.contains_key("ssl");
    let places = ["hostname", "port", "path_prefix"];
    if let Some(url) = option("base_uri") {
        overrides.url = Some(url);
    } else if secure || places.iter().any(|key| options.contains_key(key)) {
        let scheme = if secure { "https" } else { "http" };
        let host = option("hostname").unwrap_or_else(|| "localhost".to_owned());
        let port = option("port").unwrap_or_else(|| "15672".to_owned());
        let prefix = option("path_prefix").unwrap_or_default();
        overrides.url = Some(format!("{scheme}://{host}:{port}{prefix}"));
    }
    if let Some(text) = option("request_timeout") {
        let wrong = |error| usage(&format!("option -t: {error}"));
        overrides.timeout = Some(crate::arguments::duration(&text).map_err(wrong)?);
    }
    let mut settings = Settings::resolve(&overrides).map_err(|failure| usage(&failure.text))?;
    settings.ca = option("ssl_ca_cert_file").or(settings.ca);
    Client::new(&settings).map_err(|failure| usage(&failure.text))
}

impl Admin {
    fn option(&self, key: &str) -> Option<&str> {
        self.options.get(key).map(String::as_str)
    }

    fn say(&self, text: &str) {
        if !self.options.contains_key("quiet") {
            println!("{text}");
        }
    }

    fn call(&self, request: &Request) -> Result<Value, Stop> {
        let called = self.client.call(request, "");
        called.map_err(|failure| died(&failure, &request.target()))
    }

    fn list(&self, words: &[String], known: &[&str]) -> Outcome {
        let (noun, columns) = match words {
            [noun, columns @ ..] => (noun.as_str(), columns),
            [] => return Err(usage("Type not specified")),
        };
        if !known.contains(&noun) {
            return Err(usage(&format!("Don't know how to list {noun}")));
        }
        let format = self.option("format").unwrap_or("table");
        let deep = self.option("depth").is_some_and(|depth| depth != "1");
        let mut columns: Vec<String> = columns.to_vec();
        if columns.is_empty() && !deep && !format.contains("json") {
            let usual = objects::usual_columns(noun);
            columns = usual.iter().map(|&column| column.to_owned()).collect();
        }
        let path = noun.replace('_', "-");
        let mut path = vec![path.as_str()];
        if objects::VHOST_SCOPED.contains(&noun) {
            path.extend(self.option("vhost"));
        }
        let mut request = Request::get(&path);
        if !columns.is_empty() {
            request = request.query("columns", columns.join(","));
        }
        if let Some(sort) = self.option("sort") {
            request = request.query("sort", sort);
        }
        let request = request.flag("sort_reverse", self.options.contains_key("sort_reverse"));
        let answer = self.call(&request)?;
        let rows = if answer.is_array() {
            answer
        } else {
            json!([answer])
        };
        self.print(&rows, &columns)
    }

    fn print(&self, rows: &Value, columns: &[String]) -> Outcome {
        let format = self.option("format").unwrap_or("table");
        let depth = self
            .option("depth")
            .and_then(|depth| depth.parse().ok())
            .unwrap_or(1);
        match print::format(rows, columns, format, depth) {
            Some(text) if text.is_empty() => self.say("No items"),
            Some(text) => crate::output::print(&text)?,
            None => return Err(usage(&format!("Format {format} not recognised"))),
        }
        Ok(())
    }

    fn change(&self, words: &[String], known: &[Object], method: &str, done: &str) -> Outcome {
        let noun = words.first().ok_or_else(|| usage("Type not specified"))?;
        let object = known.iter().find(|object| object.noun == noun);
        let object = object.ok_or_else(|| usage(&format!("Type {noun} not recognised")))?;
        let values = self.values(&words[1..], &object.shape)?;
        let path = object.path(&values);
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let request = match method {
            "DELETE" => Request::delete(&path),
            _ if noun == "binding" => Request::post(&path, objects::body(&values)),
            _ => Request::put(&path, objects::body(&values)),
        };
        match self.client.call(&request, "") {
            Err(failure)
                if failure.kind == Kind::NotFound && self.options.contains_key("idempotently") => {}
            Err(failure) => return Err(died(&failure, &request.target())),
            // The second version says nothing of what went well.
            Ok(_) if self.options.contains_key("v2") => {}
            Ok(_) => self.say(&format!("{noun} {done}")),
        }
        Ok(())
    }

    /// The values of `name=value` words, with what the object has by default.
    fn values(&self, words: &[String], shape: &Shape) -> Result<Map<String, Value>, Stop> {
        let mut values = Map::new();
        for (name, default) in shape.optional {
            if let Some(default) = default {
                let value = serde_json::from_str(default).unwrap_or_else(|_| (*default).into());
                values.insert((*name).to_owned(), value);
            }
        }
        for word in words {
            let wrong = || usage(&format!("Argument \"{word}\" not in the name=value format"));
            let (name, value) = word.split_once('=').ok_or_else(wrong)?;
            if !shape.knows(name) {
                return Err(usage(&format!("Argument \"{name}\" is not recognised")));
            }
            let value = if shape.json.contains(&name) {
                serde_json::from_str(value).map_err(|_| {
                    Stop::new(FAILED, format!("ERROR: Could not parse JSON:\n  {value}"))
                })?
            } else {
                Value::String(value.to_owned())
            };
            values.insert(name.to_owned(), value);
        }
        if let Some(missing) = shape.missing(&values) {
            return Err(usage(&format!(
                "mandatory argument \"{missing}\" is required"
            )));
        }
        if !shape.mandatory.contains(&"vhost") {
            let vhost = self.option("vhost").unwrap_or("/");
            values.insert("vhost".to_owned(), vhost.into());
        }
        Ok(values)
    }

    fn publish(&self, words: &[String]) -> Outcome {
        let mut values = self.values(words, &objects::PUBLISH)?;
        if !values.contains_key("payload") {
            let mut payload = Vec::new();
            std::io::stdin()
                .read_to_end(&mut payload)
                .map_err(Failure::from)?;
            values.insert("payload".to_owned(), STANDARD.encode(payload).into());
            values.insert("payload_encoding".to_owned(), "base64".into());
        }
        let text = |name: &str| values[name].as_str().unwrap_or_default().to_owned();
        let (vhost, exchange) = (text("vhost"), text("exchange"));
        let path = ["exchanges", &vhost, &exchange, "publish"];
        let answer = self.call(&Request::post(&path, Value::Object(values)))?;
        self.say(if answer["routed"] == true {
            "Message published"
        } else {
            "Message published but NOT routed"
        });
        Ok(())
    }

    fn fetch(&self, words: &[String]) -> Outcome {
        let values = self.values(words, &objects::GET)?;
        let text = |name: &str| values.get(name).and_then(Value::as_str).unwrap_or_default();
        let (vhost, queue, file) = (text("vhost"), text("queue"), text("payload_file"));
        if !file.is_empty() && text("count") != "1" {
            return Err(usage("Cannot get multiple messages using payload_file"));
        }
        let path = ["queues", vhost, queue, "get"];
        let rows = self.call(&Request::post(&path, Value::Object(values.clone())))?;
        let mut columns = Vec::new();
        if !file.is_empty() && rows[0].is_object() {
            let payload = rows[0]["payload"].as_str().unwrap_or_default();
            let payload = match rows[0]["payload_encoding"].as_str() {
                Some("base64") => STANDARD.decode(payload).unwrap_or_default(),
                _ => payload.as_bytes().to_vec(),
            };
            fs::write(file, payload).map_err(Failure::from)?;
            let shown = [
                "routing_key",
                "exchange",
                "message_count",
                "payload_bytes",
                "redelivered",
            ];
            columns = shown.map(str::to_owned).to_vec();
        }
        self.print(&rows, &columns)
    }

    fn definitions(&self) -> Vec<&str> {
        let mut path = vec!["definitions"];
        path.extend(self.option("vhost"));
        path
    }

    fn export(&self, words: &[String]) -> Outcome {
        let [file] = words else {
            return Err(usage("Exactly one argument required"));
        };
        let definitions = self.call(&Request::get(&self.definitions()))?;
        let text = definitions.to_string();
        crate::commands::definitions::write_private(file, text.as_bytes())?;
        self.say(&format!("Exported definitions to \"{file}\""));
        Ok(())
    }

    fn import(&self, words: &[String]) -> Outcome {
        let [file] = words else {
            return Err(usage("Exactly one argument required"));
        };
        let text = crate::commands::definitions::read(file)?;
        let definitions = serde_json::from_str(text.trim_start_matches('\u{feff}'));
        let definitions = definitions.map_err(Failure::from)?;
        self.call(&Request::post(&self.definitions(), definitions))?;
        self.say(&format!("Uploaded definitions from \"{file}\""));
        Ok(())
    }
}
