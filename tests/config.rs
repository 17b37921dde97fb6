//! The configuration as an operator meets it: precedence, refusals and their places, secrets.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use leveret::config::{
    Config, ConfigError, Identity, LogFormat, LogLevel, Secret, Sources, SyncMode, is_reloadable,
    key_names,
};

const FILE: &str = "/etc/leveret/leveret.toml";

fn file(text: &str) -> Sources {
    Sources {
        file: Some((PathBuf::from(FILE), text.to_owned())),
        ..Sources::default()
    }
}

fn environment(variables: &[(&str, &str)]) -> Sources {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Sources {
        environment: variables.iter().map(owned).collect(),
        ..Sources::default()
    }
}

fn set(pairs: &[&str]) -> Sources {
    let owned = |pair: &&str| ("--set".to_owned(), (*pair).to_owned());
    Sources {
        command_line: pairs.iter().map(owned).collect(),
        ..Sources::default()
    }
}

fn accepted(sources: &Sources) -> Config {
    Config::from_sources(sources).unwrap_or_else(|error| panic!("{error}"))
}

/// The lines of a refusal.
fn refused(sources: &Sources) -> Vec<String> {
    let error: ConfigError = Config::from_sources(sources).expect_err("must be refused");
    error.to_string().lines().map(str::to_owned).collect()
}

// --- the file that ships

fn shipped_file() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/leveret.toml"))
        .expect("config/leveret.toml")
}

fn is_key_line(line: &str) -> bool {
    line.strip_prefix('#')
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
}

#[test]
fn shipped_file_changes_nothing() {
    let config = accepted(&file(&shipped_file()));
    assert_eq!(
        Config {
            file: None,
            ..config
        },
        Config::default()
    );
}

#[test]
fn shipped_file_shows_every_default() {
    let text = shipped_file();
    let uncomment = |line: &str| match line.strip_prefix('#') {
        Some(key) if is_key_line(line) => format!("{key}\n"),
        _ => format!("{line}\n"),
    };
    let uncommented: String = text.lines().map(uncomment).collect();
    let config = accepted(&file(&uncommented));
    assert_eq!(
        Config {
            file: None,
            ..config
        },
        Config::default()
    );

    let table: toml::Table = toml::from_str(&uncommented).expect("TOML");
    assert_eq!(paths_of(&table), sorted(key_names().map(str::to_owned)));
}

#[test]
fn shipped_file_says_why_for_each_key() {
    let text = shipped_file();
    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.windows(2).filter(|pair| is_key_line(pair[1])) {
        assert!(pair[0].starts_with("# "), "no reason above: {}", pair[1]);
    }
    assert!(lines.iter().all(|line| line.len() <= 100));
}

/// Each key of the shipped file, with the comment above it.
fn shipped_keys() -> Vec<(String, String)> {
    let text = shipped_file();
    let (mut section, mut reason) = (String::new(), String::new());
    let mut keys = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
            reason.clear();
        } else if is_key_line(line) {
            let key = line.trim_start_matches('#').split(" = ").next();
            let key = format!("{section}{}", key.expect("a key"));
            keys.push((key, std::mem::take(&mut reason)));
        } else {
            reason += line.trim_start_matches('#');
        }
    }
    keys
}

#[test]
fn shipped_file_marks_what_a_running_broker_takes_over() {
    for (key, reason) in shipped_keys() {
        // Before the first section the file speaks of the mark itself.
        let marked = key.contains('.') && reason.contains("(SIGHUP)");
        assert_eq!(marked, is_reloadable(&key), "{key}:{reason}");
    }
}

#[test]
fn zero_is_accepted_where_the_shipped_file_says_what_it_does() {
    let keys = shipped_keys().into_iter();
    let keys = keys.filter(|(_, reason)| reason.contains(" 0 "));
    let keys: Vec<_> = keys.map(|(key, _)| key).collect();
    assert!(keys.contains(&"limits.login_failures_per_minute".to_owned()));
    for key in keys {
        accepted(&set(&[&format!("{key}=0")]));
    }
}

