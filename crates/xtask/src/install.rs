//! Getting what the client suites need: runtimes from the system, libraries below `target/`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail};

use crate::project::Project;
use crate::shell::{self, Niceness};

/// The programs that tests need, and the packages of Debian that they come with.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("c++", &["g++"]),
    ("cc", &["gcc", "libc6-dev"]),
    ("curl", &["curl"]),
    ("javac", &["default-jdk-headless"]),
    ("mvn", &["maven"]),
    ("node", &["nodejs"]),
    ("npm", &["npm"]),
    ("objcopy", &["binutils"]),
    ("python3", &["python3", "python3-venv"]),
    ("readelf", &["binutils"]),
    ("valgrind", &["valgrind"]),
];

/// Held while apt runs, which refuses to run twice.
static APT: Mutex<()> = Mutex::new(());

/// What the Go clients need.
const GO_MIN: (u32, u32) = (1, 21);

/// Makes sure that every program that tests need can be run.
///
/// # Errors
/// Some are missing and cannot be installed; the text names the command to run.
pub(crate) fn programs(project: &Project) -> Result<()> {
    system_programs()?;
    go(project)
}

fn system_programs() -> Result<()> {
    let missing: Vec<_> = PROGRAMS
        .iter()
        .filter(|(name, _)| !shell::exists(name))
        .collect();
    let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
    let packages: Vec<_> = missing
        .iter()
        .flat_map(|(_, packages)| packages.iter().copied())
        .collect();
    if packages.is_empty() {
        return Ok(());
    }
    apt(&names.join(", "), &packages)
}

/// Makes sure that one of [`PROGRAMS`] can be run; as root it is installed with apt.
///
/// # Errors
/// It is missing and cannot be installed; the text names the command to run.
pub(crate) fn program(program: &str) -> Result<()> {
    if shell::exists(program) {
        return Ok(());
    }
    let known = PROGRAMS.iter().find(|(name, _)| *name == program);
    let (_, packages) = known.with_context(|| format!("`{program}` is missing"))?;
    apt(program, packages)
}

/// Makes sure that `go` can be run, of a version that is new enough; Debian's is older, so that it
/// comes from Python's registry where the system has none.
///
/// # Errors
/// Python is missing, or Go cannot be installed.
pub(crate) fn go(project: &Project) -> Result<()> {
    if go_version().is_some_and(|version| version >= GO_MIN) {
        return Ok(());
    }
    let requirements = project.root.join("tests/clients/go/requirements.txt");
    let python = python(&project.target.join("clients/go-program"), &requirements)?;
    let mut root = Command::new(python.with_file_name("go"));
    root.args(["env", "GOROOT"]);
    let root = shell::require(root)?;
    shell::use_tools(Path::new(root.trim()).join("bin"));
    Ok(())
}

/// The version of the `go` that is there, such as (1, 26).
fn go_version() -> Option<(u32, u32)> {
    let mut command = Command::new("go");
    command.arg("version");
    parse_go_version(&shell::require(command).ok()?)
}

fn parse_go_version(text: &str) -> Option<(u32, u32)> {
    let (_, version) = text.split_once(" go")?;
    let mut parts = version.split(['.', ' ']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// A Python environment with `requirements`, below `folder`; returns its interpreter.
///
/// # Errors
/// Python is missing, or a library cannot be installed.
pub(crate) fn python(folder: &Path, requirements: &Path) -> Result<PathBuf> {
    program("python3")?;
    if !succeeds(Command::new("python3").args(["-c", "import ensurepip, venv"])) {
        apt("python3 -m venv", &["python3-venv"])?;
    }
    let environment = folder.join("venv");
    let python = environment.join("bin/python");
    once(folder, &[requirements], || {
        let mut create = Command::new("python3");
        shell::require({
            create.args(["-m", "venv", "--clear"]).arg(&environment);
            create
        })?;
        let mut install = Command::new(&python);
        install.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-r",
        ]);
        install.arg(requirements);
        shell::require(install)
    })?;
    Ok(python)
}

/// A library's source package as Python's registry has it, unpacked below `folder`; returns its
/// root. `package` is `NAME==VERSION`.
///
/// # Errors
/// The registry has no such package, or it holds something else.
pub(crate) fn python_source(python: &Path, folder: &Path, package: &str) -> Result<PathBuf> {
    once(folder, &[], || {
        let mut fetch = Command::new(python);
        fetch.args(["-m", "pip", "download", "--quiet", "--no-deps"]);
        fetch.args(["--no-binary", ":all:", "--disable-pip-version-check"]);
        shell::require({
            fetch.arg(package).current_dir(folder);
            fetch
        })?;
        let mut unpack = Command::new("sh");
        unpack.args(["-c", "tar -xzf *.tar.gz"]).current_dir(folder);
        shell::require(unpack)
    })?;
    let root = folder.join(package.replace("==", "-"));
    if !root.is_dir() {
        bail!("{package} does not unpack to {}", root.display());
    }
    Ok(root)
}

/// The packages that `project/package-lock.json` pins, below `folder`; returns `node_modules`.
///
/// # Errors
/// Node is missing, or a package cannot be installed.
pub(crate) fn node(folder: &Path, project: &Path) -> Result<PathBuf> {
    program("node")?;
    program("npm")?;
    let files = ["package.json", "package-lock.json"].map(|name| project.join(name));
    once(folder, &[&files[0], &files[1]], || {
        for file in &files {
            fs::copy(file, folder.join(file.file_name().unwrap_or_default()))?;
        }
        let mut install = Command::new("npm");
        install
            .args(["ci", "--no-audit", "--no-fund"])
            .current_dir(folder);
        shell::require(install)
    })?;
    Ok(folder.join("node_modules"))
}

