// RabbitMQ's seven tutorials, as amqplib's users write them.
'use strict';

const assert = require('node:assert/strict');

const { Inbox, bound, declare, drain, exchange, name, open, test } = require('./broker.js');

test('tutorial 1: hello world', async () => {
  const channel = await open();
  const queue = await declare(channel);
  channel.sendToQueue(queue, Buffer.from('Hello World!'));
  const inbox = await (await Inbox.of(channel, queue, { noAck: true })).wait(1);
  assert.equal(inbox.bodies, 'Hello World!');
});

test('tutorial 2: work queues', async () => {
  const producer = await open();
  const queue = name('task');
  await producer.assertQueue(queue, { durable: true });
  for (let number = 0; number < 6; number++) {
    producer.sendToQueue(queue, Buffer.from(`${number}`), { persistent: true });
  }
  const done = [];
  for (let index = 0; index < 2; index++) {
    const worker = await open();
    await worker.prefetch(1);
    await worker.consume(queue, (message) => {
      assert.equal(message.properties.deliveryMode, 2);
      done.push(message.content.toString());
      worker.ack(message);
    });
  }
  while (done.length < 6) await producer.checkQueue(queue);
  assert.equal(done.sort().join(' '), '0 1 2 3 4 5');
  await producer.deleteQueue(queue);
});

test('tutorial 3: publish and subscribe', async () => {
  const channel = await open();
  const logs = await exchange(channel, 'fanout');
  const queues = [await bound(channel, logs), await bound(channel, logs)];
  channel.publish(logs, '', Buffer.from('info'));
  for (const queue of queues) assert.equal(await drain(channel, queue), 'info');
});

test('tutorial 4: routing', async () => {
  const channel = await open();
  const logs = await exchange(channel, 'direct');
  const errors = await bound(channel, logs, 'error');
  const all = await bound(channel, logs, 'error');
  await channel.bindQueue(all, logs, 'info');
  for (const key of ['info', 'error', 'debug']) channel.publish(logs, key, Buffer.from(key));
  assert.equal(await drain(channel, errors), 'error');
  assert.equal(await drain(channel, all), 'info error');
});

test('tutorial 5: topics', async () => {
  const channel = await open();
  const logs = await exchange(channel, 'topic');
  const expected = {
    '#': 'kern.critical kern app.critical kern.a.b',
    'kern.*': 'kern.critical',
    '*.critical': 'kern.critical app.critical',
    'kern.#': 'kern.critical kern kern.a.b',
  };
  const queues = {};
  for (const pattern of Object.keys(expected)) {
    queues[pattern] = await bound(channel, logs, pattern);
  }
  for (const key of ['kern.critical', 'kern', 'app.critical', 'kern.a.b']) {
    channel.publish(logs, key, Buffer.from(key));
  }
  for (const [pattern, keys] of Object.entries(expected)) {
    assert.equal(await drain(channel, queues[pattern]), keys, pattern);
  }
});

test('tutorial 6: RPC', async () => {
  const [server, client] = [await open(), await open()];
  const [requests, replies] = [await declare(server), await declare(client)];
  await server.consume(requests, (message) => {
    const { replyTo, correlationId } = message.properties;
    const answer = Buffer.from(`${Number(message.content) ** 2}`);
    server.sendToQueue(replyTo, answer, { correlationId });
    server.ack(message);
  });
  const inbox = await Inbox.of(client, replies, { noAck: true });
  client.sendToQueue(requests, Buffer.from('7'), { replyTo: replies, correlationId: 'seven' });
  await inbox.wait(1);
  assert.equal(inbox.bodies, '49');
  assert.equal(inbox.messages[0].properties.correlationId, 'seven');
});

test('tutorial 6: RPC with direct reply-to', async () => {
  const [server, client] = [await open(), await open()];
  const requests = await declare(server);
  await server.consume(requests, (message) => {
    const { replyTo, correlationId } = message.properties;
    assert.match(replyTo, /^amq\.rabbitmq\.reply-to\../);
    server.sendToQueue(replyTo, Buffer.from('49'), { correlationId });
    server.ack(message);
  });
  const replyTo = 'amq.rabbitmq.reply-to';
  const inbox = await Inbox.of(client, replyTo, { noAck: true });
  client.sendToQueue(requests, Buffer.from('7'), { replyTo, correlationId: 'seven' });
  await inbox.wait(1);
  assert.equal(inbox.bodies, '49');
  assert.equal(inbox.messages[0].properties.correlationId, 'seven');
});

test('tutorial 7: publisher confirms', async () => {
  const channel = await open(true);
  const queue = await declare(channel);
  for (let number = 0; number < 500; number++) channel.sendToQueue(queue, Buffer.from('x'));
  await channel.waitForConfirms();
  assert.equal((await channel.checkQueue(queue)).messageCount, 500);
});
