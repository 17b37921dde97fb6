package leveret;

import static org.junit.jupiter.api.Assertions.assertEquals;

import com.rabbitmq.client.AMQP;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Returns, refusals by nack, transactions, headers, alternates and bound exchanges. */
@Timeout(60)
class PublishingTest {
  @Test
  void returnComesBeforeTheAck() throws Exception {
    try (Peer peer = new Peer()) {
      List<String> events = Collections.synchronizedList(new ArrayList<>());
      peer.channel.addReturnListener(returned -> events.add(returned.getReplyText()));
      peer.channel.addConfirmListener(
          (tag, multiple) -> events.add("ack"), (tag, multiple) -> events.add("nack"));
      peer.channel.confirmSelect();
      peer.channel.basicPublish("", "nobody-is-here", true, null, new byte[1]);
      peer.channel.waitForConfirms(15_000);
      assertEquals(List.of("NO_ROUTE", "ack"), events);
    }
  }

  @Test
  void fullQueueRefusesWithNack() throws Exception {
    try (Peer peer = new Peer()) {
      String queue = peer.queue(Map.of("x-max-length", 2, "x-overflow", "reject-publish"));
      peer.channel.confirmSelect();
      List<Boolean> answers = new ArrayList<>();
      for (int number = 0; number < 4; number++) {
        peer.publish("", queue, "x");
        answers.add(peer.channel.waitForConfirms(15_000));
      }
      assertEquals(List.of(true, true, false, false), answers);
    }
  }

  @Test
  void dropHeadKeepsTheNewest() throws Exception {
    try (Peer peer = new Peer()) {
      String queue = peer.queue(Map.of("x-max-length", 3));
      peer.fill(queue, 10);
      assertEquals("7 8 9", peer.drain(queue));
    }
  }

  @Test
  void transactions() throws Exception {
    try (Peer peer = new Peer()) {
      String queue = peer.queue();
      peer.channel.txSelect();
      peer.publish("", queue, "forgotten");
      peer.channel.txRollback();
      peer.publish("", queue, "kept");
      assertEquals(0, peer.channel.messageCount(queue));
      peer.channel.txCommit();
      assertEquals("kept", peer.drain(queue));
    }
  }

  @Test
  void headersExchange() throws Exception {
    try (Peer peer = new Peer()) {
      String exchange = peer.exchange("headers");
      String all = peer.bound(exchange, "", Map.of("x-match", "all", "a", 1, "b", "two"));
      String any = peer.bound(exchange, "", Map.of("x-match", "any", "a", 1, "b", "two"));
      List<Map<String, Object>> sent =
          List.of(Map.of("a", 1, "b", "two"), Map.of("a", 1), Map.of("a", "1"));
      for (Map<String, Object> headers : sent) {
        AMQP.BasicProperties properties =
            new AMQP.BasicProperties.Builder().headers(headers).build();
        peer.publish(exchange, "", "x", properties);
      }
      assertEquals("x", peer.drain(all));
      assertEquals("x x", peer.drain(any));
    }
  }

  @Test
  void alternateExchange() throws Exception {
    try (Peer peer = new Peer()) {
      String last = peer.exchange("fanout");
      String first = peer.exchange("direct", Map.of("alternate-exchange", last));
      String lost = peer.bound(last, "");
      peer.publish(first, "unknown", "x");
      assertEquals("x", peer.drain(lost));
    }
  }

  @Test
  void exchangeBoundToExchange() throws Exception {
    try (Peer peer = new Peer()) {
      String source = peer.exchange("topic");
      String middle = peer.exchange("fanout");
      peer.channel.exchangeBind(middle, source, "a.*");
      String queue = peer.bound(middle, "");
      peer.publish(source, "a.b", "yes");
      peer.publish(source, "b", "no");
      peer.channel.exchangeUnbind(middle, source, "a.*");
      assertEquals("yes", peer.drain(queue));
    }
  }
}