#[test]
fn table_of_keys_names_every_setting() {
    let table = toml::Table::try_from(Config::default()).expect("a table");
    assert_eq!(paths_of(&table), sorted(key_names().map(str::to_owned)));
}

fn paths_of(table: &toml::Table) -> Vec<String> {
    sorted(table.iter().flat_map(|(key, value)| match value {
        toml::Value::Table(section) => section.keys().map(|name| format!("{key}.{name}")).collect(),
        _ => vec![key.clone()],
    }))
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

// --- precedence

#[test]
fn nothing_given_is_the_default() {
    assert_eq!(accepted(&Sources::default()), Config::default());
}

#[test]
fn each_source_wins_over_the_one_below() {
    let mut sources = file("[amqp]\nheartbeat_s = 1\nframe_max = 5000\nchannel_max = 10\n");
    sources.environment = environment(&[
        ("LEVERET_AMQP_FRAME_MAX", "6000"),
        ("LEVERET_AMQP_CHANNEL_MAX", "20"),
    ])
    .environment;
    sources.command_line = set(&["amqp.channel_max=30"]).command_line;
    let config = accepted(&sources);
    assert_eq!(config.amqp.heartbeat_s, 1);
    assert_eq!(config.amqp.frame_max, 6_000);
    assert_eq!(config.amqp.channel_max, 30);
    assert_eq!(config.amqp.listen, Config::default().amqp.listen);
    assert_eq!(config.file.as_deref(), Some(Path::new(FILE)));
}

#[test]
fn last_setting_of_the_command_line_wins() {
    let config = accepted(&set(&["log.level=warn", "log.level=debug"]));
    assert_eq!(config.log.level, LogLevel::Debug);
}

#[test]
fn rabbitmq_variables_set_the_first_user_below_ours() {
    let config = accepted(&environment(&[
        ("LEVERET_DEFAULT_USER", "ours"),
        ("RABBITMQ_DEFAULT_PASS", "\"12 34\""),
        ("RABBITMQ_DEFAULT_USER", "theirs"),
        ("RABBITMQ_DEFAULT_VHOST", "v"),
    ]));
    assert_eq!(config.default.user, "ours");
    assert_eq!(config.default.password.expose(), "\"12 34\"");
    assert_eq!(config.default.vhost, "v");
}

#[test]
fn rabbitmq_watermark_is_a_part_or_bytes_and_wins_over_the_file() {
    let cases = [
        ("0.4", 0.4, 0),
        ("40%", 0.4, 0),
        ("1.0", 1.0, 0),
        ("1073741824", 0.6, 1 << 30),
        ("512MB", 0.6, 512_000_000),
        ("512MiB", 0.6, 512 << 20),
        ("2G", 0.6, 2 << 30),
    ];
    for (text, part, bytes) in cases {
        let mut sources = file("[limits]\nmemory_high_watermark_bytes = 7\n");
        let variable = ("RABBITMQ_VM_MEMORY_HIGH_WATERMARK", text);
        sources.environment = environment(&[variable]).environment;
        let limits = accepted(&sources).limits;
        assert_eq!(limits.memory_high_watermark, part, "{text}");
        assert_eq!(limits.memory_high_watermark_bytes, bytes, "{text}");
    }
    for wrong in ["0", "140%", "much", "0.0", "x%"] {
        let lines = refused(&environment(&[(
            "RABBITMQ_VM_MEMORY_HIGH_WATERMARK",
            wrong,
        )]));
        let start = "environment variable RABBITMQ_VM_MEMORY_HIGH_WATERMARK: ";
        assert!(lines[0].starts_with(start), "{wrong}: {}", lines[0]);
    }
}

#[test]
fn a_password_and_a_file_with_one_contradict_each_other() {
    let both = [
        ("RABBITMQ_DEFAULT_PASS", "a"),
        ("RABBITMQ_DEFAULT_PASS_FILE", "b"),
    ];
    assert_eq!(
        refused(&environment(&both)),
        [
            "environment variable RABBITMQ_DEFAULT_PASS_FILE: RABBITMQ_DEFAULT_PASS is set too: \
             only one of both can be"
        ]
    );
}

#[test]
fn variables_of_rabbitmq_without_effect_are_known_by_name() {
    let config = accepted(&environment(&[
        ("RABBITMQ_LOGS", "-"),
        ("RABBITMQ_NODENAME", "rabbit@host"),
        ("RABBITMQ_NODE_PORT", "5672"),
        ("RABBITMQ_SERVICE_PORT", "5672"),
    ]));
    assert_eq!(
        config.without_effect,
        ["RABBITMQ_LOGS", "RABBITMQ_NODE_PORT"]
    );
    assert_eq!(config.management.node_name, "rabbit@host");
}

// --- values

#[test]
fn file_sets_every_kind_of_value() {
    let config = accepted(&file(
        "data_dir = '/var/lib/leveret'\n\
         [amqp]\nlisten = ['127.0.0.1:5672']\nidentity = 'rabbitmq'\nloopback_users = []\n\
         [limits]\nqueue_bytes_max = '64 MiB'\nresident_bytes = 1_000\nmemory_high_watermark = 1\n\
         [log]\nformat = 'json'\nfilter = 'info,leveret::connection=debug'\n\
         [storage]\nsync = 'os'\n",
    ));
    assert_eq!(config.data_dir, Path::new("/var/lib/leveret"));
    assert_eq!(config.amqp.listen, ["127.0.0.1:5672"]);
    assert_eq!(config.amqp.identity, Identity::Rabbitmq);
    assert!(config.amqp.loopback_users.is_empty());
    assert_eq!(config.limits.queue_bytes_max, 64 << 20);
    assert_eq!(config.limits.resident_bytes, 1_000);
    assert_eq!(config.limits.memory_high_watermark, 1.0);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.log.filter, "info,leveret::connection=debug");
    assert_eq!(config.storage.sync, SyncMode::Os);
}

