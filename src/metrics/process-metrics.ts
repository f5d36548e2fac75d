import { counter, type Family, gauge } from './exposition.ts';
import { Histogram } from './histogram.ts';

/** Milliseconds between two looks at the clock. */
const INTERVAL = 100;
/** Seconds. */
const BOUNDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5];

/** What the process takes, and how late its event loop comes to timers: what every call waits for. */
export class ProcessMetrics {
  readonly #delays = new Histogram(BOUNDS);
  readonly #timer: NodeJS.Timeout;

  constructor() {
    let expected = performance.now() + INTERVAL;
    this.#timer = setInterval(() => {
      const now = performance.now();
      this.#delays.observe(Math.max(0, now - expected) / 1000);
      expected = now + INTERVAL;
    }, INTERVAL);
    this.#timer.unref();
  }

  close(): void {
    clearInterval(this.#timer);
  }

  /** Names are those of Prometheus' client libraries, where they have one. */
  families(): Family[] {
    const { rss, heapUsed } = process.memoryUsage();
    const { user, system } = process.cpuUsage();
    const started = performance.timeOrigin / 1000;
    const delay = 'How late a timer of 100 ms fires because the event loop is busy.';
    return [
      {
        name: 'luthier_event_loop_delay_seconds',
        type: 'histogram',
        help: delay,
        samples: this.#delays.samples(),
      },
      gauge('process_resident_memory_bytes', 'Resident memory, mapped weights included.', rss),
      gauge('nodejs_heap_size_used_bytes', "JavaScript's heap.", heapUsed),
      counter('process_cpu_seconds_total', 'Processor time of all threads.', (user + system) / 1e6),
      gauge('process_start_time_seconds', 'When the process started, Unix time.', started),
    ];
  }
}
