// Refusals, negotiation, blocking, and coming back after a loss.
'use strict';

const assert = require('node:assert/strict');
const { execSync } = require('node:child_process');
const { once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');

const amqp = require('amqplib');

const {
  channelOf, connect, declare, drain, eventually, exchange, fill, name, open, proxy, take, test,
  url,
} = require('./broker.js');

// The error with which the broker closed the channel.
async function refusal(channel, act) {
  const closed = once(channel, 'error');
  await Promise.resolve(act()).catch(() => {});
  const [error] = await closed;
  return [error.code, error.message];
}

function hasText([code, message], expectedCode, text) {
  assert.equal(code, expectedCode);
  assert.ok(message.includes(text), message);
}

test('a missing queue closes the channel only', async () => {
  const connection = await connect();
  const channel = await channelOf(connection);
  const queue = name('none');
  const closed = await refusal(channel, () => channel.checkQueue(queue));
  hasText(closed, 404, `NOT_FOUND - no queue '${queue}' in vhost '/'`);
  await declare(await channelOf(connection));
});

test('a missing exchange closes the channel', async () => {
  const channel = await open();
  const missing = name('none');
  const closed = await refusal(channel, () => channel.publish(missing, 'k', Buffer.from('x')));
  hasText(closed, 404, `NOT_FOUND - no exchange '${missing}' in vhost '/'`);
});

test('an exclusive queue is locked for others', async () => {
  const queue = await declare(await open());
  const other = await open();
  const closed = await refusal(other, () => other.purgeQueue(queue));
  const text = `cannot obtain exclusive access to locked queue '${queue}' in vhost '/'`;
  hasText(closed, 405, `RESOURCE_LOCKED - ${text}`);
});

test('a different redeclaration is refused', async () => {
  const channel = await open();
  const direct = await exchange(channel, 'direct');
  const closed = await refusal(channel, () => (
    channel.assertExchange(direct, 'topic', { durable: false, autoDelete: true })));
  const text = `inequivalent arg 'type' for exchange '${direct}' in vhost '/': `;
  hasText(closed, 406, `${text}received 'topic' but current is 'direct'`);
});

test('a wrong password is refused', async () => {
  const wrong = url.replace('guest:guest@', 'guest:wrong@');
  await assert.rejects(amqp.connect(wrong), /403 \(ACCESS-REFUSED\)|ACCESS_REFUSED/);
});

test('small frames and heartbeats', async () => {
  const connection = await connect('?frameMax=4096&heartbeat=1');
  const channel = await channelOf(connection);
  const queue = await declare(channel);
  channel.sendToQueue(queue, Buffer.alloc(100_000));
  await sleep(3000);
  assert.equal((await channel.get(queue)).content.length, 100_000);
});

test('a cut connection is replaced', async () => {
  const relay = await proxy();
  const connection = await amqp.connect(relay.url);
  connection.on('error', () => {});
  // Not `once`, which fails at the error that comes first.
  const closed = new Promise((resolve) => connection.on('close', resolve));
  const channel = await channelOf(connection);
  const queue = name('kept');
  await channel.assertQueue(queue, { durable: false });
  await fill(channel, queue, 3);
  await take(channel, queue, 2);
  relay.cut();
  await closed;
  const again = await amqp.connect(relay.url);
  const successor = await channelOf(again);
  await eventually(async () => (await successor.checkQueue(queue)).messageCount === 3);
  assert.equal(await drain(successor, queue), '0* 1* 2');
  await successor.deleteQueue(queue);
  await again.close();
  relay.close();
});

test('blocked and unblocked', async (context) => {
  const { ALARM_RAISE: raise, ALARM_CLEAR: clear } = process.env;
  if (!raise || !clear) {
    context.skip('the environment names no command that raises an alarm');
    return;
  }
  const connection = await connect();
  const channel = await channelOf(connection);
  const blocked = once(connection, 'blocked');
  execSync(raise);
  try {
    channel.publish('', 'nowhere', Buffer.from('x'));
    await blocked;
  } finally {
    const unblocked = once(connection, 'unblocked');
    execSync(clear);
    await unblocked;
  }
});
