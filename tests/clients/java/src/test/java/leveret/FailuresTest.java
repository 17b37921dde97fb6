package leveret;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import com.rabbitmq.client.AuthenticationFailureException;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.Recoverable;
import com.rabbitmq.client.RecoveryListener;
import java.io.IOException;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Refusals, negotiation, blocking, and automatic recovery. */
@Timeout(60)
class FailuresTest {
  @Test
  void missingQueueClosesTheChannelOnly() throws Exception {
    try (Peer peer = new Peer()) {
      String queue = Peer.name("none");
      IOException error =
          assertThrows(IOException.class, () -> peer.channel.queueDeclarePassive(queue));
      Peer.refused(error, 404, "NOT_FOUND - no queue '" + queue + "' in vhost '/'");
      peer.connection.createChannel().queueDeclare();
    }
  }

  @Test
  void missingExchangeClosesTheChannel() throws Exception {
    try (Peer peer = new Peer()) {
      String exchange = Peer.name("none");
      peer.publish(exchange, "k", "x");
      Peer.eventually(() -> !peer.channel.isOpen());
      String text = "NOT_FOUND - no exchange '" + exchange + "' in vhost '/'";
      Peer.refused(peer.channel.getCloseReason(), 404, text);
    }
  }

  @Test
  void exclusiveQueueIsLocked() throws Exception {
    try (Peer owner = new Peer(); Peer other = new Peer()) {
      String queue = owner.queue();
      IOException error = assertThrows(IOException.class, () -> other.channel.queuePurge(queue));
      String text = "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '";
      Peer.refused(error, 405, text + queue + "' in vhost '/'.");
    }
  }

  @Test
  void differentRedeclaration() throws Exception {
    try (Peer peer = new Peer()) {
      String exchange = peer.exchange("direct");
      IOException error =
          assertThrows(
              IOException.class,
              () -> peer.channel.exchangeDeclare(exchange, "topic", false, true, Map.of()));
      Peer.refused(error, 406, "PRECONDITION_FAILED - inequivalent arg 'type' for exchange '");
    }
  }

  @Test
  void brokerClosesTheConnectionAndTheNextWorks() throws Exception {
    try (Peer peer = new Peer()) {
      IOException error =
          assertThrows(IOException.class, () -> peer.channel.basicRecover(false));
      Peer.refused(error, 540, "NOT_IMPLEMENTED - requeue=false");
    }
    try (Peer again = new Peer()) {
      again.queue();
    }
  }

  @Test
  void wrongPassword() throws Exception {
    ConnectionFactory factory = Peer.factory();
    factory.setPassword("wrong");
    assertThrows(AuthenticationFailureException.class, factory::newConnection);
  }

  @Test
  void smallFramesAndHeartbeats() throws Exception {
    ConnectionFactory factory = Peer.factory();
    factory.setRequestedFrameMax(4096);
    factory.setRequestedHeartbeat(1);
    try (Peer peer = new Peer(factory)) {
      assertEquals(4096, peer.connection.getFrameMax());
      String queue = peer.queue();
      peer.channel.basicPublish("", queue, null, new byte[100_000]);
      Thread.sleep(3000);
      assertEquals(100_000, peer.channel.basicGet(queue, true).getBody().length);
    }
  }

  @Test
  void automaticRecovery() throws Exception {
    try (Proxy proxy = new Proxy(Peer.factory())) {
      ConnectionFactory factory = Peer.factory();
      factory.setHost("127.0.0.1");
      factory.setPort(proxy.port());
      factory.setAutomaticRecoveryEnabled(true);
      factory.setNetworkRecoveryInterval(200);
      Connection connection = factory.newConnection();
      Channel channel = connection.createChannel();
      String exchange = Peer.name("recovered");
      channel.exchangeDeclare(exchange, "fanout", false, true, Map.of());
      String queue = channel.queueDeclare().getQueue();
      channel.queueBind(queue, exchange, "");
      BlockingQueue<String> received = new LinkedBlockingQueue<>();
      channel.basicConsume(
          queue, true, (tag, delivery) -> received.add(Peer.text(delivery.getBody())), tag -> {});
      CountDownLatch recovered = new CountDownLatch(1);
      ((Recoverable) connection).addRecoveryListener(new Recovered(recovered));
      proxy.cut();
      recovered.await();
      channel.basicPublish(exchange, "", null, "after".getBytes());
      assertEquals("after", received.take());
      connection.close();
    }
  }

  private record Recovered(CountDownLatch latch) implements RecoveryListener {
    @Override
    public void handleRecovery(Recoverable recoverable) {
      latch.countDown();
    }

    @Override
    public void handleRecoveryStarted(Recoverable recoverable) {}
  }

  @Test
  void blockedAndUnblocked() throws Exception {
    String raise = System.getenv("ALARM_RAISE");
    String clear = System.getenv("ALARM_CLEAR");
    assumeTrue(raise != null && clear != null, "no command that raises an alarm");
    try (Peer peer = new Peer()) {
      BlockingQueue<String> events = new LinkedBlockingQueue<>();
      peer.connection.addBlockedListener(
          reason -> events.add("blocked"), () -> events.add("unblocked"));
      try {
        new ProcessBuilder("sh", "-c", raise).start().waitFor();
        peer.publish("", "nowhere", "x");
        assertEquals("blocked", events.take());
      } finally {
        new ProcessBuilder("sh", "-c", clear).start().waitFor();
      }
      assertEquals("unblocked", events.take());
    }
  }
}
