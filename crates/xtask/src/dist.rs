//! The binary as it is shipped: stripped, with its debug info in a file beside it; and the check
//! that a release build stays small.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::project::Project;
use crate::report::Suite;
use crate::{install, shell};

/// A release binary above this has grown by something that nobody meant to ship.
const BYTES_MAX: u64 = 10 << 20;

/// Builds once and parts the result, so that both files belong to each other: a debugger finds
/// `leveret.debug` by itself when it lies beside `leveret`.
///
/// # Errors
/// The build fails, or `objcopy` is missing or fails.
pub(crate) fn run(project: &Project) -> Result<()> {
    install::program("objcopy")?;
    let build = [
        "build",
        "--profile",
        "profiling",
        "--locked",
        "--package",
        "leveret",
    ];
    shell::run(shell::cargo(&project.root, &build))?;
    let whole = project.target.join("profiling/leveret");
    let (binary, debug) = part(&whole, &project.target.join("dist"))?;
    let bytes = check(&binary)?;
    println!("{}: {bytes} bytes; {}", binary.display(), debug.display());
    Ok(())
}

/// Parts a binary into a stripped one and its debug info, both in a folder.
fn part(whole: &Path, folder: &Path) -> Result<(PathBuf, PathBuf)> {
    fs::create_dir_all(folder)?;
    let (binary, debug) = (folder.join("leveret"), folder.join("leveret.debug"));
    let mut keep = Command::new("objcopy");
    keep.arg("--only-keep-debug").args([whole, &debug]);
    shell::require(keep)?;
    let mut strip = Command::new("objcopy");
    strip.current_dir(folder).arg("--strip-all");
    strip.arg("--add-gnu-debuglink=leveret.debug");
    strip.args([whole, &binary]);
    shell::require(strip)?;
    Ok((binary, debug))
}

/// The check of a release build that is there.
pub(crate) fn suite(binary: &Path) -> Result<Suite> {
    let start = Instant::now();
    let bytes = check(binary)?;
    let log = format!("{bytes} bytes, {BYTES_MAX} at most");
    Ok(Suite::single("binary size", true, log, start))
}

/// The sections of a file, as a table.
fn sections(file: &Path) -> Result<String> {
    install::program("readelf")?;
    let mut readelf = Command::new("readelf");
    readelf.args(["--sections", "--wide"]).arg(file);
    shell::require(readelf)
}

/// Gives the size of a binary that may be shipped.
fn check(binary: &Path) -> Result<u64> {
    let sections = sections(binary)?;
    if let Some(section) = not_stripped(&sections) {
        bail!("the binary is not stripped: it has {section}");
    }
    let metadata = fs::metadata(binary);
    let size = metadata
        .with_context(|| format!("reading {}", binary.display()))?
        .len();
    if size > BYTES_MAX {
        bail!("the binary has {size} bytes, {BYTES_MAX} at most");
    }
    Ok(size)
}

/// A section of those that a stripped binary does not have.
fn not_stripped(sections: &str) -> Option<&str> {
    // Not `.debug_gdb_scripts`: that is the name of a script, part of what is loaded.
    let names = [".symtab", ".debug_info", ".debug_line"];
    sections
        .split_whitespace()
        .find(|word| names.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_with_names_is_not_shipped() {
        let own = std::env::current_exe().unwrap();
        let refused = check(&own).unwrap_err().to_string();
        assert!(
            refused.starts_with("the binary is not stripped"),
            "{refused}"
        );
        let stripped = "[11] .debug_gdb_scripts PROGBITS [16] .text PROGBITS [27] .gnu_debuglink";
        assert_eq!(not_stripped(stripped), None);
    }

    #[test]
    fn a_binary_is_parted_into_one_to_ship_and_one_to_debug_with() {
        let own = std::env::current_exe().unwrap();
        let folder = std::env::temp_dir().join(format!("leveret-dist-{}", std::process::id()));
        let (binary, debug) = part(&own, &folder).unwrap();
        let (shipped, kept) = (sections(&binary).unwrap(), sections(&debug).unwrap());
        assert_eq!(not_stripped(&shipped), None);
        assert!(shipped.contains(".gnu_debuglink"), "{shipped}");
        assert!(not_stripped(&kept).is_some(), "{kept}");
        // It is what it was, without the names.
        let ran = Command::new(&binary).arg("--list").output().unwrap();
        assert!(ran.status.success());
        let listed = String::from_utf8_lossy(&ran.stdout);
        assert!(listed.contains("a_binary_is_parted"), "{listed}");
        let bytes = |file: &Path| fs::metadata(file).unwrap().len();
        assert!(bytes(&binary) < bytes(&own));
        fs::remove_dir_all(&folder).unwrap();
    }
}