#[test]
fn bare_text_is_enough_outside_the_file() {
    let config = accepted(&set(&[
        "default.password=12345",
        "amqp.listen=127.0.0.1:0,[::1]:0",
        "limits.queue_bytes_max=2GiB",
        "data_dir=/tmp/a=b",
        "log.level = \"trace\"",
    ]));
    assert_eq!(config.default.password, Secret::new("12345".to_owned()));
    assert_eq!(config.amqp.listen, ["127.0.0.1:0", "[::1]:0"]);
    assert_eq!(config.limits.queue_bytes_max, 2 << 30);
    assert_eq!(config.data_dir, Path::new("/tmp/a=b"));
    assert_eq!(config.log.level, LogLevel::Trace);
}

#[test]
fn derived_bytes_follow_the_memory_limit() {
    let mut limits = Config::default().limits;
    assert_eq!(limits.resident_bytes_of(Some(1 << 30)), 1 << 28);
    assert_eq!(limits.resident_bytes_of(None), u64::MAX);
    assert_eq!(limits.memory_high_watermark_of(1_000), 0.6);
    limits.resident_bytes = 7;
    limits.memory_high_watermark_bytes = 250;
    assert_eq!(limits.resident_bytes_of(Some(1 << 30)), 7);
    assert_eq!(limits.resident_bytes_of(None), 7, "it is set");
    assert_eq!(limits.memory_high_watermark_of(1_000), 0.25);
    assert_eq!(limits.memory_high_watermark_of(100), 1.0);
}

// --- refusals

