package leveret;

import com.rabbitmq.client.ConnectionFactory;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;

/** A TCP proxy that a test can cut: what lies behind sees the connection vanish. */
final class Proxy implements AutoCloseable {
  private final ServerSocket listener = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
  private final List<Socket> open = new CopyOnWriteArrayList<>();
  private final ConnectionFactory target;

  Proxy(ConnectionFactory target) throws IOException {
    this.target = target;
    start(this::accept);
  }

  int port() {
    return listener.getLocalPort();
  }

  /** Ends every connection now open; new ones are taken. */
  void cut() throws IOException {
    for (Socket socket : open) {
      socket.close();
    }
    open.clear();
  }

  @Override
  public void close() throws IOException {
    listener.close();
    cut();
  }

  private void accept() throws IOException {
    while (true) {
      Socket near = listener.accept();
      Socket far = new Socket(target.getHost(), target.getPort());
      open.add(near);
      open.add(far);
      start(() -> relay(near, far));
      start(() -> relay(far, near));
    }
  }

  private static void relay(Socket source, Socket sink) throws IOException {
    try (source; sink) {
      source.getInputStream().transferTo(sink.getOutputStream());
    }
  }

  private interface Work {
    void run() throws IOException;
  }

  private static void start(Work work) {
    Thread thread =
        new Thread(
            () -> {
              try {
                work.run();
              } catch (IOException ended) {
                // A cut ends every relay this way.
              }
            });
    thread.setDaemon(true);
    thread.start();
  }
}
