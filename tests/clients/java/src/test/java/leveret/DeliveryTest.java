package leveret;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Delivery;
import java.util.Date;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Bodies, prefetch, order of what comes back, and the end of consumers. */
@Timeout(60)
class DeliveryTest {
  @Test
  void bodiesOfEverySize() throws Exception {
    try (Peer peer = new Peer()) {
      String queue = peer.queue();
      int frame = 131_072 - 8;
      for (int size : new int[] {0, 1, frame - 1, frame, frame + 1, 2 * frame, 20_000_000}) {
        byte[] sent = new byte[size];
        new Random(size).nextBytes(sent);
        peer.channel.basicPublish("", queue, null, sent);
        assertArrayEquals(sent, peer.channel.basicGet(queue, true).getBody());
      }
    }
  }

  @Test
  void propertiesAndHeaders() throws Exception {
    try (Peer peer = new Peer()) {
      String queue = peer.queue();
      Map<String, Object> headers = new HashMap<>();
      headers.put("int", -5);
      headers.put("long", 1L << 40);
      headers.put("double", 2.5);
      headers.put("true", true);
      headers.put("date", new Date(1_700_000_000_000L));
      headers.put("list", List.of(1, 2));
      headers.put("null", null);
      AMQP.BasicProperties sent =
          new AMQP.BasicProperties.Builder().headers(headers).priority(3).appId("a").build();
      peer.publish("", queue, "x", sent);
      AMQP.BasicProperties received = peer.channel.basicGet(queue, true).getProps();
      assertEquals(headers, received.getHeaders());
      assertEquals("3 a", received.getPriority() + " " + received.getAppId());
    }
  }

  @Test
  void twoConsumersAlternateExactly() throws Exception {
    try (Peer peer = new Peer()) {
      String queue = peer.queue();
      Peer.Inbox first = peer.consume(queue);
      Peer.Inbox second = new Peer.Inbox(peer.connection.createChannel(), queue);
      peer.fill(queue, 10);
      assertEquals("0 2 4 6 8", first.bodies(5));
      assertEquals("1 3 5 7 9", second.bodies(5));
    }
  }

  @Test
  void prefetch() throws Exception {
    try (Peer peer = new Peer()) {
      String queue = peer.queue();
      peer.channel.basicQos(3);
      Peer.Inbox inbox = peer.consume(queue);
      peer.fill(queue, 10);
      assertEquals("0 1", inbox.bodies(2));
      Delivery third = inbox.next();
      inbox.nothing();
      peer.channel.basicAck(third.getEnvelope().getDeliveryTag(), true);
      assertEquals("3 4 5", inbox.bodies(3));
      inbox.nothing();
    }
  }

  @Test
  void channelWidePrefetchOverTwoQueues() throws Exception {
    try (Peer peer = new Peer()) {
      String one = peer.queue();
      String two = peer.queue();
      peer.channel.basicQos(4, true);
      Peer.Inbox first = peer.consume(one);
      Peer.Inbox second = peer.consume(two);
      peer.fill(one, 3);
      peer.fill(two, 3);
      assertEquals("0 1", first.bodies(2));
      Delivery third = first.next();
      assertEquals("0", second.bodies(1));
      second.nothing();
      peer.channel.basicAck(third.getEnvelope().getDeliveryTag(), false);
      assertEquals("1", second.bodies(1));
      second.nothing();
    }
  }

  @Test
  void nackMultipleKeepsTheOrder() throws Exception {
    try (Peer peer = new Peer()) {
      String queue = peer.queue();
      peer.fill(queue, 5);
      peer.channel.basicNack(peer.take(queue, 3)[2], true, true);
      assertEquals("0* 1* 2* 3 4", peer.drain(queue));
    }
  }

  @Test
  void rejectGoesBackToItsPlace() throws Exception {
    try (Peer peer = new Peer()) {
      String queue = peer.queue();
      peer.fill(queue, 5);
      long[] tags = peer.take(queue, 3);
      for (int index : new int[] {1, 0, 2}) {
        peer.channel.basicReject(tags[index], true);
      }
      assertEquals("0* 1* 2* 3 4", peer.drain(queue));
    }
  }

  @Test
  void closingTheChannelRequeues() throws Exception {
    try (Peer peer = new Peer()) {
      String queue = peer.queue();
      peer.fill(queue, 5);
      Channel other = peer.connection.createChannel();
      for (int number = 0; number < 3; number++) {
        other.basicGet(queue, false);
      }
      other.close();
      assertEquals("0* 1* 2* 3 4", peer.drain(queue));
    }
  }

  @Test
  void closingTheConnectionRequeues() throws Exception {
    try (Peer peer = new Peer(); Peer other = new Peer()) {
      String queue = Peer.name("shared");
      peer.channel.queueDeclare(queue, false, false, false, Map.of());
      peer.fill(queue, 5);
      other.take(queue, 3);
      other.close();
      Peer.eventually(() -> peer.channel.messageCount(queue) == 5);
      assertEquals("0* 1* 2* 3 4", peer.drain(queue));
      peer.channel.queueDelete(queue);
    }
  }

  @Test
  void consumersAreToldWhenTheirQueueGoes() throws Exception {
    try (Peer peer = new Peer()) {
      String queue = peer.queue();
      Peer.Inbox inbox = peer.consume(queue);
      peer.channel.queueDelete(queue);
      assertEquals(inbox.tag, inbox.cancelled.take());
      peer.queue();
    }
  }

  @Test
  void purgeAndDeleteTellTheirCounts() throws Exception {
    try (Peer peer = new Peer()) {
      String queue = peer.queue();
      peer.fill(queue, 5);
      assertEquals(5, peer.channel.queuePurge(queue).getMessageCount());
      peer.fill(queue, 2);
      assertEquals(2, peer.channel.queueDelete(queue).getMessageCount());
      assertEquals(0, peer.channel.queueDelete(queue).getMessageCount());
    }
  }
}
