//! The real-client suites in `tests/clients/`: how each is installed, started and read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::expected::Expected;
use crate::project::Project;
use crate::report::{Ending, Outcome, Report, Suite};
use crate::server::Server;
use crate::shell::Niceness;
use crate::{install, outcomes, shell};

/// The broker that the suites talk to.
pub(crate) enum Broker {
    /// A Leveret of this path, started anew for each suite.
    Leveret(PathBuf),
    /// Debian's RabbitMQ, started anew for each suite.
    RabbitMq,
    /// One that already runs; what it is decides which tests are expected not to hold.
    Url(String),
}

/// How much of a suite to run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of it.
    Full,
    /// The few tests marked `smoke`.
    Smoke,
}

/// One client library and its tests.
pub(crate) struct Client {
    /// The library's name.
    pub(crate) name: &'static str,
    language: Language,
}

#[derive(Clone, Copy)]
enum Language {
    /// pytest over this folder of `tests/clients/python`.
    Python(&'static str),
    /// The test program of this package, in this folder of `tests/clients`.
    Rust {
        package: &'static str,
        test: &'static str,
        folder: &'static str,
    },
    JavaScript,
    Go,
    Java,
    /// A command line tool for the HTTP API, walked through by `walk.sh`.
    Http(Tool),
    /// The integration tests that a module of this name and version comes with.
    GoModule(&'static str),
    /// Those that a Python package comes with.
    PythonSource(Source),
}

/// The source package of a Python library, whose own integration tests are run unmodified.
#[derive(Clone, Copy)]
struct Source {
    /// Name and version, as `requirements.txt` pins the library that the tests import.
    package: &'static str,
    /// Where in it the tests are.
    tests: &'static str,
}

/// Where a command line tool comes from.
#[derive(Clone, Copy)]
enum Tool {
    /// The Python script in Debian's package of RabbitMQ.
    Script,
    /// The program of RabbitMQ's crate, of this version.
    Crate(&'static str),
}

const CLIENTS: &[Client] = &[
    Client::new("lapin", LAPIN),
    Client::new("pika", Language::Python("test_pika")),
    Client::new("aio-pika", Language::Python("test_aio_pika")),
    Client::new("kombu", Language::Python("test_kombu")),
    Client::new("celery", Language::Python("test_celery")),
    Client::new("flower", Language::Python("test_flower")),
    Client::new("prometheus", Language::Python("test_prometheus")),
    Client::new("amqplib", Language::JavaScript),
    Client::new("amqp091-go", Language::Go),
    Client::new("java", Language::Java),
    Client::new("rabbitmqadmin", Language::Http(Tool::Script)),
    Client::new("rabbitmqadmin-v2", Language::Http(RABBITMQADMIN)),
    Client::new("rabbitmq-http-client", RABBITMQ_HTTP_CLIENT),
    Client::new("amqp091-go-own", Language::GoModule(AMQP091_GO)),
    Client::new("kombu-own", Language::PythonSource(KOMBU)),
    Client::new("py-amqp-own", Language::PythonSource(PY_AMQP)),
];

const LAPIN: Language = Language::Rust {
    package: "client-lapin",
    test: "lapin",
    folder: "rust",
};
const RABBITMQ_HTTP_CLIENT: Language = Language::Rust {
    package: "client-rabbitmq-http-client",
    test: "api",
    folder: "rabbitmq-http-client",
};

/// Needs Rust 1.94.
const RABBITMQADMIN: Tool = Tool::Crate("2.35.0");

/// What fails where a suite has to be stopped.
const LATE: &str = "the suite ends in time";

/// The packages of the suites in Rust, whose tests need a broker.
pub(crate) fn packages() -> impl Iterator<Item = &'static str> {
    CLIENTS.iter().filter_map(|client| match client.language {
        Language::Rust { package, .. } => Some(package),
        _ => None,
    })
}

/// The Go client, whose own integration tests are run unmodified.
const AMQP091_GO: &str = "github.com/rabbitmq/amqp091-go@v1.10.0";
const KOMBU: Source = Source {
    package: "kombu==5.5.4",
    tests: "t/integration/test_py_amqp.py",
};
const PY_AMQP: Source = Source {
    package: "amqp==5.4.2",
    tests: "t/integration",
};

/// Every client, or the one called `name`.
///
/// # Errors
/// There is no such client.
pub(crate) fn select(name: Option<&str>) -> Result<Vec<&'static Client>> {
    let wanted = |client: &&Client| name.is_none_or(|name| client.name == name);
    let selected: Vec<_> = CLIENTS.iter().filter(wanted).collect();
    if selected.is_empty() {
        let names: Vec<_> = CLIENTS.iter().map(|client| client.name).collect();
        bail!("no such client; there are {}", names.join(", "));
    }
    Ok(selected)
}

/// Those whose suites cargo builds, which builds for one at a time; and all others.
pub(crate) fn by_cargo() -> (Vec<&'static Client>, Vec<&'static Client>) {
    let all = CLIENTS.iter();
    all.partition(|client| client.language.needs_cargo())
}

/// Installs and compiles what clients need; a suite of that name with an outcome for each.
pub(crate) fn prepare(project: &Project, (name, clients): (&str, &[&Client]), report: &mut Report) {
    println!("== {name}");
    let start = Instant::now();
    let mut log = String::new();
    let mut outcomes = Vec::new();
    for client in clients {
        let prepared = client.prepare(project);
        if let Err(error) = &prepared {
            log += &format!("{}: {error:#}\n", client.name);
        }
        let ending = if prepared.is_ok() {
            Ending::Passed
        } else {
            Ending::Failed
        };
        outcomes.push(Outcome::new(client.name, ending));
    }
    report.add(Suite::new(name, outcomes, log, start));
}

/// Runs `clients` one after the other and adds a suite for each to `report`.
pub(crate) fn run(
    project: &Project,
    broker: &Broker,
    clients: &[&Client],
    extent: Extent,
    report: &mut Report,
) {
    for client in clients {
        println!("== client {}", client.name);
        let start = Instant::now();
        let name = format!("client {}", client.name);
        let suite = match client.judged(project, broker, extent) {
            Ok((outcomes, log)) => Suite::new(&name, outcomes, log, start),
            Err(error) => Suite::single(&name, false, format!("{error:#}"), start),
        };
        report.add(suite);
    }
}

impl Client {
    const fn new(name: &'static str, language: Language) -> Self {
        Self { name, language }
    }

