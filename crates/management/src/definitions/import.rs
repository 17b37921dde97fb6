//! Reads definitions.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use leveret_broker::{
    Broker, Parameter, Permission, Policies, Policy, PolicyKind, QueueSpec, TopicPermission, User,
    UserLimits, VhostLimits, is_queue_type, without_effect,
};
use leveret_codec::Table;
use leveret_router::{ExchangeKind, ExchangeSpec};
use serde_json::{Map, Value};

use super::export::{OPERATOR_POLICY, VHOST_LIMITS};
use super::source::{self, DefinitionsFile};
use super::told::{Listed, Problems};
use crate::amqp::json_to_table;
use crate::change::exchange_kind;
use crate::field::BodyFields;
use crate::problem::Problem;
use crate::{admin, ignored, permission, policy, queue, user, vhost};

/// Definitions as they were understood.
#[derive(Debug, Default)]
pub(crate) struct Import<'a> {
    /// Their limits are those that are given.
    pub(super) users: Vec<Item<'a, User>>,
    pub(super) vhosts: Vec<Item<'a, (String, vhost::VhostChange)>>,
    pub(super) limits: Vec<Item<'a, (String, VhostLimits)>>,
    pub(super) permissions: Vec<Item<'a, Permission>>,
    pub(super) topic_permissions: Vec<Item<'a, TopicPermission>>,
    pub(super) globals: Vec<Item<'a, (String, Value)>>,
    pub(super) policies: Vec<Item<'a, (PolicyKind, Policy)>>,
    pub(super) parameters: Vec<Item<'a, Parameter>>,
    pub(super) exchanges: Vec<Item<'a, (String, String, ExchangeSpec)>>,
    pub(super) queues: Vec<Item<'a, (String, String, QueueSpec)>>,
    pub(super) bindings: Vec<Item<'a, ImportedBinding>>,
    /// What Leveret cannot have and the request let it leave out.
    pub(super) skipped: Listed<String>,
    /// What could not be read. Where its name could, something of that name stands for it, so that
    /// what depends on it is judged by itself; then nothing of the file is applied.
    pub(super) misread: Problems,
}

/// How definitions are read.
pub(crate) struct ImportOptions<'a> {
    /// The one virtual host they are of; without it they are a cluster's.
    pub(crate) vhost: Option<&'a str>,
    /// Leaves out what Leveret cannot have, instead of refusing the file.
    pub(crate) skip_unsupported: bool,
    /// Whose queues they become.
    pub(crate) user: &'a str,
}

/// One thing of a file, and where it is there.
#[derive(Debug)]
pub(super) struct Item<'a, T> {
    section: &'static str,
    index: usize,
    /// Says what it is called, to whoever is told what is wrong with it.
    text: &'a [u8],
    pub(super) of: T,
}

impl<'a, T> Item<'a, T> {
    fn with<U>(&self, of: U) -> Item<'a, U> {
        let Self {
            section,
            index,
            text,
            ..
        } = *self;
        Item {
            section,
            index,
            text,
            of,
        }
    }

    /// What is wrong with it.
    pub(super) fn wrong(&self, reason: impl fmt::Display) -> String {
        format!("{self}: {reason}")
    }
}

impl<T> fmt::Display for Item<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = source::object(self.text).unwrap_or_default();
        let name = name_for_people(&BodyFields(&fields));
        write!(f, "{}[{}] ({name})", self.section, self.index)
    }
}

/// What an item is called, as far as its fields say.
fn name_for_people(fields: &BodyFields<'_>) -> String {
    let text = |key: &str| fields.get(key).and_then(Value::as_str);
    let name = match (
        text("name").or_else(|| text("user")),
        text("source"),
        text("destination"),
    ) {
        (Some(name), ..) => format!("'{name}'"),
        (None, Some(source), Some(destination)) => format!("'{source}' to '{destination}'"),
        _ => "no name".to_owned(),
    };
    match text("vhost") {
        None | Some("") => name,
        Some(vhost) => format!("{name} in vhost '{vhost}'"),
    }
}

/// A binding, its ends by name.
#[derive(Debug)]
pub(super) struct ImportedBinding {
    pub(super) vhost: String,
    pub(super) source: String,
    pub(super) destination: String,
    pub(super) is_queue: bool,
    pub(super) key: String,
    pub(super) arguments: Table,
}

/// Reads items of one section one by one, and tells which of them are wrong.
struct Section<'a> {
    name: &'static str,
    source: &'a DefinitionsFile<'a>,
    vhost: Option<&'a str>,
}

impl<'a> Section<'a> {
    /// Reads every item; `read` gets its fields and its virtual host. What is wrong is told, and
    /// is not among them.
    fn each<T>(
        &self,
        problems: &mut Problems,
        read: impl Fn(&BodyFields<'_>, &str) -> Result<T, Problem>,
    ) -> Vec<Item<'a, T>> {
        self.each_or(problems, read, |_, _| None)
    }

