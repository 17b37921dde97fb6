package leveret;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.net.URI;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.aopalliance.aop.Advice;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.springframework.amqp.core.BindingBuilder;
import org.springframework.amqp.core.DirectExchange;
import org.springframework.amqp.core.Message;
import org.springframework.amqp.core.MessageBuilder;
import org.springframework.amqp.core.MessageDeliveryMode;
import org.springframework.amqp.core.MessageProperties;
import org.springframework.amqp.core.Queue;
import org.springframework.amqp.core.QueueBuilder;
import org.springframework.amqp.core.TopicExchange;
import org.springframework.amqp.rabbit.config.RetryInterceptorBuilder;
import org.springframework.amqp.rabbit.connection.CachingConnectionFactory;
import org.springframework.amqp.rabbit.core.RabbitAdmin;
import org.springframework.amqp.rabbit.core.RabbitTemplate;
import org.springframework.amqp.rabbit.listener.SimpleMessageListenerContainer;
import org.springframework.amqp.rabbit.retry.RejectAndDontRequeueRecoverer;
import org.springframework.amqp.rabbit.retry.RepublishMessageRecoverer;

/** Spring AMQP: what its containers and recoverers make of a listener that fails. */
@Timeout(240)
class SpringTest {
  private static final long LATE_MS = 300;
  private static final int FRAME_MAX = 131_072;

  private final List<Queue> queues = new ArrayList<>();
  private final List<String> exchanges = new ArrayList<>();
  private final List<SimpleMessageListenerContainer> containers = new ArrayList<>();
  private final BlockingQueue<Message> seen = new LinkedBlockingQueue<>();
  private final Lateness lateness = new Lateness();
  private CachingConnectionFactory connections;
  private RabbitAdmin admin;
  private RabbitTemplate template;

  @BeforeEach
  void connect() throws Exception {
    connections = new CachingConnectionFactory(new URI(System.getenv("AMQP_URL")));
    admin = new RabbitAdmin(connections);
    template = new RabbitTemplate(connections);
    template.setReceiveTimeout(60_000);
  }

  @AfterEach
  void end() {
    lateness.close();
    containers.forEach(SimpleMessageListenerContainer::stop);
    queues.forEach(queue -> admin.deleteQueue(queue.getName()));
    exchanges.forEach(admin::deleteExchange);
    connections.destroy();
  }

  private Queue declare(QueueBuilder builder) {
    Queue queue = builder.build();
    admin.declareQueue(queue);
    queues.add(queue);
    return queue;
  }

  /** A topic exchange that leads to a queue by every key. */
  private TopicExchange into(Queue queue) {
    TopicExchange exchange = new TopicExchange(Peer.name("spring"));
    admin.declareExchange(exchange);
    exchanges.add(exchange.getName());
    admin.declareBinding(BindingBuilder.bind(queue).to(exchange).with("#"));
    return exchange;
  }

  /** Listens; what it says of each delivery, and what it throws, is the test's. */
  private void listen(Queue queue, boolean requeue, Listener listener, Advice... advice) {
    SimpleMessageListenerContainer container = new SimpleMessageListenerContainer(connections);
    container.setQueues(queue);
    container.setDefaultRequeueRejected(requeue);
    container.setPrefetchCount(1);
    container.setAdviceChain(advice);
    container.setMessageListener(
        message -> {
          seen.add(message);
          listener.take(message);
        });
    container.start();
    containers.add(container);
  }

  private interface Listener {
    void take(Message message);
  }

  private static void fail(Message message) {
    throw new IllegalStateException("as asked");
  }

  private Message next() throws InterruptedException {
    Message message = seen.poll(60, TimeUnit.SECONDS);
    assertNotNull(message, "no delivery in time");
    return message;
  }

  private static Message order() {
    return MessageBuilder.withBody("{}".getBytes())
        .setContentType(MessageProperties.CONTENT_TYPE_JSON)
        .setHeader("__TypeId__", "Order")
        .setMessageId("1")
        .build();
  }

  private static String body(Message message) {
    return Peer.text(message.getBody());
  }

  /** QUEUE REASON COUNT of each kind of death, the last one first. */
  private static String deaths(Message message) {
    List<Map<String, ?>> found = message.getMessageProperties().getXDeathHeader();
    if (found == null) {
      return "";
    }
    return found.stream()
        .map(death -> death.get("queue") + " " + death.get("reason") + " " + death.get("count"))
        .collect(Collectors.joining(", "));
  }