#[test]
fn unknown_key_names_its_line_and_the_nearest_key() {
    let cases = [
        (
            "[amqp]\n\nlistn = 1\n",
            3,
            "unknown key `amqp.listn`, did you mean `amqp.listen`?",
        ),
        ("a = 1\n\n\n", 1, "unknown key `a`"),
        (
            "\nlisten = 1\n",
            2,
            "unknown key `listen`, did you mean `amqp.listen`?",
        ),
        (
            "amqp.heartbeat = 1\n",
            1,
            "unknown key `amqp.heartbeat`, did you mean `amqp.heartbeat_s`?",
        ),
        (
            "[limits]\nmax_connections = 1\n",
            2,
            "unknown key `limits.max_connections`, did you mean `limits.connections_max`?",
        ),
        ("x = 1\n", 1, "unknown key `x`"),
        (
            "\n[ampq]\nlisten = 1\n",
            2,
            "unknown section `[ampq]`, did you mean `[amqp]`?",
        ),
        ("[clustering]\n", 1, "unknown section `[clustering]`"),
        (
            "[tls]\ncert = 'a'\n",
            1,
            "`[tls]`: TLS is not in this version: put a proxy with TLS in front of the broker",
        ),
        ("amqp = 1\n", 1, "`amqp` is a section, not a key"),
    ];
    for (text, line, message) in cases {
        assert_eq!(
            refused(&file(text)),
            [format!("{FILE}:{line}: {message}")],
            "{text}"
        );
    }
}

#[test]
fn unknown_variable_is_refused_in_its_own_spelling() {
    assert_eq!(
        refused(&environment(&[("LEVERET_AMQP_LISTN", "x")])),
        [
            "environment variable LEVERET_AMQP_LISTN: unknown key `LEVERET_AMQP_LISTN`, \
          did you mean `LEVERET_AMQP_LISTEN`?"
        ]
    );
}

#[test]
fn variables_of_service_discovery_and_strangers_are_ignored() {
    let config = accepted(&environment(&[
        ("LEVERET_SERVICE_HOST", "10.0.0.1"),
        ("LEVERET_SERVICE_PORT", "5672"),
        ("LEVERET_SERVICE_PORT_AMQP", "5672"),
        ("LEVERET_PORT", "tcp://10.0.0.1:5672"),
        ("LEVERET_PORT_5672_TCP_ADDR", "10.0.0.1"),
        ("LEVERET_AMQP_PORT_5672_TCP", "tcp://10.0.0.1:5672"),
        ("PATH", "/bin"),
        ("RABBITMQ_SERVICE_HOST", "10.0.0.1"),
        ("RABBITMQ_SERVICE_PORT", "5672"),
        ("RABBITMQ_PORT", "tcp://10.0.0.1:5672"),
    ]));
    assert_eq!(config, Config::default());
}

#[test]
fn tls_is_not_in_this_version_wherever_it_is_set() {
    let not_here = "TLS is not in this version: put a proxy with TLS in front of the broker";
    assert_eq!(
        refused(&set(&["tls.cert=x"])),
        [format!("--set tls.cert: `tls.cert`: {not_here}")]
    );
    let lines = refused(&environment(&[("LEVERET_TLS_CERT", "x")]));
    assert_eq!(
        lines,
        [format!(
            "environment variable LEVERET_TLS_CERT: `tls.cert`: {not_here}"
        )]
    );
}

#[test]
fn unknown_key_of_the_command_line_is_refused() {
    assert_eq!(
        refused(&set(&["amqp.heartbeats=3", "amqp.heartbeat_s"])),
        [
            "--set: `amqp.heartbeat_s` is not of the form section.key=value",
            "--set amqp.heartbeats: unknown key `amqp.heartbeats`, did you mean `amqp.heartbeat_s`?"
        ]
    );
}

