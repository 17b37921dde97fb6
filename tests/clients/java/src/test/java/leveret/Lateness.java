package leveret;

/** How late whoever wants to run is let run on this machine. */
final class Lateness implements AutoCloseable {
  private static final long TICK_MS = 5;

  private final Thread thread = new Thread(this::sleep);
  private volatile long longestMs;

  Lateness() {
    thread.setDaemon(true);
    thread.start();
  }

  /** The longest so far, milliseconds. */
  long longestMs() {
    return longestMs;
  }

  private void sleep() {
    try {
      while (true) {
        long asleep = System.nanoTime();
        Thread.sleep(TICK_MS);
        long late = (System.nanoTime() - asleep) / 1_000_000 - TICK_MS;
        longestMs = Math.max(longestMs, late);
      }
    } catch (InterruptedException end) {
      Thread.currentThread().interrupt();
    }
  }

  @Override
  public void close() {
    thread.interrupt();
  }
}
