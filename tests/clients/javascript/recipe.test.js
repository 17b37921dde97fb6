// The client of docs/concepts/back-pressure.md, as it stands there, at a queue that is mostly full.
'use strict';

const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { after } = require('node:test');
const { setTimeout: sleep } = require('node:timers/promises');

const { eventually, name, open, test } = require('./broker.js');

const PAGE = path.join(__dirname, '../../../docs/concepts/back-pressure.md');
// 5,000 take most of the minute that a test has.
const LINES = Number(process.env.RECIPE_LINES ?? 800);
const LENGTH = 400;
const A_SECOND = 100;

test('a client that waits as told is hardly ever refused', async () => {
  const [, program] = /```javascript amqp\n(.*?)```/s.exec(fs.readFileSync(PAGE, 'utf8'));
  const channel = await open();
  const queue = name('recipe');
  const limits = { 'x-max-length': LENGTH, 'x-overflow': 'reject-publish' };
  await channel.assertQueue(queue, { arguments: { ...limits, 'x-nack-reason': 'return' } });
  const lines = Array.from({ length: LINES }, (_, number) => `order ${number}`);
  const child = spawn(process.execPath, ['-e', program], {
    env: { ...process.env, QUEUE: queue },
  });
  after(() => child.kill());
  let said = '';
  let code;
  child.stderr.on('data', (text) => { said += text; });
  child.on('close', (ended) => { code = ended; });
  child.stdin.end(lines.join('\n'));
  // It is taken from once it is full.
  await eventually(() => said);
  const received = [];
  const begun = Date.now();
  while (received.length < LINES) {
    const over = code !== undefined;
    const due = over ? LINES : ((Date.now() - begun) / 1000) * A_SECOND;
    const message = await channel.get(queue, { noAck: true });
    assert.ok(message || !over, said);
    if (message) received.push(message.content.toString());
    if (received.length >= due) await sleep(10);
  }
  while (code === undefined) await sleep(10);
  await channel.deleteQueue(queue);
  assert.deepEqual([code, received], [0, lines]);
  const refused = said.match(/refused/g)?.length ?? 0;
  assert.ok(refused > 0 && refused < 0.05 * LINES, `${refused} of ${LINES}`);
});
