/** An upload on its way into the store: written, hashed and checked line by line as it arrives. */
import { createHash } from 'node:crypto';
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { LuthierError } from '../errors/luthier-error.ts';
import { makeWritingFolder } from '../store/durable-folders.ts';
import { DATA_FILE } from './dataset-store.ts';
import { ExampleParser, type ParsedPiece } from './example-parser.ts';
import type { ContractFormatName, FormatName } from './formats.ts';
import { ProblemList, problemsError } from './problems.ts';

export interface UploadOptions {
  /** Where the file is written: see `DatasetStore.folder`. */
  readonly folder: string;
  /** Null: detected from the first line. */
  readonly format: ContractFormatName | null;
  /** Of the whole file, lower-case hex; null: not checked. */
  readonly sha256: string | null;
  readonly maxBytes: number;
}

/** A file that arrived whole, was found sound and is on the disk, but not in the store yet. */
export interface ReceivedUpload {
  readonly folder: string;
  readonly format: FormatName;
  readonly examples: number;
  readonly sizeBytes: number;
  readonly sha256: string;
}

/** Bytes checked at once: other calls get their turn after a few milliseconds. */
const SLICE_BYTES = 128 * 1024;

const EMPTY = 'expected at least one example, one a line; found none';

/** Checks what arrives; malformed lines refuse the upload, with every problem up to the hundredth told. */
class UploadCheck {
  readonly #parser: ExampleParser;
  readonly #problems = new ProblemList();

  constructor(format: ContractFormatName | null) {
    this.#parser = new ExampleParser(format);
  }

  push(piece: Uint8Array): void {
    this.#note(this.#parser.push(piece));
    if (this.#problems.full) this.#refuse();
  }

  end(): { readonly format: FormatName; readonly examples: number } {
    this.#note(this.#parser.end());
    if (this.#problems.count > 0) this.#refuse();
    const { format, examples } = this.#parser;
    if (format !== null && examples > 0) return { format, examples };
    throw new LuthierError('DATASET_INVALID', `the data set is empty: ${EMPTY}`, {
      violations: [{ field: 'chunk', description: EMPTY, reason: 'EMPTY_DATASET' }],
    });
  }

  #note({ problems }: ParsedPiece): void {
    this.#problems.add(...problems);
  }

  #refuse(): never {
    throw problemsError('the data set is refused and nothing is stored', this.#problems);
  }
}

function checkHash(found: string, expected: string | null): void {
  if (expected === null || found === expected) return;
  throw new LuthierError(
    'CHECKSUM_MISMATCH',
    `the data set arrived damaged: expected SHA-256 ${expected}, found ${found}; send it again`,
    { metadata: { expected, found } },
  );
}

async function receive(
  folder: string,
  chunks: AsyncIterable<Uint8Array>,
  options: UploadOptions,
): Promise<ReceivedUpload> {
  const check = new UploadCheck(options.format);
  const hash = createHash('sha256');
  const file = await open(join(folder, DATA_FILE), 'wx');
  let sizeBytes = 0;
  try {
    for await (const chunk of chunks) {
      sizeBytes += chunk.length;
      if (sizeBytes > options.maxBytes) {
        throw new LuthierError(
          'MESSAGE_TOO_LARGE',
          `the data set is larger than this server takes: expected at most ${options.maxBytes} bytes; split it, or raise --max-dataset-bytes`,
          { metadata: { limit: String(options.maxBytes) } },
        );
      }
      hash.update(chunk);
      for (let start = 0; start < chunk.length; start += SLICE_BYTES) {
        const slice = chunk.subarray(start, start + SLICE_BYTES);
        check.push(slice);
        await file.writeFile(slice);
      }
    }
    const sha256 = hash.digest('hex');
    // First: what was damaged on its way may look malformed, too.
    checkHash(sha256, options.sha256);
    const checked = check.end();
    await file.sync();
    return { folder, ...checked, sizeBytes, sha256 };
  } finally {
    await file.close();
  }
}

/**
 * Receives a file and hands it to `use`, which may move its folder away. Whatever is left of it afterwards is deleted: of an upload that was
 * cut off, refused or not taken, nothing stays.
 * @throws LuthierError DATASET_INVALID with violations by line, NOT_BUILT_YET, CHECKSUM_MISMATCH, MESSAGE_TOO_LARGE; what `chunks` and `use` throw
 */
export async function receiveUpload<Result>(
  chunks: AsyncIterable<Uint8Array>,
  options: UploadOptions,
  use: (upload: ReceivedUpload) => Promise<Result>,
): Promise<Result> {
  const folder = await makeWritingFolder(options.folder);
  try {
    return await use(await receive(folder, chunks, options));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
