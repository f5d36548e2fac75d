import { LuthierError } from '../errors/luthier-error.ts';
import type { HealthService as Definition } from '../gen/grpc/health/v1/health.ts';
import { type HealthCheckResponse, HealthCheckResponse_ServingStatus as Status } from '../gen/grpc/health/v1/health.ts';
import type { HandlersOf } from './adapter.ts';
import type { CallContext } from './handlers.ts';
import { untilAborted } from './streams.ts';

/**
 * The state of the server and of its services (`''` is the server as a whole), answered as the health checking protocol says.
 * https://github.com/grpc/grpc/blob/master/doc/health-checking.md
 */
export class Health {
  readonly #services: ReadonlySet<string>;
  #serving = false;
  #changed = Promise.withResolvers<void>();

  constructor(services: readonly string[]) {
    this.#services = new Set(['', ...services]);
  }

  /** Told to everyone who watches. */
  setServing(serving: boolean): void {
    if (serving === this.#serving) return;
    this.#serving = serving;
    this.#changed.resolve();
    this.#changed = Promise.withResolvers<void>();
  }

  handlers(): HandlersOf<typeof Definition> {
    return {
      check: async ({ service }) => {
        if (this.#services.has(service)) return this.#response();
        throw new LuthierError('SERVICE_NOT_FOUND', `the server has no service ${JSON.stringify(service)}`, {
          resource: { type: 'service', name: service },
        });
      },
      list: async () => ({
        statuses: Object.fromEntries([...this.#services].map((service) => [service, this.#response()])),
      }),
      watch: ({ service }, context) => this.#watch(service, context),
    };
  }

  #response(): HealthCheckResponse {
    return { status: this.#serving ? Status.SERVING : Status.NOT_SERVING };
  }

  async *#watch(service: string, { signal }: CallContext): AsyncGenerator<HealthCheckResponse, void, undefined> {
    if (!this.#services.has(service)) {
      // The protocol keeps such a stream open: the service may appear later.
      yield { status: Status.SERVICE_UNKNOWN };
      await untilAborted(new Promise<never>(() => undefined), signal);
    }
    let last: HealthCheckResponse | null = null;
    for (;;) {
      const changed = this.#changed.promise;
      const now = this.#response();
      if (now.status !== last?.status) yield now;
      last = now;
      await untilAborted(changed, signal);
    }
  }
}
