//! Who asks, and what their tags let them do.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::net::SocketAddr;

use crate::app::App;
use crate::problem::Problem;

/// A user that is logged in.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) name: String,
    pub(crate) tags: Vec<String>,
}

/// What an endpoint asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clearance {
    /// May use the API at all.
    Management,
    /// The same, and may enter the virtual host that the path names, or is an administrator.
    Vhost,
    /// The same, or watches over all virtual hosts.
    VhostVisible,
    /// May set policies and parameters in the virtual hosts it may enter, an administrator in all.
    Policymaker,
    /// Watches over everything.
    Monitoring,
    /// May do anything.
    Administrator,
}

impl Caller {
    /// Logs in with a request's credentials.
    pub(crate) fn of(app: &App, headers: &HeaderMap, from: SocketAddr) -> Result<Self, Problem> {
        let credentials = headers.get(AUTHORIZATION).ok_or(Problem::NoCredentials)?;
        let (name, password) = basic(credentials.as_bytes()).ok_or(Problem::BadCredentials)?;
        app.log_in(&name, &password, from.ip())
    }

    fn has(&self, tag: &str) -> bool {
        self.tags.iter().any(|own| own == tag)
    }

    pub(crate) fn is_administrator(&self) -> bool {
        self.has("administrator")
    }

    pub(crate) fn is_monitor(&self) -> bool {
        self.is_administrator() || self.has("monitoring")
    }

    pub(crate) fn is_policymaker(&self) -> bool {
        self.is_administrator() || self.has("policymaker")
    }

    fn is_manager(&self) -> bool {
        self.is_monitor() || self.is_policymaker() || self.has("management")
    }

    /// Whether lists show this caller what is in a virtual host.
    pub(crate) fn sees(&self, app: &App, vhost: &str) -> bool {
        self.is_monitor() || app.may_enter(&self.name, vhost)
    }

    /// Checks what an endpoint asks for; `vhost` is the one its path names.
    pub(crate) fn check(
        &self,
        app: &App,
        access: Clearance,
        vhost: Option<&str>,
    ) -> Result<(), Problem> {
        let refused = |text: &str| Err(Problem::NotAuthorised(text.to_owned()));
        if !self.is_manager() {
            return refused("Not management user");
        }
        match access {
            Clearance::Administrator if !self.is_administrator() => {
                return refused("Not administrator user");
            }
            Clearance::Monitoring if !self.is_monitor() => return refused("Not monitor user"),
            Clearance::Policymaker if !self.is_policymaker() => {
                return refused("User not authorised to access object");
            }
            _ => {}
        }
        // One that does not exist is not found, whoever asks.
        let Some(vhost) = vhost.filter(|name| app.broker.vhost(name).is_some()) else {
            return Ok(());
        };
        let allowed = match access {
            Clearance::Vhost | Clearance::Policymaker => {
                self.is_administrator() || app.may_enter(&self.name, vhost)
            }
            Clearance::VhostVisible => self.sees(app, vhost),
            Clearance::Management | Clearance::Monitoring | Clearance::Administrator => true,
        };
        if allowed {
            Ok(())
        } else {
            Err(Problem::Hidden)
        }
    }
}

/// The name and password of `Basic` credentials.
fn basic(credentials: &[u8]) -> Option<(String, Vec<u8>)> {
    let (scheme, rest) = credentials.split_at_checked(BASIC.len())?;
    if !scheme.eq_ignore_ascii_case(BASIC) {
        return None;
    }
    let decoded = STANDARD.decode(rest.trim_ascii()).ok()?;
    let at = decoded.iter().position(|byte| *byte == b':')?;
    let name = std::str::from_utf8(decoded.get(..at)?).ok()?;
    Some((name.to_owned(), decoded.get(at + 1..)?.to_vec()))
}

const BASIC: &[u8] = b"basic ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_credentials_are_read_and_others_are_not() {
        let encoded = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let read = |text: &str| basic(text.as_bytes());
        assert_eq!(
            read(&encoded("guest:a:b")),
            Some(("guest".into(), b"a:b".to_vec()))
        );
        assert_eq!(read(&encoded(":")), Some((String::new(), Vec::new())));
        for wrong in ["", "Basic", "Basic !!", "Bearer abc", &encoded("no colon")] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
