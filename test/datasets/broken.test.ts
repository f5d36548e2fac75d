/** Every broken file gives the problem that it has, and none takes more memory than a reader may. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, expect, it } from 'vitest';
import { fileSource } from '../../src/datasets/containers/read-records.ts';
import { NO_HINTS } from '../../src/datasets/file-layout.ts';
import { readExamples } from '../../src/datasets/read-examples.ts';
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
  const { stdout } = await promisify(execFile)(process.execPath, [script, path]);
  const { first, peakMebibytes } = JSON.parse(stdout) as { first: unknown; peakMebibytes: number };
  expect(first).toMatchObject({ field, reason });
  expect(peakMebibytes).toBeLessThan(BOUND_MEBIBYTES);
});