#[test]
fn bad_value_says_what_is_accepted() {
    let cases = [
        (
            "amqp.frame_max=4095",
            "must be a number of bytes from 4096 to 16777216, or a text such as \"64 MiB\"",
        ),
        (
            "amqp.heartbeat_s=65536",
            "must be a whole number from 0 to 65535",
        ),
        (
            "amqp.heartbeat_s=-1",
            "must be a whole number from 0 to 65535",
        ),
        (
            "amqp.heartbeat_s=1.5",
            "must be a whole number from 0 to 65535",
        ),
        (
            "amqp.channel_max=0",
            "must be a whole number from 1 to 65535",
        ),
        (
            "default.password_hashing=md5",
            "must be one of \"sha256\", \"sha512\", \"argon2id\"",
        ),
        (
            "amqp.identity=kafka",
            "must be one of \"leveret\", \"rabbitmq\"",
        ),
        (
            "amqp.max_message_size=513 MiB",
            "must be a number of bytes from 1 to 536870912, or a text such as \"64 MiB\"",
        ),
        (
            "limits.queue_length_max=0",
            "must be a whole number of at least 1",
        ),
        (
            "limits.memory_high_watermark=0",
            "must be a number over 0 and up to 1",
        ),
        (
            "limits.memory_high_watermark=nan",
            "must be a number over 0 and up to 1",
        ),
        (
            "log.filter=leveret=loud",
            "is not a log filter: error parsing level filter: expected one of \"off\", \
             \"error\", \"warn\", \"info\", \"debug\", \"trace\", or a number 0-5",
        ),
        ("data_dir=", "must not be empty"),
        ("default.vhost=", "must not be empty"),
    ];
    for (pair, message) in cases {
        let key = pair.split_once('=').expect("a pair").0;
        assert_eq!(
            refused(&set(&[pair])),
            [format!("--set {key}: `{key}` {message}")],
            "{pair}"
        );
    }
    let long = format!("default.user={}", "u".repeat(256));
    assert_eq!(
        refused(&set(&[&long])),
        ["--set default.user: `default.user` must be at most 255 bytes long"]
    );
}

