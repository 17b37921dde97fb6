//! Reads definitions and puts them into force.
//!
//! They are merged: nothing is deleted, queues and exchanges that exist are kept as they are, and
//! everything else is overwritten.

use leveret_broker::{
    Admin, AdminError, Broker, Parameter, Permission, Policy, PolicyKind, QueueSpec,
    TopicPermission, User, UserLimits, Vhost, VhostLimits, VhostMetadata, Work,
};
use leveret_codec::Table;
use leveret_router::{ExchangeKind, ExchangeSpec};
use serde_json::{Map, Value};

use super::export::{OPERATOR_POLICY, VHOST_LIMITS};
use crate::amqp::json_to_table;
use crate::field::Fields;
use crate::problem::Problem;
use crate::{admin, durable, permission, policy, user, vhost};

/// Definitions as they were understood.
#[derive(Debug, Default)]
pub(crate) struct Import {
    pub(super) users: Vec<User>,
    pub(super) vhosts: Vec<(String, Option<VhostMetadata>, Option<VhostLimits>)>,
    pub(super) permissions: Vec<Permission>,
    pub(super) topic_permissions: Vec<TopicPermission>,
    pub(super) globals: Vec<(String, Value)>,
    pub(super) policies: Vec<(PolicyKind, Policy)>,
    pub(super) parameters: Vec<Parameter>,
    pub(super) exchanges: Vec<(String, String, ExchangeSpec)>,
    pub(super) queues: Vec<(String, String, QueueSpec)>,
    pub(super) bindings: Vec<Binding>,
}

/// A binding, its ends by name.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) vhost: String,
    pub(super) source: String,
    pub(super) destination: String,
    pub(super) is_queue: bool,
    pub(super) key: String,
    pub(super) arguments: Table,
}

/// Reads items of one section, and says which one is wrong.
struct Section<'a> {
    name: &'static str,
    items: Vec<&'a Map<String, Value>>,
    vhost: Option<&'a str>,
}

impl<'a> Section<'a> {
    fn of(
        definitions: &'a Map<String, Value>,
        name: &'static str,
        vhost: Option<&'a str>,
    ) -> Result<Self, Problem> {
        let wrong = || Problem::bad(format!("{name} must be a list of objects"));
        let items = match definitions.get(name) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(list)) => {
                let objects = list.iter().map(Value::as_object);
                objects.collect::<Option<Vec<_>>>().ok_or_else(wrong)?
            }
            Some(_) => return Err(wrong()),
        };
        Ok(Self { name, items, vhost })
    }

    /// Reads every item; `read` gets its fields and its virtual host.
    fn each<T>(
        &self,
        mut read: impl FnMut(&Fields<'_>, &str) -> Result<T, Problem>,
    ) -> Result<Vec<T>, Problem> {
        let mut all = Vec::with_capacity(self.items.len());
        for (index, item) in self.items.iter().enumerate() {
            let fields = Fields(item);
            let vhost = match self.vhost {
                Some(vhost) => Ok(vhost),
                None => fields.text("vhost").map(Option::unwrap_or_default),
            };
            let one = vhost.and_then(|vhost| read(&fields, vhost));
            all.push(one.map_err(|problem| self.at(index, &problem))?);
        }
        Ok(all)
    }

    fn at(&self, index: usize, problem: &Problem) -> Problem {
        let body = problem.body();
        let reason = body["reason"].as_str().unwrap_or_default();
        Problem::bad(format!("{}[{index}]: {reason}", self.name))
    }
}

/// A cluster's items say which virtual host they are of.
fn of_vhost(vhost: &str) -> Result<String, Problem> {
    if vhost.is_empty() {
        let reason = "no virtual host: definitions of a single virtual host go to \
                      /api/definitions/{vhost}";
        return Err(Problem::bad(reason));
    }
    Ok(vhost.to_owned())
}

fn name_of(fields: &Fields<'_>) -> Result<String, Problem> {
    fields.required_text("name").map(str::to_owned)
}

impl Import {
    /// Reads definitions: a cluster's, or with `vhost` those of one virtual host.
    pub(crate) fn parse(
        definitions: &Value,
        vhost: Option<&str>,
        broker: &Broker,
    ) -> Result<Self, Problem> {
        let Value::Object(definitions) = definitions else {
            return Err(Problem::bad("definitions must be an object"));
        };
        let section = |name| Section::of(definitions, name, vhost);
        let mut import = Self::default();
        if vhost.is_none() {
            import.read_access(&section, broker)?;
        }
        import.policies = section("policies")?.each(|fields, vhost| {
            let policy = policy::from_json(&of_vhost(vhost)?, &name_of(fields)?, fields)?;
            Ok((PolicyKind::User, policy))
        })?;
        let parameters = section("parameters")?;
        let read = parameters.each(|fields, vhost| parameter_of(fields, of_vhost(vhost)?))?;
        for parameter in read {
            import.take_parameter(parameter)?;
        }
        import.read_topology(&section)?;
        Ok(import)
    }

