//! Passwords: typed without showing, or piped in; never on the command line.

use std::io::{self, BufRead as _, IsTerminal as _};

use crate::failure::{Failure, Result};

/// One password: asked for on a terminal, else the first line of standard input.
pub(crate) fn read(prompt: &str) -> Result<String> {
    if io::stdin().is_terminal() {
        return Ok(rpassword::prompt_password(prompt)?);
    }
    let mut line = String::new();
    if io::stdin().lock().read_line(&mut line)? == 0 {
        return Err(Failure::usage(
            "the password is read from standard input, which is empty",
        ));
    }
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// A new password; on a terminal it has to be typed twice.
pub(crate) fn read_new(prompt: &str) -> Result<String> {
    let password = read(prompt)?;
    if io::stdin().is_terminal() && rpassword::prompt_password("Again: ")? != password {
        return Err(Failure::usage("the two passwords differ"));
    }
    Ok(password)
}
