//! Users, permissions and virtual hosts.

use serde_json::{Value, json};

use crate::client::{Client, Request};
use crate::commands::access::{tags, with_hash};
use crate::failure::{Failure, Kind};
use crate::secrets;
use crate::shim::lists::fixed;
use crate::shim::{Outcome, Shim, Stop, exit};

/// The password: an argument, or the first line of standard input.
fn password(shim: &Shim) -> Result<String, Stop> {
    match shim.invocation.arguments.get(1) {
        Some(password) => Ok(password.clone()),
        None => Ok(secrets::read("Password: ")?),
    }
}

/// A user, or RabbitMQ's error that there is none.
fn user(shim: &Shim, name: &str) -> Result<Value, Stop> {
    shim.get(&["users", name])
        .map_err(|failure| no_user(failure, name))
}

fn no_user(failure: Failure, name: &str) -> Stop {
    match failure.kind {
        Kind::NotFound => Stop::error(exit::NO_USER, &format!("User \"{name}\" does not exist")),
        _ => failure.into(),
    }
}

fn no_vhost(failure: Failure, name: &str) -> Stop {
    match failure.kind {
        Kind::NotFound => Stop::new(exit::DATA, format!("Virtual host '{name}' does not exist")),
        _ => failure.into(),
    }
}

/// Both must be there before a permission is set or cleared.
fn both(shim: &Shim, name: &str) -> Outcome {
    user(shim, name)?;
    let vhost = shim.vhost();
    let found = shim.get(&["vhosts", vhost]);
    found.map(drop).map_err(|failure| match failure.kind {
        Kind::NotFound => Stop::error(
            exit::UNAVAILABLE,
            &format!("Virtual host '{vhost}' does not exist"),
        ),
        _ => failure.into(),
    })
}

pub(super) fn add_user(shim: &Shim) -> Outcome {
    let name = shim.argument(0);
    shim.banner(&format!("Adding user \"{name}\" ..."));
    let password = password(shim)?;
    match shim.get(&["users", name]) {
        Ok(_) => {
            let text = format!("User \"{name}\" already exists");
            return Err(Stop::error(exit::SOFTWARE, &text));
        }
        Err(failure) if failure.kind == Kind::NotFound => {}
        Err(failure) => return Err(failure.into()),
    }
    let field = if shim.invocation.has("pre-hashed-password") {
        "password_hash"
    } else {
        "password"
    };
    shim.change(&Request::put(
        &["users", name],
        json!({field: password, "tags": ""}),
    ))?;
    shim.banner(
        "Done. Don't forget to grant the user permissions to some virtual hosts! \
         See 'rabbitmqctl help set_permissions' to learn more.",
    );
    Ok(())
}

pub(super) fn delete_user(shim: &Shim) -> Outcome {
    let name = shim.argument(0);
    shim.banner(&format!("Deleting user \"{name}\" ..."));
    let deleted = shim.change(&Request::delete(&["users", name]));
    deleted.map(drop).map_err(|failure| no_user(failure, name))
}

pub(super) fn change_password(shim: &Shim) -> Outcome {
    let name = shim.argument(0);
    shim.banner(&format!("Changing password for user \"{name}\" ..."));
    let user = user(shim, name)?;
    let body = json!({"password": password(shim)?, "tags": tags(&user)});
    shim.change(&Request::put(&["users", name], body))?;
    Ok(())
}

pub(super) fn clear_password(shim: &Shim) -> Outcome {
    let name = shim.argument(0);
    shim.banner(&format!("Clearing password for user \"{name}\" ..."));
    let body = json!({"password_hash": "", "tags": tags(&user(shim, name)?)});
    shim.change(&Request::put(&["users", name], body))?;
    Ok(())
}

/// Asks who the user is, as that user, and whether the broker knows it.
pub(crate) fn is_login(shim: &Shim, name: &str, password: &str) -> Result<bool, Failure> {
    let mut settings = shim.settings.clone();
    name.clone_into(&mut settings.username);
    password.clone_into(&mut settings.password);
    let answer = Client::new(&settings)?.send(&Request::get(&["whoami"]))?;
    // A user without a tag may not use the API, but is told so by its own reason.
    let reason = answer.body["reason"].as_str().unwrap_or_default();
    match answer.status {
        200..300 => Ok(true),
        401 => Ok(reason.starts_with("Not management user")),
        status => Err(Failure::from_answer(status, &answer.body, name)),
    }
}

pub(super) fn authenticate_user(shim: &Shim) -> Outcome {
    let name = shim.argument(0);
    shim.banner(&format!("Authenticating user \"{name}\" ..."));
    if !is_login(shim, name, &password(shim)?)? {
        let text = format!(
            "Error: failed to authenticate user \"{name}\"\nuser '{name}' - invalid credentials"
        );
        return Err(Stop::error(exit::DATA, &text));
    }
    println!("Success");
    Ok(())
}