  /** Not before, and hardly after: some hops may be as late as this machine lets anybody run. */
  private void assertAfter(long start, long milliseconds) {
    long took = (System.nanoTime() - start) / 1_000_000;
    long late = LATE_MS + 4 * lateness.longestMs();
    boolean inTime = took >= milliseconds - LATE_MS && took <= milliseconds + late;
    assertTrue(inTime, took + " ms, " + late + " ms late at most");
  }

  @Test
  void whatFailsIsRepublishedWithItsException() throws Exception {
    Queue orders = declare(QueueBuilder.durable(Peer.name("orders")));
    Queue errors = declare(QueueBuilder.durable(Peer.name("errors")));
    TopicExchange in = into(orders);
    TopicExchange out = into(errors);
    RepublishMessageRecoverer recoverer = new RepublishMessageRecoverer(template, out.getName());
    Advice retry =
        RetryInterceptorBuilder.stateless()
            .maxAttempts(3)
            .backOffOptions(20, 1.0, 20)
            .recoverer(recoverer)
            .build();
    listen(orders, true, SpringTest::fail, retry);
    template.send(in.getName(), "eu.new", order());
    Message message = template.receive(errors.getName());
    assertNotNull(message);
    MessageProperties properties = message.getMessageProperties();
    assertEquals("{}", body(message));
    assertEquals("error.eu.new", properties.getReceivedRoutingKey());
    assertEquals("as asked", properties.getHeader("x-exception-message"));
    assertEquals(in.getName(), properties.getHeader("x-original-exchange"));
    assertEquals("eu.new", properties.getHeader("x-original-routingKey"));
    assertEquals("Order", properties.getHeader("__TypeId__"));
    assertEquals(MessageDeliveryMode.PERSISTENT, properties.getReceivedDeliveryMode());
    // It was tried three times by the same delivery.
    assertEquals(3, seen.size());
    assertEquals(1, seen.stream().map(one -> one.getMessageProperties().getDeliveryTag())
        .distinct().count());
  }

  @Test
  void aStackTraceAsLargeAsAFrameMayBe() throws Exception {
    Queue orders = declare(QueueBuilder.durable(Peer.name("orders")));
    Queue errors = declare(QueueBuilder.durable(Peer.name("errors")));
    TopicExchange out = into(errors);
    Advice retry =
        RetryInterceptorBuilder.stateless()
            .maxAttempts(1)
            .recoverer(new RepublishMessageRecoverer(template, out.getName()))
            .build();
    Listener fails =
        message -> {
          IllegalStateException deep = new IllegalStateException("as asked");
          StackTraceElement[] trace = new StackTraceElement[FRAME_MAX / 20];
          Arrays.fill(trace, new StackTraceElement("leveret.Deep", "down", "Deep.java", 1));
          deep.setStackTrace(trace);
          throw deep;
        };
    listen(orders, true, fails, retry);
    template.send("", orders.getName(), order());
    Message message = template.receive(errors.getName());
    assertNotNull(message);
    String trace = message.getMessageProperties().getHeader("x-exception-stacktrace").toString();
    int room = FRAME_MAX - RepublishMessageRecoverer.DEFAULT_FRAME_MAX_HEADROOM;
    assertTrue(trace.length() > room / 2 && trace.length() <= room, trace.length() + " bytes");
  }

