import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeEach, expect, onTestFinished, test, vi } from 'vitest';
import { readExamples } from '../engine/fake-examples.ts';
import { checkTokenFile } from '../engine/token-file.ts';
import { openTokenCache } from './token-cache.ts';
import type { TokenFileWriter } from './token-file-writer.ts';
import { learnedLabels } from './tokenize-examples.ts';

let folder = '';
const logger = { warn: vi.fn() };
const { signal } = new AbortController();

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'luthier-tokens-'));
  logger.warn.mockClear();
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
});

const key = (digit: string): string => digit.repeat(64);
const pathOf = (digit: string): string => join(folder, `${key(digit)}.tokens`);
const open = (maxBytes = 2 ** 20) => openTokenCache({ folder, maxBytes, logger });
const SUMMARY = { read: 2, overLength: { truncated: 0, shortened: 0, dropped: 0 }, encoder: null };

function example(ids: readonly number[]) {
  const [inputIds, labels] = [Uint32Array.from(ids), Int32Array.from(ids)];
  const content = { kind: 'tokens' as const, inputIds, labels };
  return { example: { index: 0, line: 1, content }, inputIds, labels, labelTokens: learnedLabels(labels) };
}

const make = vi.fn(async (writer: TokenFileWriter) => {
  await writer.add([example([1, 2, 3])]);
  await writer.add([]);
  await writer.add([example([4, 5])]);
  return SUMMARY;
});

async function once(digit: string, cache: Awaited<ReturnType<typeof open>>) {
  const found = await cache.get(key(digit), make, signal);
  await found.release();
  return found;
}

test('a file is made once, and found again by the next server', async () => {
  const made = await once('a', await open());
  expect(made).toMatchObject({ reused: false, summary: SUMMARY, header: { examples: 2, tokens: 5, labelTokens: 3 } });
  const found = await once('a', await open());
  expect(found).toMatchObject({ reused: true, summary: SUMMARY, header: made.header });
  const { inputIds, labels, offsets } = await readExamples({ path: found.path, part: 'all', heldOut: 0 });
  expect([[...inputIds], [...labels], [...offsets]]).toEqual([
    [1, 2, 3, 4, 5],
    [1, 2, 3, 4, 5],
    [0, 3, 5],
  ]);
  expect(logger.warn).not.toHaveBeenCalled();
});

test('a broken file is noticed, whichever byte differs and wherever it ends; it is made again and said so', async () => {
  const cache = await open();
  await once('a', cache);
  const whole = readFileSync(pathOf('a'));
  const flipped = [...whole.keys()].map((at) => {
    const bytes = Buffer.from(whole);
    bytes.writeUInt8(bytes.readUInt8(at) ^ 0x10, at);
    return bytes;
  });
  for (const [at, bytes] of flipped.entries()) {
    writeFileSync(pathOf('a'), bytes);
    await expect(checkTokenFile(pathOf('a'), signal), `byte ${at}`).rejects.toThrow();
  }
  const cut = [Buffer.alloc(0), whole.subarray(0, 100), whole.subarray(0, -1), Buffer.concat([whole, Buffer.alloc(1)])];
  for (const bytes of [...cut, flipped[20] ?? whole, flipped[130] ?? whole]) {
    writeFileSync(pathOf('a'), bytes);
    logger.warn.mockClear();
    expect(await once('a', cache)).toMatchObject({ reused: false });
    expect(logger.warn).toHaveBeenCalledOnce();
    expect(readFileSync(pathOf('a'))).toEqual(whole);
  }
});

test('a file under another name is not taken', async () => {
  const cache = await open();
  await once('a', cache);
  writeFileSync(pathOf('b'), readFileSync(pathOf('a')));
  expect(await once('b', cache)).toMatchObject({ reused: false, header: { key: key('b') } });
});

test('nothing is left of a file that could not be finished', async () => {
  const cache = await open();
  const fail = async (writer: TokenFileWriter): Promise<never> => {
    await writer.add([example([1, 2])]);
    throw new Error('no');
  };
  await expect(cache.get(key('a'), fail, signal)).rejects.toThrow('no');
  expect(readdirSync(folder)).toEqual([]);
  // What a crash leaves is gone with the next start.
  writeFileSync(join(folder, '.writing-1'), 'half');
  mkdirSync(join(folder, 'other'));
  await open();
  expect(readdirSync(folder)).toEqual([]);
});

test('files used longest ago go first, those in use never', async () => {
  const first = await once('a', await open());
  const { size } = statSync(first.path);
  const cache = await open(2 * size);
  await once('b', cache);
  utimesSync(pathOf('a'), 1, 1);
  utimesSync(pathOf('b'), 2, 2);
  // Use makes it the newest.
  await once('a', cache);
  expect(statSync(pathOf('a')).mtimeMs).toBeGreaterThan(2000);
  // Clocks stand still for some milliseconds: an order that they cannot change.
  utimesSync(pathOf('a'), 3, 3);
  const held = await cache.get(key('b'), make, signal);
  await once('c', cache);
  await once('d', cache);
  expect(readdirSync(folder).sort()).toEqual(['b', 'c', 'd'].map((digit) => `${key(digit)}.tokens`));
  utimesSync(pathOf('b'), 2, 2);
  await held.release();
  await held.release();
  expect(readdirSync(folder).sort()).toEqual(['c', 'd'].map((digit) => `${key(digit)}.tokens`));
  // A smaller limit holds from the start.
  await open(0);
  expect(readdirSync(folder)).toEqual([]);
});

test('two that make the same file at once both have it', async () => {
  const cache = await open(0);
  const [first, second] = await Promise.all([cache.get(key('a'), make, signal), cache.get(key('a'), make, signal)]);
  expect(first.path).toBe(second.path);
  await first.release();
  expect(readdirSync(folder)).toHaveLength(1);
  await second.release();
  expect(readdirSync(folder)).toEqual([]);
});

test('an abort ends the check, and the file stays', async () => {
  const cache = await open();
  await once('a', cache);
  await expect(cache.get(key('a'), make, AbortSignal.abort(new Error('stop')))).rejects.toThrow('stop');
  expect(readdirSync(folder)).toHaveLength(1);
  expect(logger.warn).not.toHaveBeenCalled();
});
