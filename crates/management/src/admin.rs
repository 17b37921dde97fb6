//! Administrative changes, and how a refused one is answered.

use leveret_broker::{Admin, AdminError, Put};

use crate::app::App;
use crate::durable;
use crate::problem::Problem;

/// Makes changes and waits until they are durable.
pub(crate) fn administer<T>(
    app: &App,
    change: impl FnOnce(&mut Admin<'_>) -> Result<T, AdminError>,
) -> Result<(), Problem> {
    put(app, change).map(drop)
}

/// The same, and gives what the change gave.
pub(crate) fn put<T>(
    app: &App,
    change: impl FnOnce(&mut Admin<'_>) -> Result<T, AdminError>,
) -> Result<T, Problem> {
    let mut admin = app.broker.administer();
    let changed = change(&mut admin).map_err(|error| refused(&error))?;
    let ticket = admin.commit();
    durable::wait(&app.broker, ticket)?;
    Ok(changed)
}

/// Whether something new was made.
pub(crate) fn is_new(put: Put) -> bool {
    put == Put::Created
}

/// How a refused change is answered.
pub(crate) fn refused(error: &AdminError) -> Problem {
    match error {
        AdminError::Missing | AdminError::NoVhost(_) => Problem::NotFound,
        AdminError::Protected(_) => Problem::Precondition(error.to_string()),
        AdminError::NoUser(_)
        | AdminError::Invalid(_)
        | AdminError::Pattern { .. }
        | AdminError::Limit(..) => Problem::BadRequest(error.to_string()),
    }
}