    /// Runs the suite; one whose waits of a fraction of a second are not ours to change has a
    /// second try, and a test of it fails that failed both times.
    fn judged(
        &self,
        project: &Project,
        broker: &Broker,
        extent: Extent,
    ) -> Result<(Vec<Outcome>, String)> {
        let (outcomes, log) = self.run(project, broker, extent)?;
        let foreign = self.language.is_foreign();
        let failed: Vec<&str> = outcomes.iter().filter_map(Outcome::failure).collect();
        if !foreign || failed.is_empty() || failed.contains(&LATE) {
            return Ok((outcomes, log));
        }
        println!("{log}\nanother try, as these failed: {}", failed.join(", "));
        let (mut again, log) = self.run(project, broker, extent)?;
        let failed_before = |name: &str| failed.contains(&name);
        for outcome in &mut again {
            if outcome.failure().is_some_and(|name| !failed_before(name)) {
                println!("{} failed the second time only", outcome.name);
                outcome.ending = Ending::Passed;
            }
        }
        Ok((again, log))
    }

    fn run(
        &self,
        project: &Project,
        broker: &Broker,
        extent: Extent,
    ) -> Result<(Vec<Outcome>, String)> {
        let mut command = self.command(project, extent)?;
        let mut server = match broker {
            Broker::Leveret(binary) => {
                // RabbitMQ's own tests ask for its name, and for its tool.
                let own = self.language.is_foreign();
                let identity = if own { "rabbitmq" } else { "leveret" };
                let server = Server::leveret(binary, &self.work(project, "leveret"), identity)?;
                if matches!(self.language, Language::GoModule(_)) {
                    let api = format!("http://127.0.0.1:{}", server.api_port);
                    command.env("LEVERETCTL_URL", api);
                    command.env("RABBITMQ_RABBITMQCTL_PATH", self.rabbitmqctl(project)?);
                }
                Some(server)
            }
            Broker::RabbitMq => Some(Server::rabbitmq(&self.work(project, "rabbitmq"))?),
            Broker::Url(url) => {
                command.env("AMQP_URL", url);
                None
            }
        };
        if let Some(server) = &server {
            command.env("AMQP_URL", &server.url);
            command.env("RABBITMQ_5672_TCP", server.port.to_string());
            command.env("API_PORT", server.api_port.to_string());
            if let Some((raise, clear)) = &server.alarm {
                command.env("ALARM_RAISE", raise).env("ALARM_CLEAR", clear);
            }
        }
        if let Broker::Leveret(binary) = broker {
            command.env("LEVERET_BIN", binary);
        }
        let output = shell::capture_tests(command)?;
        let mut outcomes = self.outcomes(project, &output.text)?;
        if extent == Extent::Full {
            outcomes = self.expected(project, broker)?.judge(outcomes);
        }
        if output.late {
            outcomes.push(Outcome::new(LATE, Ending::Failed));
        }
        let mut log = output.text;
        if let Some(server) = &mut server {
            if !server.is_running() {
                outcomes.push(Outcome::new("the broker still runs", Ending::Failed));
            }
            log += &format!("\nthe broker's log:\n{}", server.log());
        }
        if outcomes.is_empty() {
            outcomes.push(Outcome::new("no test ran", Ending::Failed));
        }
        Ok((outcomes, log))
    }

