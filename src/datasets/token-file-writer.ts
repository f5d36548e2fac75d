/** Writes examples into a token file, batch by batch. */
import { hash } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import { encodeHeader, HEADER_BYTES, type TokenFileHeader } from '../engine/token-file.ts';
import { concatenate } from '../tokenizer/token-batch.ts';
import { conversationText, type ExampleContent } from './formats.ts';
import type { TokenizedExample } from './tokenize-examples.ts';

/** Numbers of the last parts that are written at once. */
const AT_ONCE = 2 ** 16;

const bytesOf = (array: Uint32Array | Int32Array): Uint8Array =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

/**
 * What an example is known by, whatever its place, template or tokenizer: the first 8 bytes of the SHA-256 of its messages as JSON, or of its
 * ids and labels.
 */
function exampleHash(content: ExampleContent): Buffer {
  const bytes =
    content.kind === 'tokens'
      ? Buffer.concat([Buffer.from('tokens'), bytesOf(content.inputIds), bytesOf(content.labels)])
      : conversationText(content);
  return hash('sha256', bytes, 'buffer').subarray(0, 8);
}

/** One file under way. Whoever made it ends it, by `finish` or `discard`. */
export class TokenFileWriter {
  readonly #file: FileHandle;
  readonly #key: string;
  readonly #lengths: Uint32Array[] = [];
  readonly #hashes: Buffer[] = [];
  #examples = 0;
  #tokens = 0;
  #labelTokens = 0;
  #at = HEADER_BYTES;
  #checksum = 0;

  private constructor(file: FileHandle, key: string) {
    this.#file = file;
    this.#key = key;
  }

  /** @param key As in the header. */
  static async create(path: string, key: string): Promise<TokenFileWriter> {
    return new TokenFileWriter(await open(path, 'wx', 0o600), key);
  }

  /** Examples written until now. */
  get examples(): number {
    return this.#examples;
  }

  async add(examples: readonly TokenizedExample[]): Promise<void> {
    if (examples.length === 0) return;
    const parts = examples.flatMap(({ inputIds, labels }) => [inputIds, new Uint32Array(labels)]);
    await this.#write(bytesOf(concatenate(parts, (length) => new Uint32Array(length))));
    const lengths = Uint32Array.from(examples, ({ inputIds }) => inputIds.length);
    this.#lengths.push(lengths);
    this.#hashes.push(Buffer.concat(examples.map(({ example }) => exampleHash(example.content))));
    this.#examples += examples.length;
    this.#tokens += lengths.reduce((sum, length) => sum + length, 0);
    this.#labelTokens += examples.reduce((sum, { labelTokens }) => sum + labelTokens, 0);
  }

  /** Writes the rest, through to the disk. @param summary What JSON holds. */
  async finish(summary: unknown): Promise<TokenFileHeader> {
    await this.#writeEnds();
    for (const hashes of this.#hashes) await this.#write(hashes);
    const text = Buffer.from(JSON.stringify(summary));
    await this.#write(text);
    const header = {
      key: this.#key,
      examples: this.#examples,
      tokens: this.#tokens,
      labelTokens: this.#labelTokens,
      summaryBytes: text.length,
      checksum: this.#checksum,
    };
    await this.#file.write(encodeHeader(header), 0, HEADER_BYTES, 0);
    await this.#file.sync();
    await this.#file.close();
    return header;
  }

  /** Closes the file as it is. */
  discard(): Promise<void> {
    return this.#file.close();
  }

  async #writeEnds(): Promise<void> {
    let end = 0;
    let ends: bigint[] = [];
    const flush = async (): Promise<void> => {
      const numbers = BigUint64Array.from(ends);
      ends = [];
      await this.#write(new Uint8Array(numbers.buffer));
    };
    for (const lengths of this.#lengths) {
      for (const length of lengths) {
        end += length;
        if (ends.push(BigInt(end)) === AT_ONCE) await flush();
      }
    }
    await flush();
  }

  async #write(bytes: Uint8Array): Promise<void> {
    this.#checksum = crc32(bytes, this.#checksum);
    for (let done = 0; done < bytes.length; ) {
      const { bytesWritten } = await this.#file.write(bytes, done, bytes.length - done, this.#at);
      done += bytesWritten;
      this.#at += bytesWritten;
    }
  }
}
