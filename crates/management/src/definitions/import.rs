//! Reads definitions.

use std::fmt;

use leveret_broker::{
    Broker, Parameter, Permission, Policy, PolicyKind, QueueSpec, TopicPermission, User,
    UserLimits, VhostLimits,
};
use leveret_codec::Table;
use leveret_router::{ExchangeKind, ExchangeSpec};
use serde_json::{Map, Value};

use super::export::{OPERATOR_POLICY, VHOST_LIMITS};
use super::source::{self, Source};
use crate::amqp::json_to_table;
use crate::field::Fields;
use crate::problem::Problem;
use crate::{admin, permission, policy, user, vhost};

/// Definitions as they were understood.
#[derive(Debug, Default)]
pub(crate) struct Import {
    /// Their limits are those that are given.
    pub(super) users: Vec<Item<User>>,
    pub(super) vhosts: Vec<Item<(String, vhost::Change)>>,
    pub(super) limits: Vec<Item<(String, VhostLimits)>>,
    pub(super) permissions: Vec<Item<Permission>>,
    pub(super) topic_permissions: Vec<Item<TopicPermission>>,
    pub(super) globals: Vec<Item<(String, Value)>>,
    pub(super) policies: Vec<Item<(PolicyKind, Policy)>>,
    pub(super) parameters: Vec<Item<Parameter>>,
    pub(super) exchanges: Vec<Item<(String, String, ExchangeSpec)>>,
    pub(super) queues: Vec<Item<(String, String, QueueSpec)>>,
    pub(super) bindings: Vec<Item<Binding>>,
}

/// One thing of a file, and where it is there.
#[derive(Debug)]
pub(super) struct Item<T> {
    section: &'static str,
    index: usize,
    pub(super) of: T,
}

impl<T> Item<T> {
    fn with<U>(&self, of: U) -> Item<U> {
        let Self { section, index, .. } = *self;
        Item { section, index, of }
    }

    /// In an import whatever is wrong is a wrong request.
    pub(super) fn wrong(&self, reason: impl fmt::Display) -> Problem {
        Problem::bad(format!("{}[{}]: {reason}", self.section, self.index))
    }
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

/// Reads items of one section one by one, and says which one is wrong.
struct Section<'a> {
    name: &'static str,
    source: &'a Source<'a>,
    vhost: Option<&'a str>,
}

impl Section<'_> {
    /// Reads every item; `read` gets its fields and its virtual host.
    fn each<T>(
        &self,
        read: impl Fn(&Fields<'_>, &str) -> Result<T, Problem>,
    ) -> Result<Vec<Item<T>>, Problem> {
        let section = self.name;
        let wrong = || Problem::bad(format!("{section} must be a list of objects"));
        let mut all = Vec::new();
        for (index, text) in self.source.list(section).ok_or_else(wrong)?.enumerate() {
            if text.first() != Some(&b'{') {
                return Err(wrong());
            }
            let item = Item {
                section,
                index,
                of: (),
            };
            let one = source::object(text).and_then(|fields| {
                let fields = Fields(&fields);
                let vhost = match self.vhost {
                    Some(vhost) => vhost,
                    None => fields.text("vhost")?.unwrap_or_default(),
                };
                read(&fields, vhost)
            });
            all.push(item.with(one.map_err(|problem| item.wrong(problem.reason()))?));
        }
        Ok(all)
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
    pub(super) fn parse(
        source: &Source<'_>,
        vhost: Option<&str>,
        broker: &Broker,
    ) -> Result<Self, Problem> {
        let section = |name| Section {
            name,
            source,
            vhost,
        };
        let mut import = Self::default();
        if vhost.is_none() {
            import.read_access(&section, broker)?;
        }
        import.policies = section("policies").each(|fields, vhost| {
            let policy = policy::from_json(&of_vhost(vhost)?, &name_of(fields)?, fields)?;
            Ok((PolicyKind::User, policy))
        })?;
        let parameters = section("parameters");
        let read = parameters.each(|fields, vhost| parameter_of(fields, of_vhost(vhost)?))?;
        for parameter in read {
            let place = parameter.with(());
            let taken = import.take_parameter(parameter);
            taken.map_err(|problem| place.wrong(problem.reason()))?;
        }
        import.read_topology(&section)?;
        Ok(import)
    }

    fn read_access<'a>(
        &mut self,
        section: &impl Fn(&'static str) -> Section<'a>,
        broker: &Broker,
    ) -> Result<(), Problem> {
        self.users = section("users").each(|fields, _| user_of(fields, broker))?;
        let vhosts = section("vhosts");
        self.vhosts = vhosts.each(|fields, _| {
            let metadata = fields.object("metadata")?.unwrap_or(fields.0);
            let change = vhost::Change::from_json(&Fields(metadata))?;
            Ok((name_of(fields)?, change))
        })?;
        self.limits = vhosts.each(|fields, _| {
            let limits = fields.object("limits")?.map(limits_of).transpose()?;
            Ok((name_of(fields)?, limits.unwrap_or_default()))
        })?;
        self.permissions = section("permissions").each(|fields, vhost| {
            let user = fields.required_text("user")?.to_owned();
            permission::from_json(user, of_vhost(vhost)?, fields)
        })?;
        self.topic_permissions = section("topic_permissions").each(|fields, vhost| {
            let user = fields.required_text("user")?.to_owned();
            permission::topic_from_json(user, of_vhost(vhost)?, fields)
        })?;
        self.globals = section("global_parameters")
            .each(|fields, _| Ok((name_of(fields)?, fields.require("value")?.clone())))?;
        Ok(())
    }

    /// Some parameters are something else: operator policies, limits of virtual hosts.
    fn take_parameter(&mut self, item: Item<Parameter>) -> Result<(), Problem> {
        let parameter = &item.of;
        let value = parameter.value.as_object();
        match parameter.component.as_str() {
            OPERATOR_POLICY => {
                let fields = value;
                let fields =
                    fields.ok_or_else(|| Problem::bad("an operator policy must be an object"))?;
                let policy = policy::from_json(&parameter.vhost, &parameter.name, &Fields(fields))?;
                self.policies
                    .push(item.with((PolicyKind::Operator, policy)));
            }
            VHOST_LIMITS => {
                let limits = value.map(limits_of).transpose()?.unwrap_or_default();
                self.limits
                    .push(item.with((parameter.vhost.clone(), limits)));
            }
            _ => self.parameters.push(item),
        }
        Ok(())
    }

    fn read_topology<'a>(
        &mut self,
        section: &impl Fn(&'static str) -> Section<'a>,
    ) -> Result<(), Problem> {
        let own = |name: &str| !name.is_empty() && !is_reserved(name);
        self.exchanges = section("exchanges").each(exchange_of)?;
        self.exchanges.retain(|item| own(&item.of.1));
        self.queues = section("queues").each(queue_of)?;
        self.queues.retain(|item| own(&item.of.1));
        self.bindings = section("bindings").each(|fields, vhost| {
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
        self.bindings.retain(|item| !item.of.source.is_empty());
        Ok(())
    }
}

/// Whether a name is a server's to give: no import makes what has it.
pub(super) fn is_reserved(name: &str) -> bool {
    name.starts_with("amq.")
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