pub(super) fn set_user_tags(shim: &Shim) -> Outcome {
    let name = shim.argument(0);
    let words = &shim.invocation.arguments[1..];
    let shown = words.join(", ");
    shim.banner(&format!(
        "Setting tags for user \"{name}\" to [{shown}] ..."
    ));
    let body = with_hash(&user(shim, name)?, json!({"tags": words.join(",")}));
    shim.change(&Request::put(&["users", name], body))?;
    Ok(())
}

pub(super) fn set_permissions(shim: &Shim) -> Outcome {
    let (name, vhost) = (shim.argument(0), shim.vhost());
    shim.banner(&format!(
        "Setting permissions for user \"{name}\" in vhost \"{vhost}\" ..."
    ));
    both(shim, name)?;
    let body = json!({
        "configure": shim.argument(1),
        "write": shim.argument(2),
        "read": shim.argument(3),
    });
    shim.change(&Request::put(&["permissions", vhost, name], body))?;
    Ok(())
}

pub(super) fn clear_permissions(shim: &Shim) -> Outcome {
    let (name, vhost) = (shim.argument(0), shim.vhost());
    shim.banner(&format!(
        "Clearing permissions for user \"{name}\" in vhost \"{vhost}\" ..."
    ));
    both(shim, name)?;
    clear(shim, &["permissions", vhost, name])
}

pub(super) fn set_topic_permissions(shim: &Shim) -> Outcome {
    let (name, exchange, vhost) = (shim.argument(0), shim.argument(1), shim.vhost());
    shim.banner(&format!(
        "Setting topic permissions on \"{exchange}\" for user \"{name}\" in vhost \"{vhost}\" ..."
    ));
    both(shim, name)?;
    let body = json!({
        "exchange": exchange,
        "write": shim.argument(2),
        "read": shim.argument(3),
    });
    shim.change(&Request::put(&["topic-permissions", vhost, name], body))?;
    Ok(())
}

pub(super) fn clear_topic_permissions(shim: &Shim) -> Outcome {
    let (name, vhost) = (shim.argument(0), shim.vhost());
    let exchange = shim.invocation.arguments.get(1);
    let on = exchange
        .map(|exchange| format!(" on \"{exchange}\""))
        .unwrap_or_default();
    shim.banner(&format!(
        "Clearing topic permissions{on} for user \"{name}\" in vhost \"{vhost}\" ..."
    ));
    both(shim, name)?;
    let mut path = vec!["topic-permissions", vhost, name];
    path.extend(exchange.map(String::as_str));
    clear(shim, &path)
}

/// Clearing what is not there is done already.
fn clear(shim: &Shim, path: &[&str]) -> Outcome {
    match shim.change(&Request::delete(path)) {
        Err(failure) if failure.kind != Kind::NotFound => Err(failure.into()),
        _ => Ok(()),
    }
}

pub(super) fn add_vhost(shim: &Shim) -> Outcome {
    let name = shim.argument(0);
    shim.banner(&format!("Adding vhost \"{name}\" ..."));
    let mut body = json!({});
    for (field, option) in [
        ("description", "description"),
        ("tags", "tags"),
        ("default_queue_type", "default-queue-type"),
    ] {
        if let Some(value) = shim.invocation.option(option) {
            body[field] = value.into();
        }
    }
    shim.change(&Request::put(&["vhosts", name], body))?;
    Ok(())
}

pub(super) fn delete_vhost(shim: &Shim) -> Outcome {
    let name = shim.argument(0);
    shim.banner(&format!("Deleting vhost \"{name}\" ..."));
    let deleted = shim.change(&Request::delete(&["vhosts", name]));
    deleted.map(drop).map_err(|failure| no_vhost(failure, name))
}

pub(super) fn list_permissions(shim: &Shim) -> Outcome {
    let vhost = shim.vhost();
    shim.banner(&format!("Listing permissions for vhost \"{vhost}\" ..."));
    let rows = shim.get(&["vhosts", vhost, "permissions"]);
    let rows = rows.map_err(|failure| no_vhost(failure, vhost))?;
    fixed(shim, &rows, &["user", "configure", "write", "read"])
}

pub(super) fn list_user_permissions(shim: &Shim) -> Outcome {
    let name = shim.argument(0);
    shim.banner(&format!("Listing permissions for user \"{name}\" ..."));
    let rows = shim.get(&["users", name, "permissions"]);
    let rows = rows.map_err(|failure| no_user(failure, name))?;
    fixed(shim, &rows, &["vhost", "configure", "write", "read"])
}

pub(super) fn list_topic_permissions(shim: &Shim) -> Outcome {
    let vhost = shim.vhost();
    shim.banner(&format!(
        "Listing topic permissions for vhost \"{vhost}\" ..."
    ));
    let rows = shim.get(&["vhosts", vhost, "topic-permissions"]);
    let rows = rows.map_err(|failure| no_vhost(failure, vhost))?;
    fixed(shim, &rows, &["user", "exchange", "write", "read"])
}