  @Test
  void whatIsRejectedComesBackAfterAWhileAndIsParkedInTheEnd() throws Exception {
    String name = Peer.name("orders");
    Queue dead =
        declare(
            QueueBuilder.durable(name + ".dlq")
                .ttl(500)
                .deadLetterExchange("")
                .deadLetterRoutingKey(name));
    DirectExchange dlx = new DirectExchange(name + ".dlx");
    admin.declareExchange(dlx);
    exchanges.add(dlx.getName());
    admin.declareBinding(BindingBuilder.bind(dead).to(dlx).with("failed"));
    Queue orders =
        declare(
            QueueBuilder.durable(name)
                .deadLetterExchange(dlx.getName())
                .deadLetterRoutingKey("failed"));
    Queue parking = declare(QueueBuilder.durable(name + ".parking"));
    TopicExchange in = into(orders);
    listen(
        orders,
        false,
        message -> {
          List<Map<String, ?>> deaths = message.getMessageProperties().getXDeathHeader();
          if (deaths != null && (Long) deaths.get(0).get("count") >= 2) {
            template.send("", parking.getName(), message);
          } else {
            fail(message);
          }
        });
    template.send(in.getName(), "eu.new", order());
    long start = System.nanoTime();
    for (int attempt = 0; attempt <= 2; attempt++) {
      Message message = next();
      assertAfter(start, 500L * attempt);
      String died = dead.getName() + " expired " + attempt + ", " + name + " rejected " + attempt;
      assertEquals(attempt == 0 ? "" : died, deaths(message));
      MessageProperties properties = message.getMessageProperties();
      assertEquals(attempt == 0 ? "eu.new" : name, properties.getReceivedRoutingKey());
      assertEquals(false, properties.isRedelivered());
    }
    Message parked = template.receive(parking.getName());
    assertNotNull(parked);
    assertEquals("{}", body(parked));
    assertEquals("Order", parked.getMessageProperties().getHeader("__TypeId__"));
    assertEquals(name, parked.getMessageProperties().getHeader("x-first-death-queue"));
  }

  @Test
  void aQuorumQueueEndsRetriesAtItsLimit() throws Exception {
    String name = Peer.name("orders");
    Queue dead = declare(QueueBuilder.durable(name + ".dlq").quorum());
    Queue orders =
        declare(
            QueueBuilder.durable(name)
                .quorum()
                .deliveryLimit(3)
                .deadLetterExchange("")
                .deadLetterRoutingKey(dead.getName()));
    Advice retry =
        RetryInterceptorBuilder.stateless()
            .maxAttempts(1)
            .recoverer((message, cause) -> fail(message))
            .build();
    listen(orders, true, SpringTest::fail, retry);
    template.send("", name, order());
    Message message = template.receive(dead.getName());
    assertNotNull(message);
    assertEquals(name + " delivery_limit 1", deaths(message));
    List<Object> counts =
        seen.stream()
            .map(one -> one.getMessageProperties().getHeaders())
            .map(headers -> headers.getOrDefault("x-delivery-count", 0L))
            .toList();
    assertEquals(List.<Object>of(0L, 1L, 2L, 3L), counts);
  }

  @Test
  void aStatefulRetryKnowsWhatComesBackByItsId() throws Exception {
    String name = Peer.name("orders");
    Queue dead = declare(QueueBuilder.durable(name + ".dlq"));
    Queue orders =
        declare(
            QueueBuilder.durable(name)
                .deadLetterExchange("")
                .deadLetterRoutingKey(dead.getName()));
    Advice retry =
        RetryInterceptorBuilder.stateful()
            .maxAttempts(3)
            .recoverer(new RejectAndDontRequeueRecoverer())
            .build();
    listen(orders, true, SpringTest::fail, retry);
    template.send("", name, order());
    Message message = template.receive(dead.getName());
    assertNotNull(message);
    assertEquals(name + " rejected 1", deaths(message));
    assertEquals("1", message.getMessageProperties().getMessageId());
    List<Boolean> redelivered =
        seen.stream().map(one -> one.getMessageProperties().isRedelivered()).toList();
    assertEquals(List.of(false, true, true), redelivered);
  }

  @Test
  void prioritiesAndTimesOfMessages() throws Exception {
    String name = Peer.name("orders");
    Queue dead = declare(QueueBuilder.durable(name + ".dlq"));
    Queue orders =
        declare(
            QueueBuilder.durable(name)
                .maxPriority(10)
                .deadLetterExchange("")
                .deadLetterRoutingKey(dead.getName()));
    Message brief = order();
    brief.getMessageProperties().setExpiration("200");
    template.send("", name, brief);
    Message expired = template.receive(dead.getName());
    assertNotNull(expired);
    assertEquals(name + " expired 1", deaths(expired));
    assertEquals(null, expired.getMessageProperties().getExpiration());
    for (int priority : new int[] {1, 9, 5, 200}) {
      Message message = order();
      message.getMessageProperties().setPriority(priority);
      template.send("", name, message);
    }
    listen(orders, false, message -> {});
    List<Integer> order = new ArrayList<>();
    for (int count = 0; count < 4; count++) {
      order.add(next().getMessageProperties().getPriority());
    }
    assertEquals(List.of(200, 9, 5, 1), order);
  }
}