    /// The same; for what is wrong stands what `stand_in` makes of its virtual host and name.
    fn each_or<T>(
        &self,
        problems: &mut Problems,
        read: impl Fn(&BodyFields<'_>, &str) -> Result<T, Problem>,
        stand_in: impl Fn(&str, &str) -> Option<T>,
    ) -> Vec<Item<'a, T>> {
        let section = self.name;
        let mut all = Vec::new();
        let Some(list) = self.source.list(section) else {
            problems.add(format!("{section} must be a list of objects"));
            return all;
        };
        for (index, text) in list.enumerate() {
            let item = Item {
                section,
                index,
                text,
                of: (),
            };
            let one = source::object(text).and_then(|fields| {
                let fields = BodyFields(&fields);
                let vhost = match self.vhost {
                    Some(vhost) => vhost,
                    None => fields.text("vhost")?.unwrap_or_default(),
                };
                read(&fields, vhost)
            });
            match one {
                Ok(one) => all.push(item.with(one)),
                Err(problem) => {
                    problems.add(item.wrong(problem.reason()));
                    let one = self.stand_in(text, &stand_in);
                    all.extend(one.map(|one| item.with(one)));
                }
            }
        }
        all
    }

    fn stand_in<T>(&self, text: &[u8], stand_in: impl Fn(&str, &str) -> Option<T>) -> Option<T> {
        let fields = source::object(text).ok()?;
        let text = |key: &str| fields.get(key).and_then(Value::as_str);
        let name = text("name").filter(|name| !name.is_empty())?;
        stand_in(
            self.vhost.or_else(|| text("vhost")).unwrap_or_default(),
            name,
        )
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

fn name_of(fields: &BodyFields<'_>) -> Result<String, Problem> {
    fields.required_text("name").map(str::to_owned)
}

impl<'a> Import<'a> {
    /// Reads definitions. What is wrong with them is told with what only their effect shows, when
    /// they are tried out.
    pub(crate) fn parse(
        source: &'a DefinitionsFile<'a>,
        reading: &ImportOptions<'a>,
        broker: &Broker,
    ) -> Self {
        let mut problems = Problems::default();
        let section = |name| Section {
            name,
            source,
            vhost: reading.vhost,
        };
        let mut import = Self::default();
        if reading.vhost.is_none() {
            import.read_access(&section, broker, &mut problems);
        }
        let policies = section("policies");
        import.policies = policies.each(&mut problems, |fields, vhost| {
            let policy = policy::from_json(&of_vhost(vhost)?, &name_of(fields)?, fields)?;
            Ok((PolicyKind::User, policy))
        });
        let parameters = section("parameters");
        let read = parameters.each(&mut problems, |fields, vhost| {
            parameter_of(fields, of_vhost(vhost)?)
        });
        for parameter in read {
            let place = parameter.with(());
            if let Err(problem) = import.take_parameter(parameter) {
                problems.add(place.wrong(problem.reason()));
            }
        }
        import.read_topology(&section, reading.skip_unsupported, &mut problems);
        let declarer = broker.declarer(reading.user);
        for queue in &mut import.queues {
            queue.of.2.declared_by = Some(Arc::clone(&declarer));
        }
        if reading.skip_unsupported {
            import.skip_unsupported();
        }
        import.misread = problems;
        import
    }

    fn read_access(
        &mut self,
        section: &impl Fn(&'static str) -> Section<'a>,
        broker: &Broker,
        problems: &mut Problems,
    ) {
        let users = section("users");
        self.users = users.each_or(
            problems,
            |fields, _| user_of(fields, broker),
            |_, name| Some(plain_user(name)),
        );
        let vhosts = section("vhosts");
        self.vhosts = vhosts.each_or(
            problems,
            |fields, _| {
                let metadata = fields.object("metadata")?.unwrap_or(fields.0);
                let change = vhost::VhostChange::from_json(&BodyFields(metadata))?;
                Ok((name_of(fields)?, change))
            },
            |_, name| Some((name.to_owned(), vhost::VhostChange::default())),
        );
        self.limits = vhosts.each(problems, |fields, _| {
            let limits = fields.object("limits")?.map(limits_of).transpose()?;
            // A missing name is told already.
            let name = name_of(fields).unwrap_or_default();
            Ok((name, limits.unwrap_or_default()))
        });
        let permissions = section("permissions");
        self.permissions = permissions.each(problems, |fields, vhost| {
            let user = fields.required_text("user")?.to_owned();
            permission::from_json(user, of_vhost(vhost)?, fields)
        });
        let topics = section("topic_permissions");
        self.topic_permissions = topics.each(problems, |fields, vhost| {
            let user = fields.required_text("user")?.to_owned();
            permission::topic_from_json(user, of_vhost(vhost)?, fields)
        });
        let globals = section("global_parameters");
        self.globals = globals.each(problems, |fields, _| {
            Ok((name_of(fields)?, fields.require("value")?.clone()))
        });
    }

    /// Some parameters are something else: operator policies, limits of virtual hosts.
    fn take_parameter(&mut self, item: Item<'a, Parameter>) -> Result<(), Problem> {
        let parameter = &item.of;
        let value = parameter.value.as_object();
        match parameter.component.as_str() {
            OPERATOR_POLICY => {
                let fields = value;
                let fields =
                    fields.ok_or_else(|| Problem::bad("an operator policy must be an object"))?;
                let policy =
                    policy::from_json(&parameter.vhost, &parameter.name, &BodyFields(fields))?;
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

    fn read_topology(
        &mut self,
        section: &impl Fn(&'static str) -> Section<'a>,
        skip: bool,
        problems: &mut Problems,
    ) {
        let own = |name: &str| !name.is_empty() && !is_reserved(name);
        let exchanges = section("exchanges");
        let read = exchanges.each_or(
            problems,
            |fields, vhost| exchange_of(fields, vhost, skip),
            plain_exchange,
        );
        for item in read {
            let place = item.with(());
            match item.of {
                (_, name, _) if !own(&name) => {}
                (vhost, name, Some(spec)) => self.exchanges.push(place.with((vhost, name, spec))),
                _ => self.skipped.add(place.wrong("its type is not supported")),
            }
        }
        self.queues = section("queues").each_or(problems, queue_of, plain_queue);
        self.queues.retain(|item| own(&item.of.1));
        self.bindings = section("bindings").each(problems, binding_of);
        // Every queue is bound to the default exchange by its name anyway.
        self.bindings.retain(|item| !item.of.source.is_empty());
    }

    /// Takes out what Leveret cannot have; what a mistake is stays, to be refused.
    fn skip_unsupported(&mut self) {
        let skipped = &mut self.skipped;
        let mut gone = HashSet::new();
        for item in &self.queues {
            let (vhost, name, spec) = &item.of;
            let kind = queue::kind(spec);
            if !is_queue_type(kind) {
                skipped.add(item.wrong(format_args!("queue type '{kind}' is not supported")));
                gone.insert((&**vhost, &**name));
            }
        }
        self.bindings.retain(|item| {
            let binding = &item.of;
            let is_gone =
                binding.is_queue && gone.contains(&(&*binding.vhost, &*binding.destination));
            if is_gone {
                skipped.add(item.wrong("its queue is left out"));
            }
            !is_gone
        });
        drop(gone);
        self.queues
            .retain(|item| is_queue_type(queue::kind(&item.of.2)));
        self.policies.retain(|item| {
            let (kind, policy) = &item.of;
            let unknown = Policies::default().put(*kind, policy.clone()).err();
            let unknown = unknown.map(|error| error.to_string());
            let unknown = unknown.filter(|text| text.contains("not recognised policy settings"));
            if let Some(text) = &unknown {
                skipped.add(item.wrong(text.trim_end()));
            }
            unknown.is_none()
        });
        self.parameters.retain(|item| {
            let unknown = item.of.validate().err().map(|error| error.to_string());
            let component = format!("component {} not found", item.of.component);
            let unknown = unknown.is_some_and(|text| text.contains(&component));
            if unknown {
                skipped.add(item.wrong(component));
            }
            !unknown
        });
    }

    /// Bindings of exchanges that are neither in the file nor here. RabbitMQ leaves internal
    /// exchanges out of its files, and their bindings in.
    pub(super) fn leave_bindings_out(&mut self, broker: &Broker) -> Listed<String> {
        let given = self.exchanges.iter();
        let given: HashSet<_> = given.map(|item| (&*item.of.0, &*item.of.1)).collect();
        let exists = |vhost: &str, name: &str| {
            given.contains(&(vhost, name))
                || is_reserved(name)
                || broker
                    .vhost(vhost)
                    .is_some_and(|vhost| vhost.directory.read().router.exchange(name).is_some())
        };
        let mut left = Listed::<String>::default();
        self.bindings.retain(|item| {
            let binding = &item.of;
            let missing = if exists(&binding.vhost, &binding.source) {
                let destination = &binding.destination;
                let there = binding.is_queue || exists(&binding.vhost, destination);
                (!there).then_some(destination)
            } else {
                Some(&binding.source)
            };
            if let Some(name) = missing {
                left.add(item.wrong(format_args!(
                    "left out, no exchange '{name}' in vhost '{}'",
                    binding.vhost
                )));
            }
            missing.is_none()
        });
        left
    }

    /// Keys that have no effect here, by what they are set on: queues, which may be many, last.
    pub(super) fn ignored(&self) -> Listed<Value> {
        let queues = self.queues.iter().map(|item| {
            let (vhost, name, spec) = &item.of;
            ignored::row("queue", vhost, name, without_effect(&spec.arguments))
        });
        let policies = self.policies.iter().map(|item| {
            let (kind, policy) = &item.of;
            ignored::of_policy(*kind, policy)
        });
        let parameters = self.parameters.iter();
        let parameters = parameters.map(|item| ignored::of_parameter(&item.of));
        let mut ignored = Listed::<Value>::default();
        for row in parameters.chain(policies).chain(queues).flatten() {
            ignored.add(row);
        }
        ignored
    }
}

/// Whether a name is a server's to give: no import makes what has it.
pub(super) fn is_reserved(name: &str) -> bool {
    name.starts_with("amq.")
}

fn user_of(fields: &BodyFields<'_>, broker: &Broker) -> Result<User, Problem> {
    let user = user::from_json(broker, &name_of(fields)?, fields)?;
    let limits = match fields.object("limits")? {
        Some(limits) => UserLimits::parse(limits).map_err(|error| admin::refused(&error))?,
        None => UserLimits::default(),
    };
    Ok(User { limits, ..user })
}

/// Stands for a user that is misread.
fn plain_user(name: &str) -> User {
    User {
        name: name.to_owned(),
        password: None,
        tags: Vec::new(),
        limits: UserLimits::default(),
    }
}

fn limits_of(limits: &Map<String, Value>) -> Result<VhostLimits, Problem> {
    VhostLimits::parse(limits).map_err(|error| admin::refused(&error))
}

fn parameter_of(fields: &BodyFields<'_>, vhost: String) -> Result<Parameter, Problem> {
    Ok(Parameter {
        vhost,
        component: fields.required_text("component")?.to_owned(),
        name: name_of(fields)?,
        value: fields.require("value")?.clone(),
    })
}

fn arguments_of(fields: &BodyFields<'_>) -> Result<Table, Problem> {
    fields
        .object("arguments")?
        .map_or_else(|| Ok(Table::new()), json_to_table)
}

/// An exchange, without what it is where its type is not one of Leveret's and `skip` is set.
fn exchange_of(
    fields: &BodyFields<'_>,
    vhost: &str,
    skip: bool,
) -> Result<(String, String, Option<ExchangeSpec>), Problem> {
    let (vhost, name) = (of_vhost(vhost)?, name_of(fields)?);
    let kind = match exchange_kind(fields.required_text("type")?) {
        Err(_) if skip => return Ok((vhost, name, None)),
        kind => kind?,
    };
    let spec = ExchangeSpec {
        kind,
        durable: fields.flag("durable", true)?,
        auto_delete: fields.flag("auto_delete", false)?,
        internal: fields.flag("internal", false)?,
        arguments: arguments_of(fields)?,
    };
    Ok((vhost, name, Some(spec)))
}

/// Stands for an exchange that is misread: every binding fits it.
fn plain_exchange(vhost: &str, name: &str) -> Option<(String, String, Option<ExchangeSpec>)> {
    let spec = ExchangeSpec {
        kind: ExchangeKind::Fanout,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Table::new(),
    };
    let is_known = !vhost.is_empty();
    is_known.then(|| (vhost.to_owned(), name.to_owned(), Some(spec)))
}

fn binding_of(fields: &BodyFields<'_>, vhost: &str) -> Result<ImportedBinding, Problem> {
    let kind = fields.required_text("destination_type")?;
    if kind != "queue" && kind != "exchange" {
        return Err(Problem::bad(format!("unknown destination_type: {kind}")));
    }
    Ok(ImportedBinding {
        vhost: of_vhost(vhost)?,
        source: fields.required_text("source")?.to_owned(),
        destination: fields.required_text("destination")?.to_owned(),
        is_queue: kind == "queue",
        key: fields.text("routing_key")?.unwrap_or_default().to_owned(),
        arguments: arguments_of(fields)?,
    })
}

fn queue_of(fields: &BodyFields<'_>, vhost: &str) -> Result<(String, String, QueueSpec), Problem> {
    let mut arguments = arguments_of(fields)?;
    let kind = fields.text("type")?.unwrap_or("classic");
    // As an argument, `""` and `"undefined"` mean the default type.
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
        declared_by: None,
    };
    Ok((of_vhost(vhost)?, name_of(fields)?, spec))
}

/// Stands for a queue that is misread.
fn plain_queue(vhost: &str, name: &str) -> Option<(String, String, QueueSpec)> {
    let spec = QueueSpec {
        durable: true,
        auto_delete: false,
        owner: None,
        arguments: Table::new(),
        declared_by: None,
    };
    let is_known = !vhost.is_empty();
    is_known.then(|| (vhost.to_owned(), name.to_owned(), spec))
}
