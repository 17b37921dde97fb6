//! What cargo calls to compile the workspace's packages, so that what these depend on is compiled
//! once: clippy, then rustdoc with what clippy made of the dependencies; or the compiler, made to
//! count for libFuzzer what is reached.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Set where this program is the compiler: to one of these.
const VARIABLE: &str = "LEVERET_COMPILER";
const CLIPPY: &str = "clippy";
const COVERAGE: &str = "coverage";

/// What makes the compiler count edges and comparisons for libFuzzer, on the stable toolchain;
/// the latter two are the last word on what cargo says of them.
const COUNTING: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Copt-level=1",
];

/// Options of the compiler that rustdoc takes as well, in the form `--option=value`.
const SHARED: [&str; 2] = ["--edition=", "--error-format="];
/// The same with the value as the next argument.
const SHARED_WITH_NEXT: [&str; 6] = [
    "--crate-name",
    "--crate-type",
    "--cfg",
    "--check-cfg",
    "--extern",
    "-L",
];

/// Has `cargo` compile the workspace's packages with clippy, and document them.
///
/// # Errors
/// The system does not tell which program this is.
pub(crate) fn use_clippy(cargo: &mut Command) -> std::io::Result<()> {
    cargo.env("RUSTC_WORKSPACE_WRAPPER", env::current_exe()?);
    cargo.env(VARIABLE, CLIPPY);
    Ok(())
}

/// Has `cargo` compile the workspace's packages so that they count for libFuzzer what is reached.
/// Cargo tells by the compiler's name what was made by which one: `copy` is that of this program.
///
/// # Errors
/// The copy cannot be made.
pub(crate) fn use_coverage(cargo: &mut Command, copy: &Path) -> std::io::Result<()> {
    fs::copy(env::current_exe()?, copy)?;
    cargo.env("RUSTC_WORKSPACE_WRAPPER", copy);
    cargo.env(VARIABLE, COVERAGE);
    // What is counted is compiled as one unit.
    cargo.env("CARGO_INCREMENTAL", "0");
    Ok(())
}

/// Compiles if cargo calls this program as its compiler; how that ended.
pub(crate) fn called() -> Option<ExitCode> {
    let which = env::var(VARIABLE).ok()?;
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (rustc, options) = arguments.split_first()?;
    let succeeded = match which.as_str() {
        COVERAGE => succeeds(Command::new(rustc).args(options).args(COUNTING)),
        _ => lint(&arguments) && document(rustc, options),
    };
    Some(if succeeded {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn lint(arguments: &[String]) -> bool {
    succeeds(Command::new("clippy-driver").args(arguments))
}

fn document(rustc: &str, options: &[String]) -> bool {
    let of_program = env::var_os("CARGO_BIN_NAME").is_some();
    documented(options, of_program).is_none_or(|options| {
        let rustdoc = Path::new(rustc).with_file_name("rustdoc");
        succeeds(Command::new(rustdoc).args(options))
    })
}

fn succeeds(command: &mut Command) -> bool {
    match command.status() {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("{}: {error}", command.get_program().display());
            false
        }
    }
}

/// Rustdoc's options for what the compiler's name, if it is to be documented: libraries, and
/// programs where their tests are compiled, which all have.
fn documented(options: &[String], of_program: bool) -> Option<Vec<String>> {
    let tests = options.iter().any(|option| option == "--test");
    let next = |name: &str| {
        let at = options.iter().position(|option| option == name)?;
        options.get(at + 1)
    };
    let name = next("--crate-name")?;
    let kind = match next("--crate-type").map(String::as_str) {
        None if tests && of_program => "bin",
        Some("lib") if !tests => "lib",
        _ => return None,
    };
    let mut own: Vec<String> = vec!["--document-private-items".into(), "--out-dir".into()];
    // A library and a program may have the same name.
    let beside = Path::new(next("--out-dir")?).with_file_name("documented");
    own.push(beside.join(format!("{name}-{kind}")).display().to_string());
    own.push("--json=diagnostic-rendered-ansi".into());
    if tests {
        own.extend(["--crate-type", kind].map(String::from));
    }
    let mut options = options.iter();
    while let Some(option) = options.next() {
        if SHARED_WITH_NEXT.contains(&option.as_str()) {
            own.extend(
                [Some(option), options.next()]
                    .into_iter()
                    .flatten()
                    .cloned(),
            );
        } else if SHARED.iter().any(|shared| option.starts_with(shared))
            || Path::new(option)
                .extension()
                .is_some_and(|ending| ending == "rs")
        {
            own.push(option.clone());
        } else if option == "-C" || option == "--out-dir" {
            options.next();
        }
    }
    Some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_library_is_documented_with_what_it_was_compiled_with() {
        let compiled = "--crate-name codec --edition=2024 src/lib.rs --error-format=json \
             --json=artifacts --crate-type lib --emit=link -C opt-level=1 --warn=clippy::todo \
             --cfg feature=\"a\" --check-cfg cfg(test) -C metadata=1 --out-dir /t/debug/deps \
             -L dependency=/t/debug/deps --extern nom=/t/debug/deps/libnom.rmeta";
        let documented = documented(&words(compiled), false).unwrap();
        let expected = "--document-private-items --out-dir /t/debug/documented/codec-lib \
             --json=diagnostic-rendered-ansi --crate-name codec --edition=2024 src/lib.rs \
             --error-format=json --crate-type lib --cfg feature=\"a\" --check-cfg cfg(test) \
             -L dependency=/t/debug/deps --extern nom=/t/debug/deps/libnom.rmeta";
        assert_eq!(documented, words(expected));
    }

    #[test]
    fn each_library_and_each_program_is_documented_once() {
        let tests = words("--crate-name ctl src/main.rs --test --out-dir /t/deps");
        let documented_tests = documented(&tests, true).unwrap();
        assert!(
            documented_tests.ends_with(&words("--crate-type bin --crate-name ctl src/main.rs"))
        );
        assert!(!documented_tests.contains(&"--test".to_owned()));
        assert_eq!(documented(&tests, false), None);
        let program = "--crate-name ctl src/main.rs --crate-type bin --out-dir /t/deps";
        assert_eq!(documented(&words(program), true), None);
        assert_eq!(documented(&words("-vV"), false), None);
    }
}
