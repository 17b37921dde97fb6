//! Copies of the data, made while the broker serves.

use serde_json::Value;

use crate::app::BackupRefusal;
use crate::call::Call;
use crate::field::BodyFields;
use crate::problem::Problem;
use crate::reply::{Answer, Reply};

/// Seconds until another copy is made, probably.
const RETRY_AFTER_S: u32 = 1;

/// `GET /api/x/backups`.
pub(crate) fn index(call: &Call) -> Answer {
    let backups = call.app.host.backups();
    let backups = backups.map_err(|error| Problem::Internal(error.to_string()))?;
    Ok(Reply::Json(Value::Array(backups)))
}

/// `POST /api/x/backups`, with a name or without; the answer comes when the copy is complete.
pub(crate) fn create(call: &Call) -> Answer {
    let body = call.object()?;
    let fields = BodyFields(&body);
    let name = fields.text("name")?.filter(|name| !name.is_empty());
    let made = call.app.host.back_up(name).map_err(problem)?;
    Ok(Reply::Status(axum::http::StatusCode::CREATED, made))
}

fn problem(refusal: BackupRefusal) -> Problem {
    match refusal {
        BackupRefusal::Name(reason) => Problem::BadRequest(reason),
        BackupRefusal::Exists(reason) => Problem::Precondition(reason),
        BackupRefusal::Busy => Problem::Busy {
            reason: "another backup is being made".to_owned(),
            retry_after_s: RETRY_AFTER_S,
        },
        BackupRefusal::NoRoom(reason) => Problem::NoRoom(reason),
        BackupRefusal::Failed(reason) => Problem::Internal(reason),
    }
}