#[test]
fn bad_address_is_named() {
    for bad in ["5672", "[\"5672\"]", "[]", "3", "localhost"] {
        let lines = refused(&set(&[&format!("amqp.listen={bad}")]));
        assert_eq!(lines.len(), 1);
        assert!(
            lines[0].contains("must be a list of \"address:port\""),
            "{}",
            lines[0]
        );
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused_where_they_were_given() {
    let lines = refused(&file("[amqp]\nmax_message_size = '512 MiB'\n"));
    assert_eq!(lines.len(), 1);
    assert!(
        lines[0].starts_with(&format!("{FILE}:2: `limits.assembly_bytes_max`")),
        "{}",
        lines[0]
    );
}

#[test]
fn all_problems_are_told_at_once_in_order() {
    let mut sources = file("[log]\nlevel = 'loud'\n[amqp]\nlistn = 1\n[ampq]\n");
    sources.environment = environment(&[("LEVERET_LOG_FORMAT", "xml")]).environment;
    sources.command_line = set(&["log.format=yaml"]).command_line;
    let lines = refused(&sources);
    let places: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.split(": ").next())
        .collect();
    assert_eq!(
        places,
        [
            "/etc/leveret/leveret.toml:2",
            "/etc/leveret/leveret.toml:4",
            "/etc/leveret/leveret.toml:5",
            "environment variable LEVERET_LOG_FORMAT",
            "--set log.format",
        ]
    );
}

// --- secrets

#[test]
fn password_is_never_shown() {
    let config = accepted(&set(&["default.password=s3cret"]));
    assert_eq!(config.default.password.expose(), "s3cret");
    let shown = format!(
        "{config:?}{config:#?}{}",
        toml::to_string(&config).expect("TOML")
    );
    assert!(!shown.contains("s3cret"), "{shown}");

    let refusals = [
        file("[default]\npassword = 53230\n"),
        file("[default]\npassword = ['53230']\n"),
        file("[default]\npassword = '53230\n"),
        set(&["default.passwrd=53230"]),
        environment(&[("LEVERET_DEFAULT_PASSWRD", "53230")]),
    ];
    for sources in refusals {
        let lines = refused(&sources).join("\n");
        assert!(!lines.contains("53230"), "{lines}");
    }
}

// --- the binary

/// Runs the binary in an empty folder with this environment alone.
fn leveret(folder: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_leveret"))
        .current_dir(folder)
        .env_clear()
        .envs(variables.iter().copied())
        .args(arguments)
        .output()
        .expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

#[test]
fn binary_reads_all_sources() {
    let folder = folder("config-sources");
    std::fs::write(
        folder.join("leveret.toml"),
        "[amqp]\nheartbeat_s = 7\nframe_max = 5000\n",
    )
    .expect("a file");
    std::fs::write(folder.join("other.toml"), "[amqp]\nheartbeat_s = 8\n").expect("a file");

    let run = leveret(
        &folder,
        &[("LEVERET_AMQP_FRAME_MAX", "6000")],
        &["--check-config"],
    );
    assert!(run.status.success(), "{}", text(&run.stderr));
    let shown = text(&run.stdout);
    for line in [
        "file: ./leveret.toml",
        "heartbeat_s = 7",
        "frame_max = 6000",
    ] {
        assert!(shown.contains(line), "{line} in {shown}");
    }

    let arguments = [
        "--config",
        "other.toml",
        "--check-config",
        "--data-dir",
        "d",
        "--log-format",
        "json",
        "--set",
        "default.password=s3cret",
    ];
    let run = leveret(&folder, &[], &arguments);
    let shown = text(&run.stdout);
    let lines = [
        "file: other.toml",
        "heartbeat_s = 8",
        "data_dir = \"d\"",
        "format = \"json\"",
    ];
    for line in lines {
        assert!(shown.contains(line), "{line} in {shown}");
    }
    assert!(!shown.contains("s3cret"));
}

#[test]
fn binary_ends_quietly_where_nobody_reads() {
    let folder = folder("config-pipe");
    for argument in ["--check-config", "--help", "--version"] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let run = Command::new(env!("CARGO_BIN_EXE_leveret"))
            .current_dir(&folder)
            .env_clear()
            .arg(argument)
            .stdout(writer)
            .output()
            .expect("the binary runs");
        assert_eq!(text(&run.stderr), "", "{argument}");
        assert_eq!(run.status.code(), Some(0), "{argument}");
    }
}

#[test]
fn binary_refuses_with_code_2_and_the_place() {
    let folder = folder("config-refusals");
    std::fs::write(folder.join("bad.toml"), "[amqp]\nlistn = 1\n").expect("a file");
    let misspelt = [("LEVERET_LGO_LEVEL", "info")];
    let runs = [
        (
            leveret(&folder, &[], &["--config", "bad.toml"]),
            "bad.toml:2: unknown key `amqp.listn`",
        ),
        (
            leveret(&folder, &[], &["--config", "gone.toml"]),
            "gone.toml: cannot read the configuration file",
        ),
        (
            leveret(&folder, &misspelt, &[]),
            "did you mean `LEVERET_LOG_LEVEL`?",
        ),
        (
            leveret(&folder, &[("RABBITMQ_DEFAULT_PASS_FILE", "gone")], &[]),
            "environment variable RABBITMQ_DEFAULT_PASS_FILE: cannot read gone",
        ),
        (
            leveret(&folder, &[], &["--log-format", "xml"]),
            "--log-format: `log.format` must be one of",
        ),
        (
            leveret(&folder, &[], &["--port", "1"]),
            "unexpected argument '--port'",
        ),
    ];
    for (run, message) in runs {
        let shown = text(&run.stderr);
        assert!(shown.contains(message), "{message} in {shown}");
        assert_eq!(run.status.code(), Some(2), "{message}");
    }
}

#[test]
fn binary_tells_its_version() {
    let run = leveret(&folder("config-version"), &[], &["--version"]);
    assert_eq!(
        text(&run.stdout),
        format!("leveret {}\n", env!("CARGO_PKG_VERSION"))
    );
}
