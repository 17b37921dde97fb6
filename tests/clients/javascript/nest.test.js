// NestJS microservices: handlers that acknowledge by hand, and refuse what they cannot do.
'use strict';

require('reflect-metadata');
const assert = require('node:assert/strict');
const runner = require('node:test');
const { setTimeout: sleep } = require('node:timers/promises');

const { Controller, Module } = require('@nestjs/common');
const { NestFactory } = require('@nestjs/core');
const {
  ClientProxyFactory, Ctx, EventPattern, MessagePattern, Payload, RmqRecordBuilder, Transport,
} = require('@nestjs/microservices');
const { lastValueFrom, timeout } = require('rxjs');

const { Lateness, eventually, name, open, test, url } = require('./broker.js');

const LATE_MS = 300;

const closing = [];
runner.after(() => Promise.allSettled(closing.map((one) => one.close())));

// A controller as decorators make it: `handlers` by pattern, each of data and context.
function controller(handlers, decorator) {
  class Handlers {}
  for (const [pattern, handler] of Object.entries(handlers)) {
    Handlers.prototype[pattern] = handler;
    const property = Object.getOwnPropertyDescriptor(Handlers.prototype, pattern);
    decorator(pattern)(Handlers.prototype, pattern, property);
    Payload()(Handlers.prototype, pattern, 0);
    Ctx()(Handlers.prototype, pattern, 1);
  }
  Controller()(Handlers);
  return Handlers;
}

async function serve(queue, queueOptions, { events = {}, requests = {}, prefetch = 1 }) {
  class Service {}
  const controllers = [controller(events, EventPattern), controller(requests, MessagePattern)];
  Module({ controllers })(Service);
  const options = { urls: [url], queue, queueOptions, noAck: false, prefetchCount: prefetch };
  const service = await NestFactory.createMicroservice(Service, {
    transport: Transport.RMQ, options, logger: false,
  });
  closing.push(service);
  await service.listen();
  return service;
}

async function clientOf(queue, queueOptions) {
  const options = { urls: [url], queue, queueOptions };
  const client = ClientProxyFactory.create({ transport: Transport.RMQ, options });
  closing.push(client);
  await client.connect();
  return client;
}

// A durable queue of the test's own, deleted at its end.
async function durable(t, channel, queue, options = {}) {
  await channel.assertQueue(queue, { durable: true, ...options });
  t.after(() => channel.deleteQueue(queue));
  return queue;
}

// QUEUE REASON COUNT of each kind of death, the last one first.
function deaths(message) {
  const found = message.properties.headers['x-death'] ?? [];
  return found.map((death) => `${death.queue} ${death.reason} ${death.count}`).join(', ');
}

test('nest: an event that is refused goes to the dead letters', async (t) => {
  const channel = await open();
  const cats = name('cats');
  const dead = await durable(t, channel, `${cats}_dlq`);
  const options = { durable: true, deadLetterExchange: '', deadLetterRoutingKey: dead };
  await durable(t, channel, cats, options);
  const seen = [];
  const refuse = (data, context) => {
    seen.push(data);
    context.getChannelRef().nack(context.getMessage(), false, false);
  };
  const take = (data, context) => {
    seen.push(data);
    context.getChannelRef().ack(context.getMessage());
  };
  await serve(cats, options, { events: { created: refuse, fed: take } });
  const client = await clientOf(cats, options);
  await lastValueFrom(client.emit('created', { name: 'Tom' }), { defaultValue: null });
  await lastValueFrom(client.emit('fed', { name: 'Tom' }), { defaultValue: null });
  await eventually(() => seen.length === 2);
  await eventually(async () => (await channel.checkQueue(dead)).messageCount === 1);
  const message = await channel.get(dead, { noAck: true });
  assert.deepEqual(JSON.parse(message.content), { pattern: 'created', data: { name: 'Tom' } });
  assert.equal(deaths(message), `${cats} rejected 1`);
  assert.equal((await channel.checkQueue(cats)).messageCount, 0);
});