    fn read_access<'a>(
        &mut self,
        section: &impl Fn(&'static str) -> Result<Section<'a>, Problem>,
        broker: &Broker,
    ) -> Result<(), Problem> {
        self.users = section("users")?.each(|fields, _| user_of(fields, broker))?;
        self.vhosts = section("vhosts")?.each(|fields, _| {
            let metadata = fields.object("metadata")?.unwrap_or(fields.0);
            let metadata = vhost::metadata_from_json(&Fields(metadata), VhostMetadata::default())?;
            let limits = fields.object("limits")?.map(limits_of).transpose()?;
            Ok((name_of(fields)?, Some(metadata), limits))
        })?;
        self.permissions = section("permissions")?.each(|fields, vhost| {
            let user = fields.required_text("user")?.to_owned();
            permission::from_json(user, of_vhost(vhost)?, fields)
        })?;
        self.topic_permissions = section("topic_permissions")?.each(|fields, vhost| {
            let user = fields.required_text("user")?.to_owned();
            permission::topic_from_json(user, of_vhost(vhost)?, fields)
        })?;
        self.globals = section("global_parameters")?
            .each(|fields, _| Ok((name_of(fields)?, fields.require("value")?.clone())))?;
        Ok(())
    }

    /// Some parameters are something else: operator policies, limits of virtual hosts.
    fn take_parameter(&mut self, parameter: Parameter) -> Result<(), Problem> {
        match parameter.component.as_str() {
            OPERATOR_POLICY => {
                let fields = parameter.value.as_object();
                let fields =
                    fields.ok_or_else(|| Problem::bad("an operator policy must be an object"))?;
                let policy = policy::from_json(&parameter.vhost, &parameter.name, &Fields(fields))?;
                self.policies.push((PolicyKind::Operator, policy));
            }
            VHOST_LIMITS => {
                let limits = parameter.value.as_object();
                let limits = limits.map(limits_of).transpose()?.unwrap_or_default();
                self.vhosts.push((parameter.vhost, None, Some(limits)));
            }
            _ => self.parameters.push(parameter),
        }
        Ok(())
    }

    fn read_topology<'a>(
        &mut self,
        section: &impl Fn(&'static str) -> Result<Section<'a>, Problem>,
    ) -> Result<(), Problem> {
        let own = |name: &str| !name.is_empty() && !name.starts_with("amq.");
        self.exchanges = section("exchanges")?.each(exchange_of)?;
        self.exchanges.retain(|(_, name, _)| own(name));
        self.queues = section("queues")?.each(queue_of)?;
        self.queues.retain(|(_, name, _)| own(name));
        self.bindings = section("bindings")?.each(|fields, vhost| {
            let kind = fields.required_text("destination_type")?;
            if kind != "queue" && kind != "exchange" {
                return Err(Problem::bad(format!("unknown destination_type: {kind}")));
            }
            Ok(Binding {
                vhost: of_vhost(vhost)?,
                source: fields.required_text("source")?.to_owned(),
                destination: fields.required_text("destination")?.to_owned(),
                is_queue: kind == "queue",
                key: fields.text("routing_key")?.unwrap_or_default().to_owned(),
                arguments: arguments_of(fields)?,
            })
        })?;
        // Every queue is bound to the default exchange by its name anyway.
        self.bindings.retain(|binding| !binding.source.is_empty());
        Ok(())
    }

    /// Puts everything into force, and waits until it is durable.
    pub(crate) fn apply(&self, broker: &Broker) -> Result<(), Problem> {
        let mut admin = broker.administer();
        self.apply_access(&mut admin)
            .map_err(|error| admin::refused(&error))?;
        let ticket = admin.commit();
        durable::wait(broker, ticket)?;
        let mut work = Work::default();
        self.apply_topology(broker, &mut work)?;
        durable::finish(broker, &mut work)
    }

    fn apply_access(&self, admin: &mut Admin<'_>) -> Result<(), AdminError> {
        for user in &self.users {
            admin.put_user(user.clone())?;
        }
        for (name, metadata, limits) in &self.vhosts {
            if let Some(metadata) = metadata {
                admin.put_vhost(name, metadata.clone())?;
            }
            let Some(limits) = limits else { continue };
            let limits = [
                ("max-connections", limits.max_connections),
                ("max-queues", limits.max_queues),
            ];
            for (limit, value) in limits {
                if let Some(value) = value {
                    admin.set_vhost_limit(name, limit, &value.into())?;
                }
            }
        }
        for permission in &self.permissions {
            admin.put_permission(permission.clone())?;
        }
        for permission in &self.topic_permissions {
            admin.put_topic_permission(permission.clone())?;
        }
        for (name, value) in &self.globals {
            admin.put_global_parameter(name, value.clone())?;
        }
        for (kind, policy) in &self.policies {
            admin.put_policy(*kind, policy.clone())?;
        }
        for parameter in &self.parameters {
            admin.put_parameter(parameter.clone())?;
        }
        Ok(())
    }

