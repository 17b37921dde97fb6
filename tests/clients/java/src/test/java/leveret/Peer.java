package leveret;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.Delivery;
import com.rabbitmq.client.GetResponse;
import com.rabbitmq.client.ShutdownSignalException;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Callable;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** A connection with one channel and short ways to do what most tests do. */
final class Peer implements AutoCloseable {
  private static final long PATIENCE_MS = 20_000;
  private static final long SILENCE_MS = 300;

  final Connection connection;
  final Channel channel;

  Peer() throws Exception {
    this(factory());
  }

  Peer(ConnectionFactory factory) throws Exception {
    connection = factory.newConnection();
    channel = connection.createChannel();
  }

  static ConnectionFactory factory() throws Exception {
    ConnectionFactory factory = new ConnectionFactory();
    factory.setUri(System.getenv("AMQP_URL"));
    factory.setAutomaticRecoveryEnabled(false);
    return factory;
  }

  static String name(String stem) {
    return "java-" + stem + "-" + UUID.randomUUID();
  }

  @Override
  public void close() throws Exception {
    if (connection.isOpen()) {
      connection.close();
    }
  }

  /** An exclusive queue with a name of the broker's choice. */
  String queue(Map<String, Object> arguments) throws IOException {
    return channel.queueDeclare("", false, true, false, arguments).getQueue();
  }

  String queue() throws IOException {
    return queue(Map.of());
  }

  /** An exchange that goes with its last binding. */
  String exchange(String kind, Map<String, Object> arguments) throws IOException {
    String exchange = name(kind);
    channel.exchangeDeclare(exchange, kind, false, true, arguments);
    return exchange;
  }

  String exchange(String kind) throws IOException {
    return exchange(kind, Map.of());
  }

  /** A new queue bound to an exchange. */
  String bound(String exchange, String key, Map<String, Object> arguments) throws IOException {
    String queue = queue();
    channel.queueBind(queue, exchange, key, arguments);
    return queue;
  }

  String bound(String exchange, String key) throws IOException {
    return bound(exchange, key, Map.of());
  }

  void publish(String exchange, String key, String body) throws IOException {
    publish(exchange, key, body, null);
  }

  void publish(String exchange, String key, String body, AMQP.BasicProperties properties)
      throws IOException {
    channel.basicPublish(exchange, key, properties, body.getBytes(StandardCharsets.UTF_8));
  }

  void fill(String queue, int count) throws IOException {
    for (int number = 0; number < count; number++) {
      publish("", queue, Integer.toString(number));
    }
    channel.queueDeclarePassive(queue);
  }

  long[] take(String queue, int count) throws IOException {
    long[] tags = new long[count];
    for (int index = 0; index < count; index++) {
      tags[index] = channel.basicGet(queue, false).getEnvelope().getDeliveryTag();
    }
    return tags;
  }

  /** Everything ready; what was delivered before has a star. */
  String drain(String queue) throws IOException {
    List<String> found = new ArrayList<>();
    GetResponse response;
    while ((response = channel.basicGet(queue, true)) != null) {
      String star = response.getEnvelope().isRedeliver() ? "*" : "";
      found.add(text(response.getBody()) + star);
    }
    return String.join(" ", found);
  }

  Inbox consume(String queue) throws IOException {
    return new Inbox(channel, queue);
  }

  static String text(byte[] body) {
    return new String(body, StandardCharsets.UTF_8);
  }

  static void eventually(Callable<Boolean> condition) throws Exception {
    long deadline = System.currentTimeMillis() + PATIENCE_MS;
    while (!condition.call()) {
      assertTrue(System.currentTimeMillis() < deadline, "did not happen in time");
      Thread.sleep(20);
    }
  }

  /** Asserts that an operation was refused with this code, and a text that begins so. */
  static void refused(Throwable error, int code, String start) {
    while (error != null && !(error instanceof ShutdownSignalException)) {
      error = error.getCause();
    }
    assertNotNull(error, "refused without a code");
    Object reason = ((ShutdownSignalException) error).getReason();
    if (reason instanceof AMQP.Channel.Close close) {
      assertEquals(code, close.getReplyCode());
      assertTrue(close.getReplyText().startsWith(start), close.getReplyText());
    } else {
      AMQP.Connection.Close close = (AMQP.Connection.Close) reason;
      assertEquals(code, close.getReplyCode());
      assertTrue(close.getReplyText().startsWith(start), close.getReplyText());
    }
  }

  /** A consumer's deliveries, in order. */
  static final class Inbox {
    final BlockingQueue<Delivery> deliveries = new LinkedBlockingQueue<>();
    final BlockingQueue<String> cancelled = new LinkedBlockingQueue<>();
    final String tag;

    Inbox(Channel channel, String queue) throws IOException {
      tag =
          channel.basicConsume(
              queue, false, (tag, delivery) -> deliveries.add(delivery), cancelled::add);
    }

    Delivery next() throws InterruptedException {
      Delivery delivery = deliveries.poll(PATIENCE_MS, TimeUnit.MILLISECONDS);
      assertNotNull(delivery, "no delivery in time");
      return delivery;
    }

    String bodies(int count) throws InterruptedException {
      List<String> found = new ArrayList<>();
      while (found.size() < count) {
        found.add(text(next().getBody()));
      }
      return String.join(" ", found);
    }

    void nothing() throws InterruptedException {
      assertEquals(null, deliveries.poll(SILENCE_MS, TimeUnit.MILLISECONDS));
    }
  }
}