test('nest: an event that is refused comes back after a while', async (t) => {
  const channel = await open();
  const cats = name('cats');
  const wait = await durable(t, channel, `${cats}_wait`, {
    messageTtl: 500, deadLetterExchange: '', deadLetterRoutingKey: cats,
  });
  const options = { durable: true, deadLetterExchange: '', deadLetterRoutingKey: wait };
  await durable(t, channel, cats, options);
  const seen = [];
  const lateness = new Lateness(t);
  const third = (data, context) => {
    const message = context.getMessage();
    seen.push({ at: Date.now(), deaths: deaths(message), data });
    if (seen.length < 3) context.getChannelRef().nack(message, false, false);
    else context.getChannelRef().ack(message);
  };
  await serve(cats, options, { events: { created: third } });
  const client = await clientOf(cats, options);
  await lastValueFrom(client.emit('created', 1), { defaultValue: null });
  await eventually(() => seen.length === 3);
  await sleep(700);
  assert.deepEqual(seen.map((one) => [one.data, one.deaths]), [
    [1, ''],
    [1, `${wait} expired 1, ${cats} rejected 1`],
    [1, `${wait} expired 2, ${cats} rejected 2`],
  ]);
  for (const round of [1, 2]) {
    const took = seen[round].at - seen[round - 1].at;
    assert.ok(lateness.allows(took, 500, LATE_MS), `${took} ms`);
  }
});

test('nest: who reads the dead letters can answer a request', async (t) => {
  const channel = await open();
  const cats = name('cats');
  const dead = await durable(t, channel, `${cats}_dlq`);
  const options = { durable: true, deadLetterExchange: '', deadLetterRoutingKey: dead };
  await durable(t, channel, cats, options);
  const refuse = (data, context) => {
    context.getChannelRef().nack(context.getMessage(), false, false);
    // The reply of this service never comes.
    return new Promise(() => {});
  };
  const answer = (data, context) => {
    context.getChannelRef().ack(context.getMessage());
    return `${data} was refused: ${deaths(context.getMessage())}`;
  };
  await serve(cats, options, { requests: { find: refuse } });
  await serve(dead, { durable: true }, { requests: { find: answer } });
  const client = await clientOf(cats, options);
  const reply = await lastValueFrom(client.send('find', 'Tom').pipe(timeout(20_000)));
  assert.equal(reply, `Tom was refused: ${cats} rejected 1`);
});

test('nest: priorities and expirations of records', async (t) => {
  const channel = await open();
  const cats = name('cats');
  const dead = await durable(t, channel, `${cats}_dlq`);
  const options = {
    durable: true, maxPriority: 10, deadLetterExchange: '', deadLetterRoutingKey: dead,
  };
  await durable(t, channel, cats, options);
  const client = await clientOf(cats, options);
  const emit = (data, record) => {
    const built = new RmqRecordBuilder(data).setOptions(record).build();
    return lastValueFrom(client.emit('created', built), { defaultValue: null });
  };
  // RabbitMQ looks for what has expired when it comes first, into an empty queue.
  await emit('brief', { priority: 10, expiration: '200' });
  for (const priority of [1, 9, 5]) await emit(priority, { priority });
  await sleep(400);
  const seen = [];
  const take = (data, context) => {
    seen.push(data);
    context.getChannelRef().ack(context.getMessage());
  };
  await serve(cats, options, { events: { created: take } });
  await eventually(() => seen.length === 3);
  assert.deepEqual(seen, [9, 5, 1]);
  const message = await channel.get(dead, { noAck: true });
  assert.equal(JSON.parse(message.content).data, 'brief');
  assert.equal(deaths(message), `${cats} expired 1`);
  assert.equal(message.properties.headers['x-death'][0]['original-expiration'], '200');
});

test('nest: a quorum queue bounds what is given back', async (t) => {
  const channel = await open();
  const cats = name('cats');
  const dead = await durable(t, channel, `${cats}_dlq`);
  const options = {
    durable: true,
    arguments: {
      'x-queue-type': 'quorum', 'x-delivery-limit': 2,
      'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': dead,
    },
  };
  await durable(t, channel, cats, options);
  const seen = [];
  const again = (data, context) => {
    seen.push(context.getMessage().properties.headers['x-delivery-count'] ?? 0);
    context.getChannelRef().reject(context.getMessage(), true);
  };
  await serve(cats, options, { events: { created: again } });
  const client = await clientOf(cats, options);
  await lastValueFrom(client.emit('created', 1), { defaultValue: null });
  await eventually(async () => (await channel.checkQueue(dead)).messageCount === 1);
  assert.deepEqual(seen, [0, 1, 2]);
  assert.equal(deaths(await channel.get(dead, { noAck: true })), `${cats} delivery_limit 1`);
});