    fn expected(&self, project: &Project, broker: &Broker) -> Result<Expected> {
        let table = match broker {
            Broker::Leveret(_) => "leveret",
            Broker::RabbitMq | Broker::Url(_) => "rabbitmq",
        };
        Expected::load(&self.folder(project).join("expected.toml"), table)
    }

    /// Where the suite's sources are.
    fn folder(&self, project: &Project) -> PathBuf {
        let clients = project.root.join("tests/clients");
        match self.language {
            Language::Python(folder) => clients.join("python").join(folder),
            Language::Rust { folder, .. } => clients.join(folder),
            Language::JavaScript => clients.join("javascript"),
            Language::Go => clients.join("go"),
            Language::Java => clients.join("java"),
            Language::Http(_) | Language::GoModule(_) | Language::PythonSource(_) => {
                clients.join(self.name)
            }
        }
    }

    /// A folder below `target/` for what the suite installs, builds or runs.
    fn work(&self, project: &Project, purpose: &str) -> PathBuf {
        project.target.join("clients").join(self.name).join(purpose)
    }

    /// Does ahead what need not wait for a broker: installs, and compiles.
    fn prepare(&self, project: &Project) -> Result<()> {
        let mut command = self.command(project, Extent::Full)?;
        match self.language {
            Language::Rust { test, .. } => {
                command = workspace_test(project, test)?;
                command.arg("--no-run");
            }
            Language::Go => {
                command.args(["-run", "^$"]);
            }
            Language::GoModule(_) => {
                self.rabbitmqctl(project)?;
                command.args(["-run", "^$"]);
            }
            Language::Java => {
                command.args(["-Dtest=None", "-Dsurefire.failIfNoSpecifiedTests=false"]);
            }
            Language::Python(_)
            | Language::PythonSource(_)
            | Language::JavaScript
            | Language::Http(_) => return Ok(()),
        }
        shell::require(command).map(drop)
    }

    /// Installs what the suite needs; returns the command that runs it.
    fn command(&self, project: &Project, extent: Extent) -> Result<Command> {
        match self.language {
            Language::Python(_) => self.python(project, extent),
            Language::PythonSource(source) => self.python_source(project, source),
            Language::Rust { test, .. } => workspace_test(project, test),
            Language::JavaScript => self.javascript(project),
            Language::Go => self.go(project),
            Language::Java => self.java(project),
            Language::Http(tool) => self.walk(project, tool),
            Language::GoModule(module) => self.go_module(project, module),
        }
    }

    fn python(&self, project: &Project, extent: Extent) -> Result<Command> {
        let mut command = pytest(project)?;
        command.arg(".").current_dir(self.folder(project));
        if extent == Extent::Smoke {
            command.args(["-m", "smoke"]);
        }
        Ok(command)
    }

    /// The tests in a library's source package, each run once: the second try is ours.
    fn python_source(&self, project: &Project, source: Source) -> Result<Command> {
        let mut command = pytest(project)?;
        let folder = self.work(project, source.package);
        let unpacked = install::python_source(&python(project)?, &folder, source.package)?;
        command.arg(source.tests).current_dir(unpacked);
        command.env("RABBITMQ_HOST", "127.0.0.1");
        Ok(command)
    }

    fn javascript(&self, project: &Project) -> Result<Command> {
        let folder = self.folder(project);
        let modules = install::node(&self.work(project, "npm"), &folder)?;
        let mut command = Command::new("node");
        command
            .args(["--test", "--test-reporter=tap"])
            .current_dir(folder);
        command.env("NODE_PATH", modules);
        Ok(command)
    }

    fn go(&self, project: &Project) -> Result<Command> {
        install::go(project)?;
        let mut command = Command::new("go");
        command
            .args(["test", "-v", "-count=1", "./..."])
            .current_dir(self.folder(project));
        install::go_environment(
            &mut command,
            &project.target.join("clients").join(self.name),
        );
        Ok(command)
    }

