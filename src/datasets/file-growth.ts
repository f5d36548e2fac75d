/** A file that is written while it is read. */
import { open } from 'node:fs/promises';
import { READ_BYTES } from './limits.ts';

/** How much of a file is there. */
export class FileGrowth {
  #bytes = 0;
  #ended = false;
  readonly #waiting = new Set<() => void>();

  /** Bytes that can be read. */
  get bytes(): number {
    return this.#bytes;
  }

  /** True where no more will come. */
  get ended(): boolean {
    return this.#ended;
  }

  /** @param ended No more will come. */
  set(bytes: number, ended: boolean): void {
    this.#bytes = bytes;
    this.#ended = ended;
    for (const wake of this.#waiting) wake();
  }

  /** Until more than `bytes` are there, or no more will come. */
  async beyond(bytes: number): Promise<void> {
    while (this.#bytes <= bytes && !this.#ended) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#waiting.add(resolve);
      await promise;
      this.#waiting.delete(resolve);
    }
  }

  /** Calls `told` at every change. @returns what ends that */
  watch(told: () => void): () => void {
    this.#waiting.add(told);
    return () => this.#waiting.delete(told);
  }
}

/** A file's bytes as they are written, until no more will come. */
export async function* growingBytes(path: string, growth: FileGrowth): AsyncGenerator<Uint8Array, void, undefined> {
  const file = await open(path);
  try {
    for (let position = 0; ; ) {
      await growth.beyond(position);
      const length = Math.min(READ_BYTES, growth.bytes - position);
      if (length <= 0) return;
      const { buffer, bytesRead } = await file.read(Buffer.allocUnsafe(length), 0, length, position);
      if (bytesRead === 0) throw new Error(`${path} became shorter while it was read`);
      position += bytesRead;
      yield buffer.subarray(0, bytesRead);
    }
  } finally {
    await file.close();
  }
}
