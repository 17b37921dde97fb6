// Returns, refusals by nack, headers, alternates and bound exchanges.
'use strict';

const assert = require('node:assert/strict');

const { bound, declare, drain, exchange, fill, open, take, test } = require('./broker.js');

function confirmed(channel, exchange, key, options = {}) {
  return new Promise((resolve) => {
    channel.publish(exchange, key, Buffer.from('x'), options, (error) => resolve(!error));
  });
}

test('a return comes before its ack', async () => {
  const channel = await open(true);
  const events = [];
  channel.on('return', (message) => events.push(message.fields.replyText));
  channel.on('ack', () => events.push('ack'));
  await confirmed(channel, '', 'nobody-is-here', { mandatory: true });
  assert.deepEqual(events, ['NO_ROUTE', 'ack']);
});

test('a full queue refuses with nack', async () => {
  const channel = await open(true);
  const queue = await declare(channel, {
    maxLength: 2, arguments: { 'x-overflow': 'reject-publish' },
  });
  const answers = [];
  for (let number = 0; number < 4; number++) answers.push(await confirmed(channel, '', queue));
  assert.deepEqual(answers, [true, true, false, false]);
  await take(channel, queue, 1);
  assert.equal(await confirmed(channel, '', queue), true);
});

test('drop-head keeps the newest', async () => {
  const channel = await open();
  const queue = await declare(channel, { maxLength: 3 });
  await fill(channel, queue, 10);
  assert.equal(await drain(channel, queue), '7 8 9');
});

test('headers exchange', async () => {
  const channel = await open();
  const matching = await exchange(channel, 'headers');
  const all = await bound(channel, matching, '', { 'x-match': 'all', a: 1, b: 'two' });
  const any = await bound(channel, matching, '', { 'x-match': 'any', a: 1, b: 'two' });
  for (const headers of [{ a: 1, b: 'two' }, { a: 1 }, { a: '1' }]) {
    channel.publish(matching, '', Buffer.from('x'), { headers });
  }
  assert.equal(await drain(channel, all), 'x');
  assert.equal(await drain(channel, any), 'x x');
});

test('alternate exchange', async () => {
  const channel = await open(true);
  const last = await exchange(channel, 'fanout');
  const first = await exchange(channel, 'direct', { alternateExchange: last });
  const lost = await bound(channel, last);
  assert.equal(await confirmed(channel, first, 'unknown', { mandatory: true }), true);
  assert.equal(await drain(channel, lost), 'x');
});

test('exchange bound to exchange', async () => {
  const channel = await open();
  const [source, middle] = [await exchange(channel, 'topic'), await exchange(channel, 'fanout')];
  await channel.bindExchange(middle, source, 'a.*');
  const queue = await bound(channel, middle);
  channel.publish(source, 'a.b', Buffer.from('yes'));
  channel.publish(source, 'b', Buffer.from('no'));
  await channel.unbindExchange(middle, source, 'a.*');
  assert.equal(await drain(channel, queue), 'yes');
});
