/**
 * Worker threads for work that would block the event loop. Knows nothing of what the work is: a script answers each
 * request with a response, one at a time. Workers start on demand and end when idle, since each holds a vocabulary.
 */
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { TokenizerError } from './errors.ts';

/** What a worker script sends back. */
export type WorkerReply<Response> = { readonly response: Response } | { readonly error: WorkerFailure };

/** An error as it crosses threads; class and code are lost otherwise. */
export interface WorkerFailure {
  readonly name: string;
  readonly code: string | null;
  readonly message: string;
}

export interface WorkerPoolOptions {
  /** Threads at most. Default: one less than the processor has, between 1 and 4. */
  readonly size?: number;
  /** A worker without work ends after this time. Default 15,000 ms. */
  readonly idleMs?: number;
}

interface Job<Request, Response> {
  readonly request: Request;
  readonly resolve: (response: Response) => void;
  readonly reject: (error: Error) => void;
}

interface Member<Request, Response> {
  readonly worker: Worker;
  job: Job<Request, Response> | null;
  idleTimer: NodeJS.Timeout | null;
}

export class WorkerPool<Request, Response> {
  readonly #script: URL;
  readonly #workerData: unknown;
  readonly #size: number;
  readonly #idleMs: number;
  readonly #members = new Set<Member<Request, Response>>();
  readonly #queue: Job<Request, Response>[] = [];
  #closed = false;

  constructor(script: URL, workerData: unknown, options: WorkerPoolOptions = {}) {
    this.#script = script;
    this.#workerData = workerData;
    this.#size = options.size ?? Math.max(1, Math.min(4, availableParallelism() - 1));
    this.#idleMs = options.idleMs ?? 15_000;
  }

  /** @throws TokenizerError with the worker's own message where it fails, `CLOSED` after `close` */
  run(request: Request): Promise<Response> {
    if (this.#closed) return Promise.reject(closedError());
    return new Promise((resolve, reject) => {
      this.#queue.push({ request, resolve, reject });
      this.#dispatch();
    });
  }

  /** Ends every worker; work that is under way is rejected. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const job of this.#queue.splice(0)) job.reject(closedError());
    await Promise.all([...this.#members].map((member) => this.#end(member, closedError())));
  }

  #dispatch(): void {
    while (this.#queue.length > 0) {
      const idle = [...this.#members].find((member) => member.job === null);
      if (!idle && this.#members.size >= this.#size) return;
      const member = idle ?? this.#start();
      const job = this.#queue.shift();
      if (!job) return;
      if (member.idleTimer) clearTimeout(member.idleTimer);
      member.job = job;
      member.worker.ref();
      member.worker.postMessage(job.request);
    }
  }

  #start(): Member<Request, Response> {
    const worker = new Worker(this.#script, { workerData: this.#workerData });
    const member: Member<Request, Response> = { worker, job: null, idleTimer: null };
    this.#members.add(member);
    worker.on('message', (reply: WorkerReply<Response>) => this.#finish(member, reply));
    worker.on('error', (error) => void this.#end(member, error instanceof Error ? error : new Error(String(error))));
    worker.on('exit', (code) => void this.#end(member, new Error(`the worker thread ended with code ${code}`)));
    return member;
  }

  #finish(member: Member<Request, Response>, reply: WorkerReply<Response>): void {
    const job = member.job;
    member.job = null;
    member.worker.unref();
    member.idleTimer = setTimeout(() => void this.#end(member, closedError()), this.#idleMs);
    member.idleTimer.unref();
    if ('response' in reply) job?.resolve(reply.response);
    else job?.reject(Object.assign(new Error(reply.error.message), { name: reply.error.name, code: reply.error.code }));
    this.#dispatch();
  }

  async #end(member: Member<Request, Response>, error: Error): Promise<void> {
    if (!this.#members.delete(member)) return;
    if (member.idleTimer) clearTimeout(member.idleTimer);
    member.job?.reject(error);
    member.job = null;
    await member.worker.terminate();
    if (!this.#closed) this.#dispatch();
  }
}

const closedError = (): TokenizerError => new TokenizerError('CLOSED', 'the worker pool is closed');
