// Connections, channels and short ways to do what most tests do.
'use strict';

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const net = require('node:net');
const runner = require('node:test');
const { setTimeout: sleep } = require('node:timers/promises');

const amqp = require('amqplib');

const url = process.env.AMQP_URL;
const PATIENCE_MS = 20_000;
const SILENCE_MS = 300;

const opened = [];
runner.after(async () => {
  await Promise.allSettled(opened.map((connection) => connection.close()));
});

async function connect(parameters = '') {
  const connection = await amqp.connect(url + parameters);
  // Without a listener an error would end the process; tests look at what they wait for.
  connection.on('error', () => {});
  opened.push(connection);
  return connection;
}

async function channelOf(connection, confirm = false) {
  const opening = confirm ? connection.createConfirmChannel() : connection.createChannel();
  const channel = await opening;
  channel.on('error', () => {});
  return channel;
}

async function open(confirm = false) {
  return channelOf(await connect(), confirm);
}

function name(stem) {
  return `js-${stem}-${crypto.randomUUID()}`;
}

// An exclusive queue with a name of the broker's choice.
async function declare(channel, options = {}) {
  return (await channel.assertQueue('', { exclusive: true, ...options })).queue;
}

// An exchange that goes with its last binding.
async function exchange(channel, kind, options = {}) {
  const declared = name(kind);
  await channel.assertExchange(declared, kind, { durable: false, autoDelete: true, ...options });
  return declared;
}

// A new queue bound to `source` with `key`.
async function bound(channel, source, key = '', headers = {}) {
  const queue = await declare(channel);
  await channel.bindQueue(queue, source, key, headers);
  return queue;
}

async function fill(channel, queue, count) {
  for (let number = 0; number < count; number++) {
    channel.sendToQueue(queue, Buffer.from(`${number}`));
  }
  await channel.checkQueue(queue);
}

// Everything ready; what was delivered before has a star.
async function drain(channel, queue) {
  const found = [];
  for (;;) {
    const message = await channel.get(queue, { noAck: true });
    if (!message) return found.join(' ');
    found.push(message.content.toString() + (message.fields.redelivered ? '*' : ''));
  }
}

async function take(channel, queue, count) {
  const found = [];
  while (found.length < count) found.push(await channel.get(queue));
  return found;
}

// A consumer's deliveries, in order.
class Inbox {
  static async of(channel, queue, options = {}) {
    const inbox = new Inbox();
    inbox.messages = [];
    const deliver = (message) => inbox.messages.push(message);
    inbox.tag = (await channel.consume(queue, deliver, options)).consumerTag;
    return inbox;
  }

  get bodies() {
    return this.messages.map((message) => message.content.toString()).join(' ');
  }

  async wait(count) {
    await eventually(() => this.messages.length >= count);
    return this;
  }

  async stays(count) {
    await sleep(SILENCE_MS);
    assert.equal(this.messages.length, count);
  }
}

async function eventually(condition) {
  const deadline = Date.now() + PATIENCE_MS;
  while (!(await condition())) {
    assert.ok(Date.now() < deadline, 'did not happen in time');
    await sleep(10);
  }
}

// How late whoever wants to run is let run on this machine, since the start.
class Lateness {
  constructor(t) {
    this.longest = 0;
    let last = Date.now();
    const timer = setInterval(() => {
      const now = Date.now();
      this.longest = Math.max(this.longest, now - last - 10);
      last = now;
    }, 10);
    t.after(() => clearInterval(timer));
  }

  // Something that takes so long is done in time, though some hops of it were late as well.
  allows(took, expected, late) {
    return took >= expected - late && took <= expected + late + 4 * this.longest;
  }
}

// A TCP proxy that a test can cut.
async function proxy() {
  const target = new URL(url);
  const pairs = new Set();
  const server = net.createServer((near) => {
    const far = net.connect(Number(target.port), target.hostname);
    for (const [source, sink] of [[near, far], [far, near]]) {
      pairs.add(source);
      source.on('error', () => {});
      source.on('close', () => sink.destroy());
      source.pipe(sink);
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = url.replace(target.host, `127.0.0.1:${server.address().port}`);
  const cut = () => {
    for (const socket of pairs) socket.destroy();
    pairs.clear();
  };
  const close = () => {
    server.close();
    cut();
  };
  return { url: address, cut, close };
}

// A test that may not hang; Node 18 has no option for that on its command line.
function test(title, body) {
  runner.test(title, { timeout: 60_000 }, body);
}

module.exports = {
  Inbox, Lateness, bound, channelOf, connect, declare, drain, eventually, exchange, fill, name,
  open, proxy, take, test, url,
};