    fn apply_topology(&self, broker: &Broker, work: &mut Work) -> Result<(), Problem> {
        for (vhost, name, spec) in &self.exchanges {
            let vhost = vhost_named(broker, vhost)?;
            if vhost.directory.read().router.exchange(name).is_none() {
                let declared = broker.declare_exchange(&vhost, name, spec.clone(), work);
                declared.map_err(|refusal| about(refusal, &vhost))?;
            }
        }
        for (vhost, name, spec) in &self.queues {
            let vhost = vhost_named(broker, vhost)?;
            if vhost.queue(name).is_none() {
                let declared = broker.declare_queue(&vhost, name, spec.clone(), work);
                declared.map_err(|refusal| about(refusal, &vhost))?;
            }
        }
        for binding in &self.bindings {
            let vhost = vhost_named(broker, &binding.vhost)?;
            let binding = binding.in_vhost(&vhost)?;
            let bound = broker.bind(&vhost, &binding, work);
            bound.map_err(|refusal| about(refusal, &vhost))?;
        }
        Ok(())
    }
}

impl Binding {
    fn in_vhost(&self, vhost: &Vhost) -> Result<leveret_broker::Binding, Problem> {
        let (source, key) = (&self.source, self.key.as_bytes());
        let (destination, arguments) = (&self.destination, self.arguments.clone());
        if !self.is_queue {
            let binding = leveret_broker::Binding::of_exchange(source, destination, key, arguments);
            return Ok(binding);
        }
        let cell = vhost.queue(destination).ok_or_else(|| {
            Problem::bad(format!(
                "no queue '{destination}' in vhost '{}'",
                vhost.name
            ))
        })?;
        let binding = leveret_broker::Binding::of_queue(source, &cell, key, arguments);
        Ok(binding)
    }
}

/// In an import also what does not exist is a wrong request.
fn about(refusal: leveret_broker::Refusal, vhost: &Vhost) -> Problem {
    match Problem::refused(refusal.clone(), &vhost.name) {
        Problem::NotFound => Problem::bad(match refusal {
            leveret_broker::Refusal::NoExchange(name) => {
                format!("no exchange '{name}' in vhost '{}'", vhost.name)
            }
            other => format!("{other:?}"),
        }),
        problem => problem,
    }
}

fn vhost_named(broker: &Broker, name: &str) -> Result<std::sync::Arc<Vhost>, Problem> {
    broker
        .vhost(name)
        .ok_or_else(|| Problem::bad(format!("no such vhost: {name}")))
}

fn user_of(fields: &Fields<'_>, broker: &Broker) -> Result<User, Problem> {
    let user = user::from_json(broker, &name_of(fields)?, fields)?;
    let limits = match fields.object("limits")? {
        Some(limits) => UserLimits::parse(limits).map_err(|error| admin::refused(&error))?,
        None => UserLimits::default(),
    };
    Ok(User { limits, ..user })
}

fn limits_of(limits: &Map<String, Value>) -> Result<VhostLimits, Problem> {
    VhostLimits::parse(limits).map_err(|error| admin::refused(&error))
}

fn parameter_of(fields: &Fields<'_>, vhost: String) -> Result<Parameter, Problem> {
    Ok(Parameter {
        vhost,
        component: fields.required_text("component")?.to_owned(),
        name: name_of(fields)?,
        value: fields.require("value")?.clone(),
    })
}

fn arguments_of(fields: &Fields<'_>) -> Result<Table, Problem> {
    fields
        .object("arguments")?
        .map_or_else(|| Ok(Table::new()), json_to_table)
}

fn exchange_of(
    fields: &Fields<'_>,
    vhost: &str,
) -> Result<(String, String, ExchangeSpec), Problem> {
    let kind = fields.text("type")?.unwrap_or("direct");
    let spec = ExchangeSpec {
        kind: ExchangeKind::from_name(kind)
            .ok_or_else(|| Problem::bad(format!("unknown exchange type '{kind}'")))?,
        durable: fields.flag("durable", true)?,
        auto_delete: fields.flag("auto_delete", false)?,
        internal: fields.flag("internal", false)?,
        arguments: arguments_of(fields)?,
    };
    Ok((of_vhost(vhost)?, name_of(fields)?, spec))
}

fn queue_of(fields: &Fields<'_>, vhost: &str) -> Result<(String, String, QueueSpec), Problem> {
    let mut arguments = arguments_of(fields)?;
    let kind = fields.text("type")?.unwrap_or("classic");
    if kind != "classic" && arguments.get(b"x-queue-type").is_none() {
        arguments.insert(
            "x-queue-type",
            leveret_codec::Value::LongString(kind.into()),
        );
    }
    let spec = QueueSpec {
        durable: fields.flag("durable", true)?,
        auto_delete: fields.flag("auto_delete", false)?,
        owner: None,
        arguments,
    };
    Ok((of_vhost(vhost)?, name_of(fields)?, spec))
}
