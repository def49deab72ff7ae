// Publishes events with amqp-connection-manager, pipelined; prints the seconds it took.
// node amqp_connection_manager.js URL QUEUE EVENTS WINDOW

const amqp = require("amqp-connection-manager");

const [url, queue, events, window] = process.argv.slice(2);
const payload = { order_id: 7, note: "x".repeat(229) };

async function main() {
  const connection = amqp.connect([url]);
  const channel = connection.createChannel({ json: true, confirm: true });
  await channel.waitForConnect();
  let left = Number(events);
  const publish = async () => {
    while (left-- > 0) {
      await channel.sendToQueue(queue, payload, { persistent: true });
    }
  };
  const began = process.hrtime.bigint();
  await Promise.all(Array.from({ length: Number(window) }, publish));
  console.log(Number(process.hrtime.bigint() - began) / 1e9);
  process.exit(0);
}

main();
