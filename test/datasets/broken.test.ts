/** Every broken file gives the problem that it has, and none takes more memory than a reader may. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, expect, it } from 'vitest';
import { fileSource } from '../../src/datasets/containers/read-records.ts';
import { NO_HINTS } from '../../src/datasets/file-layout.ts';
import { readExamples } from '../../src/datasets/read-examples.ts';
import { READER_FLAGS, readFile } from '../../src/datasets/read-file.ts';
import { BROKEN_FILES, HOSTILE_FILES } from '../fixtures/broken-datasets.ts';

const folder = mkdtempSync(join(tmpdir(), 'luthier-broken-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const path = join(folder, 'file');

it.each(BROKEN_FILES)('$what: $reason', async ({ bytes, field, reason }) => {
  writeFileSync(path, bytes());
  const problems: unknown[] = [];
  for await (const piece of readExamples(fileSource(path), { ...NO_HINTS, inspect: true }))
    problems.push(...piece.problems);
  expect(problems[0]).toMatchObject({ field, reason, description: expect.stringMatching(/expected|remove it/) });
});

/** Of a process with nothing else in it: Node itself takes some 60 MiB. */
const BOUND_MEBIBYTES = 360;

it.each(HOSTILE_FILES)('$what: $reason', { timeout: 120_000 }, async ({ bytes, field, reason }) => {
  writeFileSync(path, bytes());
  const script = join(import.meta.dirname, '..', 'fixtures', 'read-dataset.ts');
  const { stdout } = await promisify(execFile)(process.execPath, [...READER_FLAGS, script, path]);
  const { first, peakMebibytes } = JSON.parse(stdout) as { first: unknown; peakMebibytes: number };
  expect(first).toMatchObject({ field, reason });
  expect(peakMebibytes).toBeLessThan(BOUND_MEBIBYTES);
});

it('a file that its reader does not survive is a problem like any other', { timeout: 60_000 }, async () => {
  const sound = join(import.meta.dirname, '..', 'parity', 'golden', 'parquet', 'messages.parquet');
  const bytes = readFileSync(sound);
  // The length of a run in a page: the decoder then fills a list of two billion.
  const at = 312;
  bytes[at] = (bytes[at] as number) ^ 0xff;
  writeFileSync(path, bytes);
  const problems: unknown[] = [];
  for await (const piece of readFile(path, { ...NO_HINTS, inspect: true })) problems.push(...piece.problems);
  expect(problems).toMatchObject([{ field: 'file', reason: 'TOO_MUCH_MEMORY' }]);
});

it('leaving the loop, or aborting the signal, ends the reading', async () => {
  writeFileSync(path, `${'{"prompt":"a","completion":"b"}\n'.repeat(200_000)}`);
  for await (const piece of readFile(path, { ...NO_HINTS, inspect: false })) {
    expect(piece.examples.length).toBeGreaterThan(0);
    break;
  }
  const controller = new AbortController();
  const reason = new Error('enough');
  const reading = (async () => {
    for await (const piece of readFile(path, { ...NO_HINTS, inspect: false }, controller.signal)) {
      expect(piece.problems).toEqual([]);
      controller.abort(reason);
    }
  })();
  await expect(reading).rejects.toBe(reason);
});
