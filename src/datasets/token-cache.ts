/** Token files that are kept: made once for the same data, tokenizer, template and options, and used again until their room is needed. */
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { checkTokenFile, type TokenFileHeader } from '../engine/token-file.ts';
import { codeOf } from '../errors/error-code.ts';
import type { Logger } from '../logging/logger.ts';
import { sync } from '../store/durable-folders.ts';
import type { EncoderKind } from '../tokenizer/tokenizer.ts';
import type { OverLengthCounts } from './over-length.ts';
import { TokenFileWriter } from './token-file-writer.ts';

export interface TokenCacheOptions {
  /** Absolute; made where it does not exist. */
  readonly folder: string;
  /** Of all files that no one uses; those used longest ago go first. */
  readonly maxBytes: number;
  readonly logger: Pick<Logger, 'warn'>;
}

/** What a file says beside its examples. */
export interface TokenSummary {
  /** Examples read, kept or not. */
  readonly read: number;
  readonly overLength: OverLengthCounts;
  /** What encoded them; null for exact ids. */
  readonly encoder: EncoderKind | null;
}

/** A file in use: it is not deleted until it is released. */
export interface CachedTokens {
  readonly path: string;
  readonly header: TokenFileHeader;
  readonly summary: TokenSummary;
  /** Whether it was there. */
  readonly reused: boolean;
  /** Idempotent. */
  release(): Promise<void>;
}

const SUFFIX = '.tokens';
const NAME = /^[0-9a-f]{64}\.tokens$/;

interface KeptFile {
  readonly path: string;
  readonly bytes: number;
  readonly usedMilliseconds: number;
}

export class TokenCache {
  readonly #options: TokenCacheOptions;
  /** Uses by path. */
  readonly #uses = new Map<string, number>();

  constructor(options: TokenCacheOptions) {
    this.#options = options;
  }

  /**
   * The file with this key: the one that is there, if it is whole, else a new one.
   * @param key 32 bytes in hex that stand for everything the examples follow from.
   * @param make Writes the examples. What it throws ends the call, and nothing is kept.
   * @throws the system's errors; the signal's reason
   */
  async get(
    key: string,
    make: (writer: TokenFileWriter) => Promise<TokenSummary>,
    signal: AbortSignal,
  ): Promise<CachedTokens> {
    const path = join(this.#options.folder, `${key}${SUFFIX}`);
    // Before it is looked at, so that it cannot go in between.
    this.#uses.set(path, (this.#uses.get(path) ?? 0) + 1);
    try {
      const found = (await this.#find(path, key, signal)) ?? (await this.#make(path, key, make));
      return { path, ...found, release: this.#releaseOnce(path) };
    } catch (error) {
      await this.#release(path);
      throw error;
    }
  }

  /** Null where there is none that can be used. */
  async #find(path: string, key: string, signal: AbortSignal) {
    try {
      const { header, summary } = await checkTokenFile(path, signal);
      if (header.key !== key) throw new Error('it belongs to another key');
      const now = new Date();
      await utimes(path, now, now);
      return { header, summary: summary as TokenSummary, reused: true };
    } catch (error) {
      signal.throwIfAborted();
      if (codeOf(error) !== 'ENOENT') {
        this.#options.logger.warn({ path, problem: (error as Error).message }, 'a token file is made again');
      }
      return null;
    }
  }

  async #make(path: string, key: string, make: (writer: TokenFileWriter) => Promise<TokenSummary>) {
    const { folder } = this.#options;
    const writing = join(folder, `.writing-${randomUUID()}`);
    const writer = await TokenFileWriter.create(writing, key);
    try {
      const summary = await make(writer);
      const header = await writer.finish(summary);
      await rename(writing, path);
      await sync(folder);
      return { header, summary, reused: false };
    } catch (error) {
      await writer.discard();
      await rm(writing, { force: true });
      throw error;
    }
  }

  #releaseOnce(path: string): () => Promise<void> {
    let released = false;
    return async () => {
      if (released) return;
      released = true;
      await this.#release(path);
    };
  }

  async #release(path: string): Promise<void> {
    const uses = (this.#uses.get(path) ?? 1) - 1;
    if (uses > 0) this.#uses.set(path, uses);
    else this.#uses.delete(path);
    await this.evict();
  }

  /** Deletes files that no one uses, those used longest ago first, until the rest is within the limit. */
  async evict(): Promise<void> {
    const files = (await this.#files()).filter(({ path }) => !this.#uses.has(path));
    files.sort((a, b) => a.usedMilliseconds - b.usedMilliseconds);
    let bytes = files.reduce((sum, file) => sum + file.bytes, 0);
    for (const file of files) {
      if (bytes <= this.#options.maxBytes) return;
      // Taken into use meanwhile.
      if (this.#uses.has(file.path)) continue;
      await rm(file.path, { force: true });
      bytes -= file.bytes;
    }
  }

  /** Of all files, in use or not. */
  async bytes(): Promise<number> {
    return (await this.#files()).reduce((sum, { bytes }) => sum + bytes, 0);
  }

  async #files(): Promise<KeptFile[]> {
    const { folder } = this.#options;
    const names = (await readdir(folder)).filter((name) => NAME.test(name));
    const files = names.map(async (name) => {
      const path = join(folder, name);
      const { size, mtimeMs } = await stat(path);
      return { path, bytes: size, usedMilliseconds: mtimeMs };
    });
    const settled = await Promise.allSettled(files);
    return settled.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  }
}

/** Opens the cache, deletes what a crash left half-written, and brings it within its limit. */
export async function openTokenCache(options: TokenCacheOptions): Promise<TokenCache> {
  await mkdir(options.folder, { recursive: true, mode: 0o700 });
  for (const name of await readdir(options.folder)) {
    if (!NAME.test(name)) await rm(join(options.folder, name), { recursive: true, force: true });
  }
  const cache = new TokenCache(options);
  await cache.evict();
  return cache;
}
