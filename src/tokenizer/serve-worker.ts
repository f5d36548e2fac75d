import { type MessagePort, parentPort } from 'node:worker_threads';
import type { WorkerFailure, WorkerReply } from './worker-pool.ts';

/** A response and the buffers that move to the receiver instead of being copied. */
export interface WorkerResult<Response> {
  readonly response: Response;
  readonly transfer: readonly ArrayBuffer[];
}

function failure(error: unknown): WorkerFailure {
  if (!(error instanceof Error)) return { name: 'Error', code: null, message: String(error) };
  const code = 'code' in error && typeof error.code === 'string' ? error.code : null;
  return { name: error.name, code, message: error.message };
}

/** Answers a `WorkerPool`'s requests inside a worker thread. */
export function serveWorker<Request, Response>(handle: (request: Request) => Promise<WorkerResult<Response>>): void {
  const port: MessagePort | null = parentPort;
  if (!port) throw new Error('this script runs in a worker thread only');
  port.on('message', (request: Request) => {
    handle(request).then(
      ({ response, transfer }) => {
        const reply: WorkerReply<Response> = { response };
        port.postMessage(reply, transfer as ArrayBuffer[]);
      },
      (error: unknown) => {
        const reply: WorkerReply<Response> = { error: failure(error) };
        port.postMessage(reply);
      },
    );
  });
}