/// RabbitMQ's Python `rabbitmqadmin`, unpacked from Debian's package below `folder`; nothing of it
/// is installed or started.
///
/// # Errors
/// Python is missing, or the package cannot be fetched.
pub(crate) fn rabbitmqadmin(folder: &Path) -> Result<PathBuf> {
    program("python3")?;
    let unpacked = folder.join("unpacked");
    once(folder, &[], || {
        let mut fetch = Command::new("sh");
        fetch.args([
            "-c",
            "apt-get download rabbitmq-server && dpkg -x rabbitmq-server_*.deb unpacked",
        ]);
        fetch.current_dir(folder);
        shell::require(fetch)
    })?;
    let mut find = Command::new("find");
    find.arg(&unpacked)
        .args(["-path", "*/priv/www/cli/rabbitmqadmin"]);
    let found = shell::require(find)?;
    let program = found
        .lines()
        .next()
        .context("the package holds no rabbitmqadmin")?;
    Ok(PathBuf::from(program))
}

/// The `rabbitmqadmin` of RabbitMQ's crate, built once for each version: it takes minutes, so it is
/// kept in the user's cache, which outlives `target/`.
///
/// # Errors
/// It cannot be built.
pub(crate) fn rabbitmqadmin_crate(project: &Project, version: &str) -> Result<PathBuf> {
    let root = cache()?.join(format!("rabbitmqadmin-{version}"));
    let built = root.join("bin/rabbitmqadmin");
    if built.is_file() {
        return Ok(built);
    }
    program("cc")?;
    println!("building rabbitmqadmin {version} into {}", root.display());
    // How fast it runs does not matter, nor where it panics, nor the system's TLS.
    let arguments = ["install", "--debug", "--locked", "rabbitmqadmin"];
    let mut install = shell::cargo(&project.root, &arguments);
    install.args(["--no-default-features", "--version", version]);
    install.arg("--root").arg(&root);
    install.env("CARGO_PROFILE_DEV_DEBUG", "0");
    shell::require(shell::giving_way(&install, Niceness::Aside))?;
    Ok(built)
}

/// The folder with the jars of RabbitMQ's load generator, PerfTest.
///
/// # Errors
/// They cannot be fetched.
pub(crate) fn perf_test(project: &Project) -> Result<PathBuf> {
    program("javac")?;
    program("mvn")?;
    let folder = project.target.join("clients/perf-test");
    let pom = project.root.join("crates/bench/perf-test/pom.xml");
    let jars = folder.join("jars");
    once(&folder, &[&pom], || {
        let mut maven = Command::new("mvn");
        maven.args(["--batch-mode", "--no-transfer-progress", "--quiet"]);
        maven.arg("--file").arg(&pom);
        let repository = folder.join("repository");
        maven.arg(format!("-Dmaven.repo.local={}", repository.display()));
        maven.arg(format!("-DoutputDirectory={}", jars.display()));
        maven.arg("org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies");
        shell::require(maven)
    })?;
    Ok(jars)
}

/// Where this project keeps what should outlive `target/`.
fn cache() -> Result<PathBuf> {
    let named = env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty());
    let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = named.map(PathBuf::from).or_else(home);
    Ok(cache
        .context("neither XDG_CACHE_HOME nor HOME is set")?
        .join("leveret"))
}

/// Has `command`, which is Go's, keep what it fetches below `folder`. What it compiles is in the
/// user's cache, as always: its standard library takes a minute.
pub(crate) fn go_environment(command: &mut Command, folder: &Path) {
    // Without -modcacherw the cache below `target/` could not be deleted.
    command.env("GOFLAGS", "-modcacherw -mod=readonly");
    command.env("GOPATH", folder.join("path"));
}

/// Runs `install` unless it already succeeded in `folder` for the same content of `inputs`.
fn once(folder: &Path, inputs: &[&Path], install: impl Fn() -> Result<String>) -> Result<()> {
    let mut wanted = String::new();
    for input in inputs {
        let text = fs::read_to_string(input);
        wanted += &text.with_context(|| format!("reading {}", input.display()))?;
    }
    let stamp = folder.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    println!("installing into {}", folder.display());
    install()?;
    fs::write(&stamp, wanted)?;
    Ok(())
}

fn apt(what: &str, packages: &[&str]) -> Result<()> {
    let line = format!(
        "apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    );
    let root = fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt as _;
        own.uid() == 0
    });
    if !root || !shell::exists("apt-get") {
        bail!("`{what}` is missing; run: sudo {line}");
    }
    let _one = APT.lock();
    println!("installing {} with apt", packages.join(" "));
    let script = format!("apt-get update && {line}");
    let mut install = Command::new("sh");
    install
        .args(["-c", &script])
        .env("DEBIAN_FRONTEND", "noninteractive");
    shell::require(install).with_context(|| format!("`{what}` is missing; run: {line}"))?;
    Ok(())
}

fn succeeds(command: &mut Command) -> bool {
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_go_are_compared_by_number() {
        let version = |text| parse_go_version(text).unwrap();
        assert!(version("go version go1.26.8 linux/amd64") > GO_MIN);
        assert!(version("go version go1.9 linux/amd64") < GO_MIN);
        assert_eq!(parse_go_version("go version devel"), None);
    }
}