    /// The tests of a module as Go's proxy has it, copied out of the cache to be compiled.
    fn go_module(&self, project: &Project, module: &str) -> Result<Command> {
        install::go(project)?;
        let caches = project.target.join("clients/amqp091-go");
        let mut download = Command::new("go");
        install::go_environment(&mut download, &caches);
        download.args(["mod", "download", module]).current_dir("/");
        shell::require(download)?;
        let source = self.work(project, "module");
        let _ = fs::remove_dir_all(&source);
        let mut copy = Command::new("cp");
        let cached = caches.join("path/pkg/mod").join(module);
        copy.arg("-r").arg(cached).arg(&source);
        fs::create_dir_all(source.with_file_name("bin"))?;
        shell::require(copy)?;
        let mut command = Command::new("go");
        let arguments = ["test", "-v", "-count=1", "-tags", "integration", "."];
        command.args(arguments).current_dir(&source);
        install::go_environment(&mut command, &caches);
        Ok(command)
    }

    /// `leveretctl` by the name that makes it stand in for RabbitMQ's tool.
    fn rabbitmqctl(&self, project: &Project) -> Result<PathBuf> {
        // A test of the tool, which is therefore built as all tests want it.
        let mut build = workspace_test(project, "transcripts")?;
        build.arg("--no-run");
        shell::require(build)?;
        let link = self.work(project, "bin/rabbitmqctl");
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(project.target.join("debug/leveretctl"), &link)?;
        Ok(link)
    }

    fn java(&self, project: &Project) -> Result<Command> {
        install::program("javac")?;
        install::program("mvn")?;
        let build = self.work(project, "build");
        let _ = fs::remove_dir_all(build.join("surefire-reports"));
        let mut command = Command::new("mvn");
        command.args(["--batch-mode", "--no-transfer-progress", "test"]);
        command.arg(format!(
            "-Dmaven.repo.local={}",
            self.work(project, "repository").display()
        ));
        command.arg(format!("-Dleveret.build={}", build.display()));
        // It runs for seconds: compiling itself well costs more than it brings.
        command.env("MAVEN_OPTS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC");
        command.current_dir(self.folder(project));
        Ok(command)
    }

    fn walk(&self, project: &Project, tool: Tool) -> Result<Command> {
        let program = match tool {
            Tool::Script => install::rabbitmqadmin(&self.work(project, "package"))?,
            Tool::Crate(version) => install::rabbitmqadmin_crate(project, version)?,
        };
        let mut command = Command::new("sh");
        command.arg("walk.sh").current_dir(self.folder(project));
        command.env("RABBITMQADMIN", program);
        Ok(command)
    }

    fn outcomes(&self, project: &Project, text: &str) -> Result<Vec<Outcome>> {
        match self.language {
            Language::Python(_) | Language::PythonSource(_) => Ok(outcomes::pytest(text)),
            Language::Rust { .. } => Ok(outcomes::libtest(text)),
            Language::JavaScript | Language::Http(_) => Ok(outcomes::tap(text)),
            Language::Go | Language::GoModule(_) => Ok(outcomes::go(text)),
            Language::Java => junit_reports(&self.work(project, "build/surefire-reports")),
        }
    }
}

impl Language {
    /// Whether what it needs of the workspace is compiled for it.
    fn needs_cargo(self) -> bool {
        matches!(self, Self::Rust { .. } | Self::GoModule(_))
    }

    /// Whether the tests are somebody else's, unmodified.
    fn is_foreign(self) -> bool {
        matches!(self, Self::GoModule(_) | Self::PythonSource(_))
    }
}

/// The interpreter of the environment that all Python suites share.
fn python(project: &Project) -> Result<PathBuf> {
    let requirements = project.root.join("tests/clients/python/requirements.txt");
    install::python(&project.target.join("clients/python"), &requirements)
}

/// pytest in that environment; what it runs and where is still to be said.
fn pytest(project: &Project) -> Result<Command> {
    let mut command = Command::new(python(project)?);
    command.args(["-m", "pytest", "-v", "--color=no", "-p", "no:cacheprovider"]);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

/// Cargo's test of this name. It is one of the workspace's: for a package alone cargo chooses other
/// features of what it depends on, and compiles all of that once more.
fn workspace_test(project: &Project, name: &str) -> Result<Command> {
    let test = shell::cargo_test(&project.root, &["--test", name])?;
    Ok(shell::giving_way(&test, Niceness::Aside))
}

fn junit_reports(folder: &Path) -> Result<Vec<Outcome>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).context("no test report was written")? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "xml") {
            found.extend(outcomes::junit(&fs::read_to_string(path)?));
        }
    }
    Ok(found)
}
