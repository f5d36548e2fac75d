/** Parquet files that pyarrow wrote (`test/parity/make_parquet.py`), against what pyarrow reads from them. */
import { copyFileSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { fileSource } from './containers/read-records.ts';
import { type Columns, NO_COLUMNS } from './file-layout.ts';
import { readExamples } from './read-examples.ts';

const GOLDEN = join(import.meta.dirname, '..', '..', 'test', 'parity', 'golden', 'parquet');

async function read(path: string, columns: Columns = NO_COLUMNS) {
  const options = { format: null, container: null, columns, inspect: false };
  const contents: unknown[] = [];
  const problems: unknown[] = [];
  let layout: unknown = null;
  for await (const piece of readExamples(fileSource(path), options)) {
    contents.push(...piece.examples.map(({ content }) => content));
    problems.push(...piece.problems);
    layout = piece.layout;
  }
  return { contents, problems, layout };
}

const golden = (name: string): string => join(GOLDEN, name);

function copyOf(name: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'luthier-parquet-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, name);
  copyFileSync(golden(name), path);
  return path;
}

describe('as pyarrow reads it', () => {
  it.each([
    ['messages', 'messages'],
    ['instruction', 'instruction'],
    ['tokens', 'tokens'],
    ['plain', 'prompt_completion'],
  ])('%s', async (name, format) => {
    const { contents, problems, layout } = await read(golden(`${name}.parquet`));
    const expected = await read(golden(`${name}.jsonl`));
    expect(expected.contents.length).toBeGreaterThan(19);
    expect({ contents, problems }).toEqual({ contents: expected.contents, problems: [] });
    expect(layout).toEqual({ format, container: 'parquet', compression: 'none' });
  });

  it('columns are mapped, and left out before they are decoded', async () => {
    const columns = { mapped: { text: 'output' }, ignored: ['instruction', 'input'] };
    const { contents } = await read(golden('instruction.parquet'), columns);
    expect(contents[3]).toMatchObject({ kind: 'messages', messages: [{}, { role: 'assistant', content: 'output 3' }] });
  });
});

describe('what is refused', () => {
  it('bytes that are no text, by row; other rows stay', async () => {
    const { contents, problems } = await read(golden('binary.parquet'));
    expect(contents).toHaveLength(3);
    expect(problems).toMatchObject([{ field: 'line[3]', reason: 'NOT_UTF8' }]);
  });

  it('a null within a list', async () => {
    const { contents, problems } = await read(golden('null_message.parquet'));
    expect(contents).toHaveLength(1);
    expect(problems).toMatchObject([{ field: 'line[1].messages[1]', description: expect.stringContaining('null') }]);
  });

  it('numbers and times where text is expected', async () => {
    const { problems } = await read(golden('numbers.parquet'));
    expect(problems).toMatchObject(
      [1, 1, 2, 2].map((line, index) => ({ field: `line[${line}].${index % 2 === 0 ? 'prompt' : 'completion'}` })),
    );
  });

  it('lists in a row group that would take too much memory, unless they are left out', async () => {
    const { problems } = await read(golden('large_group.parquet'));
    expect(problems).toMatchObject([
      {
        field: 'file',
        description: expect.stringMatching(/24 MiB.*found 26 MiB.*row_group_size/),
        reason: 'ROW_GROUP_TOO_LARGE',
      },
    ]);
    const without = await read(golden('large_group.parquet'), { mapped: {}, ignored: ['messages'] });
    expect(without.problems).not.toMatchObject([{ reason: 'ROW_GROUP_TOO_LARGE' }]);
  });

  it('a codec that is not built in, by name', async () => {
    const { problems } = await read(golden('lz4.parquet'));
    expect(problems).toMatchObject([
      { field: 'file', description: expect.stringMatching(/snappy.*LZ4/), reason: 'NOT_PARQUET' },
    ]);
  });

  it('a file cut off at any of many places', async () => {
    const path = copyOf('messages.parquet');
    for (let size = readFileSync(path).length - 1; size > 4; size -= 97) {
      truncateSync(path, size);
      expect((await read(path)).problems).toMatchObject([{ field: 'file', reason: 'NOT_PARQUET' }]);
    }
  });

  it('any damaged byte ends in examples or in problems, never in a failure', async () => {
    const path = copyOf('messages.parquet');
    const sound = readFileSync(path);
    for (let at = 4; at < sound.length; at += 41) {
      const damaged = Buffer.from(sound);
      damaged[at] = (damaged[at] as number) ^ 0xff;
      writeFileSync(path, damaged);
      const { contents, problems } = await read(path);
      expect(contents.length + problems.length).toBeGreaterThan(0);
    }
  });
});
