// amqplib against the broker at process.argv[2]; prints "ok" when all is as it should be.
const assert = require('assert');
const amqp = require('amqplib');

async function main() {
  const connection = await amqp.connect(process.argv[2]);
  const channel = await connection.createConfirmChannel();
  const { queue } = await channel.assertQueue('', { exclusive: true });
  await channel.assertExchange('npm.topic', 'topic', { durable: false, autoDelete: true });
  await channel.bindQueue(queue, 'npm.topic', 'a.#');

  for (let i = 0; i < 1000; i++)
    channel.publish('npm.topic', `a.${i}`, Buffer.from(String(i)),
      { persistent: true, headers: { i, nested: { list: [1, 'two', null] } } });
  await channel.waitForConfirms();
  assert.strictEqual((await channel.checkQueue(queue)).messageCount, 1000);

  await channel.prefetch(10);
  let next = 0;
  await new Promise((done, fail) => {
    channel.consume(queue, (message) => {
      try {
        assert.strictEqual(message.content.toString(), String(next));
        assert.strictEqual(message.fields.routingKey, `a.${next}`);
        assert.deepStrictEqual(message.properties.headers, { i: next, nested: { list: [1, 'two', null] } });
        channel.ack(message);
      } catch (error) { fail(error); }
      if (++next === 1000) done();
    });
  });

  const returned = new Promise((done) => channel.once('return', done));
  channel.publish('', 'nowhere-at-all', Buffer.from('back'), { mandatory: true });
  assert.strictEqual((await returned).content.toString(), 'back');

  const other = await connection.createChannel();
  other.on('error', () => {});
  await assert.rejects(other.checkQueue('no-such-queue'), /404/);
  await connection.close();
  console.log('ok');
}

main().catch((error) => { console.error(error); process.exit(1); });
