/** Examples as arrays, wherever they are kept: the fake engine reads a token file whole. */
import { readFile } from 'node:fs/promises';
import type { ExampleData, TokenExamples, TokenFile } from './engine.ts';
import { EngineError } from './errors.ts';
import { checkTokenFile, HEADER_BYTES, placesOf, shareOf, TOKEN_BYTES } from './token-file.ts';

function joined(examples: readonly { readonly ids: Uint32Array; readonly labels: Int32Array }[]): TokenExamples {
  const offsets = new Uint32Array(examples.length + 1);
  examples.forEach(({ ids }, index) => {
    offsets[index + 1] = (offsets[index] ?? 0) + ids.length;
  });
  const tokens = offsets.at(-1) ?? 0;
  const found = { inputIds: new Uint32Array(tokens), labels: new Int32Array(tokens), offsets };
  examples.forEach(({ ids, labels }, index) => {
    found.inputIds.set(ids, offsets[index]);
    found.labels.set(labels, offsets[index]);
  });
  return found;
}

async function readTokenFile({ path, part, heldOut }: TokenFile): Promise<TokenExamples> {
  const { header } = await checkTokenFile(path, new AbortController().signal);
  const places = placesOf(header);
  const bytes = new Uint8Array(await readFile(path)).buffer;
  const ends = new BigUint64Array(bytes, places.ends, header.examples);
  const hashes = new Uint32Array(bytes, places.hashes, 2 * header.examples);
  const examples = Array.from({ length: header.examples }, (_, index) => {
    const first = Number(ends[index - 1] ?? 0n);
    const length = Number(ends[index]) - first;
    const at = HEADER_BYTES + TOKEN_BYTES * first;
    return { ids: new Uint32Array(bytes, at, length), labels: new Int32Array(bytes, at + 4 * length, length) };
  });
  const isHeldOut = (index: number): boolean => shareOf(hashes[2 * index + 1] ?? 0, hashes[2 * index] ?? 0) < heldOut;
  return joined(examples.filter((_, index) => part === 'all' || isHeldOut(index) === (part === 'evaluation')));
}

/** @throws EngineError IO where a file cannot be read */
export async function readExamples(data: ExampleData): Promise<TokenExamples> {
  if (!('path' in data)) return data;
  try {
    return await readTokenFile(data);
  } catch (error) {
    throw new EngineError('IO', `cannot read ${data.path}: ${(error as Error).message}`, { cause: error });
  }
}
