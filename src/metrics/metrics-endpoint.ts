import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Logger } from '../logging/logger.ts';
import { CONTENT_TYPE, type Family, formatFamilies } from './exposition.ts';

const PATH = '/metrics';

/** The page over plain HTTP, at `/metrics` of a port of its own. */
export class MetricsEndpoint {
  readonly #server: Server;

  constructor(families: () => Promise<readonly Family[]>, logger: Pick<Logger, 'error'>) {
    this.#server = createServer((request, response) => {
      answer(request, response, families).catch((error: unknown) => {
        logger.error({ err: error }, 'the metrics could not be collected');
        send(response, 500, 'the metrics could not be collected; see the log\n');
      });
    });
  }

  /**
   * @returns The port that was taken.
   * @throws the system's errors
   */
  async listen(host: string, port: number): Promise<number> {
    this.#server.listen(port, host);
    await once(this.#server, 'listening');
    return (this.#server.address() as AddressInfo).port;
  }

  /** Idempotent. */
  async close(): Promise<void> {
    if (!this.#server.listening) return;
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }
}

function send(response: ServerResponse, status: number, text: string, headers: Record<string, string> = {}): void {
  response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8', ...headers });
  response.end(text);
}

async function answer(
  { method, url = '' }: IncomingMessage,
  response: ServerResponse,
  families: () => Promise<readonly Family[]>,
): Promise<void> {
  if (url.split('?')[0] !== PATH) return send(response, 404, `expected ${PATH}\n`);
  if (method !== 'GET' && method !== 'HEAD') {
    return send(response, 405, 'expected GET or HEAD\n', { allow: 'GET, HEAD' });
  }
  send(response, 200, formatFamilies(await families()), { 'content-type': CONTENT_TYPE });
}
