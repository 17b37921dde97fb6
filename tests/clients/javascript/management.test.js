// Long lists of the HTTP API as Node's own client gets them, packed: they are made in pieces.
'use strict';

const assert = require('node:assert/strict');

const { name, open, test } = require('./broker.js');

const PORT = Number(process.env.API_PORT ?? 0);
// Several pieces: rows have more than 400 bytes each.
const ROWS = 300;

test('a long list comes whole when it is packed', async (context) => {
  if (PORT === 0) {
    context.skip('the environment names no port of an HTTP API');
    return;
  }
  const channel = await open();
  const stem = name('list');
  for (let number = 0; number < ROWS; number++) {
    await channel.assertQueue(`${stem}-${number}`, { exclusive: true });
  }
  const authorization = `Basic ${Buffer.from('guest:guest').toString('base64')}`;
  for (const encoding of ['gzip', 'identity']) {
    const headers = { authorization, 'accept-encoding': encoding };
    const answer = await fetch(`http://127.0.0.1:${PORT}/api/queues/%2F`, { headers });
    assert.equal(answer.status, 200);
    assert.equal(answer.headers.get('content-encoding') === 'gzip', encoding === 'gzip');
    const text = await answer.text();
    assert.ok(text.length > 100_000, `${text.length} bytes`);
    const queues = JSON.parse(text);
    assert.ok(queues.length >= ROWS, `${queues.length} of ${ROWS}`);
  }
});
