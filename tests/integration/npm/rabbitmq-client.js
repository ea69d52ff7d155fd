// rabbitmq-client against the broker at process.argv[2]; prints "ok" when all is as it should be.
const assert = require('assert');
const { Connection } = require('rabbitmq-client');

async function main() {
  const rabbit = new Connection(process.argv[2]);
  rabbit.on('error', (error) => { console.error(error); process.exit(1); });

  const got = [];
  let finish;
  const finished = new Promise((done) => { finish = done; });
  const consumer = rabbit.createConsumer({
    queue: 'npm.events',
    queueOptions: { durable: false, autoDelete: true },
    qos: { prefetchCount: 5 },
    exchanges: [{ exchange: 'npm.events', type: 'topic', autoDelete: true }],
    queueBindings: [{ exchange: 'npm.events', routingKey: 'users.*' }],
  }, async (message) => { if (got.push(message.body) === 100) finish(); });
  await new Promise((done) => consumer.once('ready', done));

  const publisher = rabbit.createPublisher({ confirm: true, maxAttempts: 2 });
  for (let i = 0; i < 100; i++)
    await publisher.send({ exchange: 'npm.events', routingKey: 'users.visit' }, { id: i });
  await finished;
  assert.deepStrictEqual(got, Array.from({ length: 100 }, (_, i) => ({ id: i })));

  const server = rabbit.createConsumer({ queue: 'npm.rpc', queueOptions: { autoDelete: true } },
    async (message, reply) => { await reply(message.body * 2); });
  await new Promise((done) => server.once('ready', done));
  const client = rabbit.createRPCClient({ confirm: true });
  for (let i = 0; i < 10; i++)
    assert.strictEqual((await client.send('npm.rpc', i)).body, i * 2);

  await client.close();
  await publisher.close();
  await consumer.close();
  await server.close();
  await rabbit.close();
  console.log('ok');
}

main().catch((error) => { console.error(error); process.exit(1); });
