//! Where the project and its build products are.

use std::path::{Path, PathBuf};

/// The project's folders.
pub(crate) struct Project {
    /// The folder of the root manifest.
    pub(crate) root: PathBuf,
    /// Cargo's target folder; everything that xtask installs or writes is in it as well.
    pub(crate) target: PathBuf,
}

impl Project {
    /// The project that this program was built from.
    pub(crate) fn here() -> Self {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = own.ancestors().nth(2).unwrap_or(own).to_path_buf();
        let target = std::env::var_os("CARGO_TARGET_DIR");
        let target = target.map_or_else(|| root.join("target"), |target| root.join(target));
        Self { root, target }
    }
}
