// Bodies, prefetch, order of what comes back, and the end of consumers.
'use strict';

const assert = require('node:assert/strict');
const crypto = require('node:crypto');

const {
  Inbox, channelOf, connect, declare, drain, eventually, fill, name, open, take, test,
} = require('./broker.js');

const FRAME = 131072 - 8;

test('bodies of every size', async () => {
  const channel = await open();
  const queue = await declare(channel);
  for (const size of [0, 1, FRAME - 1, FRAME, FRAME + 1, 2 * FRAME, 20_000_000]) {
    const sent = crypto.randomBytes(size);
    channel.sendToQueue(queue, sent);
    const received = await channel.get(queue, { noAck: true });
    assert.ok(received.content.equals(sent), `${size} bytes`);
  }
});

test('properties and headers', async () => {
  const channel = await open();
  const queue = await declare(channel);
  const headers = {
    text: 'grüße', int: -5, long: 2 ** 40, double: 2.5, yes: true, nothing: null,
    list: [1, 'two'], nested: { a: { b: 1 } },
  };
  channel.sendToQueue(queue, Buffer.from('x'), { headers, priority: 3, type: 't', appId: 'a' });
  const { properties } = await channel.get(queue, { noAck: true });
  assert.deepEqual(properties.headers, headers);
  assert.deepEqual([properties.priority, properties.type, properties.appId], [3, 't', 'a']);
});

test('two consumers alternate exactly', async () => {
  const connection = await connect();
  const [first, second] = [await channelOf(connection), await channelOf(connection)];
  const queue = await declare(first);
  const inboxes = [await Inbox.of(first, queue), await Inbox.of(second, queue)];
  await fill(first, queue, 10);
  for (const inbox of inboxes) await inbox.wait(5);
  assert.deepEqual(inboxes.map((inbox) => inbox.bodies), ['0 2 4 6 8', '1 3 5 7 9']);
});

test('prefetch bounds the unacknowledged', async () => {
  const channel = await open();
  const queue = await declare(channel);
  await channel.prefetch(3);
  const inbox = await Inbox.of(channel, queue);
  await fill(channel, queue, 10);
  await inbox.wait(3);
  await inbox.stays(3);
  channel.ack(inbox.messages[2], true);
  await inbox.wait(6);
  await inbox.stays(6);
});

test('channel-wide prefetch over two queues', async () => {
  const channel = await open();
  const [one, two] = [await declare(channel), await declare(channel)];
  await channel.prefetch(4, true);
  const [first, second] = [await Inbox.of(channel, one), await Inbox.of(channel, two)];
  await fill(channel, one, 3);
  await fill(channel, two, 3);
  await first.wait(3);
  await second.wait(1);
  await second.stays(1);
  channel.ack(first.messages[0]);
  await second.wait(2);
  await second.stays(2);
});

const GIVING_BACK = {
  'nack multiple': (channel, taken) => channel.nack(taken[2], true, true),
  reject: (channel, taken) => [1, 0, 2].forEach((index) => channel.reject(taken[index], true)),
  recover: (channel) => channel.recover(),
  'channel close': (channel) => channel.close(),
};

for (const [how, giveBack] of Object.entries(GIVING_BACK)) {
  test(`${how} gives back in order`, async () => {
    const connection = await connect();
    const [channel, other] = [await channelOf(connection), await channelOf(connection)];
    const queue = await declare(channel);
    await fill(channel, queue, 5);
    await giveBack(other, await take(other, queue, 3));
    await eventually(async () => (await channel.checkQueue(queue)).messageCount === 5);
    assert.equal(await drain(channel, queue), '0* 1* 2* 3 4');
  });
}

test('closing the connection gives back in order', async () => {
  const channel = await open();
  const queue = name('shared');
  await channel.assertQueue(queue, { durable: false });
  await fill(channel, queue, 5);
  const other = await connect();
  await take(await channelOf(other), queue, 3);
  await other.close();
  await eventually(async () => (await channel.checkQueue(queue)).messageCount === 5);
  assert.equal(await drain(channel, queue), '0* 1* 2* 3 4');
  await channel.deleteQueue(queue);
});

test('a consumer is told when its queue goes', async () => {
  const channel = await open();
  const queue = await declare(channel);
  const inbox = await Inbox.of(channel, queue);
  await channel.deleteQueue(queue);
  await inbox.wait(1);
  assert.equal(inbox.messages[0], null);
  await declare(channel);
});

test('nothing arrives after cancel', async () => {
  const channel = await open();
  const queue = await declare(channel);
  const inbox = await Inbox.of(channel, queue, { noAck: true });
  await channel.cancel(inbox.tag);
  await fill(channel, queue, 3);
  await inbox.stays(0);
  assert.equal((await channel.checkQueue(queue)).messageCount, 3);
});

test('purge and delete tell their counts', async () => {
  const channel = await open();
  const queue = await declare(channel);
  await fill(channel, queue, 5);
  assert.equal((await channel.purgeQueue(queue)).messageCount, 5);
  await fill(channel, queue, 2);
  assert.equal((await channel.deleteQueue(queue)).messageCount, 2);
});
