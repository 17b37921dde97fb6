package leveret;

import static org.junit.jupiter.api.Assertions.assertEquals;

import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Delivery;
import com.rabbitmq.client.MessageProperties;
import com.rabbitmq.client.RpcClient;
import com.rabbitmq.client.RpcClientParams;
import com.rabbitmq.client.RpcServer;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** RabbitMQ's seven tutorials, as users of the Java client write them. */
@Timeout(60)
class TutorialsTest {
  @Test
  void helloWorld() throws Exception {
    try (Peer peer = new Peer()) {
      String queue = peer.queue();
      peer.publish("", queue, "Hello World!");
      assertEquals("Hello World!", peer.consume(queue).bodies(1));
    }
  }

  @Test
  void workQueues() throws Exception {
    try (Peer producer = new Peer(); Peer one = new Peer(); Peer two = new Peer()) {
      String queue = Peer.name("task");
      producer.channel.queueDeclare(queue, true, false, false, Map.of());
      for (int number = 0; number < 6; number++) {
        producer.publish("", queue, "" + number, MessageProperties.PERSISTENT_TEXT_PLAIN);
      }
      one.channel.basicQos(1);
      two.channel.basicQos(1);
      Peer.Inbox first = one.consume(queue);
      Peer.Inbox second = two.consume(queue);
      TreeSet<String> done = new TreeSet<>();
      for (int round = 0; round < 3; round++) {
        // Neither acknowledges before both have work: acknowledgements of two connections race.
        Delivery left = first.next();
        Delivery right = second.next();
        done.add(Peer.text(left.getBody()));
        done.add(Peer.text(right.getBody()));
        one.channel.basicAck(left.getEnvelope().getDeliveryTag(), false);
        two.channel.basicAck(right.getEnvelope().getDeliveryTag(), false);
      }
      assertEquals("[0, 1, 2, 3, 4, 5]", done.toString());
      producer.channel.queueDelete(queue);
    }
  }

  @Test
  void publishSubscribe() throws Exception {
    try (Peer peer = new Peer()) {
      String logs = peer.exchange("fanout");
      String one = peer.bound(logs, "");
      String two = peer.bound(logs, "");
      peer.publish(logs, "", "info");
      assertEquals("info", peer.drain(one));
      assertEquals("info", peer.drain(two));
    }
  }

  @Test
  void routing() throws Exception {
    try (Peer peer = new Peer()) {
      String logs = peer.exchange("direct");
      String errors = peer.bound(logs, "error");
      String all = peer.bound(logs, "error");
      peer.channel.queueBind(all, logs, "info");
      for (String key : new String[] {"info", "error", "debug"}) {
        peer.publish(logs, key, key);
      }
      assertEquals("error", peer.drain(errors));
      assertEquals("info error", peer.drain(all));
    }
  }

  @Test
  void topics() throws Exception {
    try (Peer peer = new Peer()) {
      String logs = peer.exchange("topic");
      String everything = peer.bound(logs, "#");
      String oneWord = peer.bound(logs, "kern.*");
      String anyWords = peer.bound(logs, "kern.#");
      for (String key : new String[] {"kern.critical", "kern", "app.critical"}) {
        peer.publish(logs, key, key);
      }
      assertEquals("kern.critical kern app.critical", peer.drain(everything));
      assertEquals("kern.critical", peer.drain(oneWord));
      assertEquals("kern.critical kern", peer.drain(anyWords));
    }
  }

  @Test
  void rpc() throws Exception {
    try (Peer server = new Peer(); Peer client = new Peer()) {
      String requests = server.queue();
      RpcServer service =
          new RpcServer(server.channel, requests) {
            @Override
            public byte[] handleCall(byte[] body, AMQP.BasicProperties reply) {
              return ("answer to " + Peer.text(body)).getBytes();
            }
          };
      Thread serving = new Thread(() -> serve(service));
      // It ends with the server's connection.
      serving.setDaemon(true);
      serving.start();
      // The library's default, and a queue of one's own.
      for (String replies : List.of("amq.rabbitmq.reply-to", client.queue())) {
        RpcClientParams parameters =
            new RpcClientParams().channel(client.channel).exchange("").routingKey(requests);
        RpcClient caller = new RpcClient(parameters.replyTo(replies).timeout(15_000));
        assertEquals("answer to seven", caller.stringCall("seven"));
        assertEquals("answer to eight", caller.stringCall("eight"));
        caller.close();
      }
    }
  }

  private static void serve(RpcServer service) {
    try {
      service.mainloop();
    } catch (Exception ended) {
      throw new IllegalStateException(ended);
    }
  }

  @Test
  void publisherConfirms() throws Exception {
    try (Peer peer = new Peer()) {
      String queue = peer.queue();
      peer.channel.confirmSelect();
      for (int number = 0; number < 500; number++) {
        peer.publish("", queue, "x");
      }
      peer.channel.waitForConfirmsOrDie(15_000);
      assertEquals(500, peer.channel.messageCount(queue));
    }
  }
}
