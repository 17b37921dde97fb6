//! The exchange class.

use leveret_codec::{
    ExchangeBind, ExchangeBindOk, ExchangeDeclare, ExchangeDeclareOk, ExchangeDelete,
    ExchangeDeleteOk, ExchangeUnbind, ExchangeUnbindOk,
};
use leveret_router::{ExchangeKind, ExchangeSpec};

use crate::access::acting::Resource;
use crate::channel::open::OpenChannel;
use crate::context::refusal::Refusal;
use crate::vhost::binding::Binding;

/// A name as text; RabbitMQ strips line breaks from names.
pub(crate) fn name_of(bytes: &[u8], what: &'static str) -> Result<String, Refusal> {
    let name = std::str::from_utf8(bytes).map_err(|_| Refusal::NotText(what))?;
    Ok(name.replace(['\r', '\n'], ""))
}

impl OpenChannel<'_> {
    pub(crate) fn exchange_declare(
        &mut self,
        declare: &ExchangeDeclare<'_>,
    ) -> Result<(), Refusal> {
        let name = name_of(declare.exchange, "exchange name")?;
        if declare.passive {
            if name.is_empty() {
                return Err(Refusal::DefaultExchange);
            }
            self.acting().check_any(Resource::Exchange(&name))?;
            let directory = self.vhost.directory.read();
            directory
                .router
                .exchange(&name)
                .ok_or(Refusal::NoExchange(name))?;
        } else {
            let kind = name_of(declare.kind, "exchange type")?;
            let spec = ExchangeSpec {
                kind: ExchangeKind::from_name(&kind).ok_or(Refusal::UnknownExchangeType(kind))?,
                durable: declare.durable,
                auto_delete: declare.auto_delete,
                internal: declare.internal,
                arguments: declare.arguments.to_table(),
            };
            self.acting().declare_exchange(&name, &spec.arguments)?;
            self.broker
                .declare_exchange(self.vhost, &name, spec, self.effects)?;
        }
        if !declare.nowait {
            self.reply_durable(ExchangeDeclareOk {});
        }
        Ok(())
    }

    pub(crate) fn exchange_delete(&mut self, delete: &ExchangeDelete<'_>) -> Result<(), Refusal> {
        let name = name_of(delete.exchange, "exchange name")?;
        self.acting().delete_exchange(&name)?;
        self.broker
            .delete_exchange(self.vhost, &name, delete.if_unused, self.effects)?;
        if !delete.nowait {
            self.reply_durable(ExchangeDeleteOk {});
        }
        Ok(())
    }

    pub(crate) fn exchange_bind(&mut self, bind: &ExchangeBind<'_>) -> Result<(), Refusal> {
        let source = name_of(bind.source, "exchange name")?;
        let destination = name_of(bind.destination, "exchange name")?;
        let resource = Resource::Exchange(&destination);
        self.acting().bind(&source, resource, bind.routing_key)?;
        let (key, arguments) = (bind.routing_key, bind.arguments.to_table());
        let binding = Binding::of_exchange(&source, &destination, key, arguments);
        self.broker.bind(self.vhost, &binding, self.effects)?;
        if !bind.nowait {
            self.reply_durable(ExchangeBindOk {});
        }
        Ok(())
    }

    pub(crate) fn exchange_unbind(&mut self, unbind: &ExchangeUnbind<'_>) -> Result<(), Refusal> {
        let source = name_of(unbind.source, "exchange name")?;
        let destination = name_of(unbind.destination, "exchange name")?;
        let resource = Resource::Exchange(&destination);
        self.acting().bind(&source, resource, unbind.routing_key)?;
        let (key, arguments) = (unbind.routing_key, unbind.arguments.to_table());
        let binding = Binding::of_exchange(&source, &destination, key, arguments);
        self.broker.unbind(self.vhost, &binding, self.effects)?;
        if !unbind.nowait {
            self.reply_durable(ExchangeUnbindOk {});
        }
        Ok(())
    }
}
