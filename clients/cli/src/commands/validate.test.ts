import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ServerDuplexStream } from '@grpc/grpc-js';
import { afterAll, expect, test } from 'vitest';
import { DatasetServiceService } from '../../../typescript/src/gen/luthier/v1/dataset_service.ts';
import {
  type CheckDatasetHeader,
  type CheckDatasetRequest,
  CheckDatasetResponse,
  DatasetCompression,
  DatasetContainer,
  DatasetFormat,
  DatasetReport,
  OverLengthPolicy,
} from '../../../typescript/src/index.ts';
import { scriptedServer } from '../../../typescript/src/testing/scripted-server.ts';
import { run } from '../program.ts';
import { capturedIo } from '../testing/captured-io.ts';

const folder = mkdtempSync(join(tmpdir(), 'luthier-validate-'));
afterAll(() => rmSync(folder, { recursive: true }));
const file = join(folder, 'qa.csv');
writeFileSync(file, 'question,answer\na,b\n');

const sound = {
  format: DatasetFormat.DATASET_FORMAT_PROMPT_COMPLETION,
  container: DatasetContainer.DATASET_CONTAINER_CSV,
  compression: DatasetCompression.DATASET_COMPRESSION_GZIP,
  examples: 12,
  tokens: 340,
  labelTokens: 120,
  shortest: 7,
  longest: 90,
  maxSeqLength: 64,
  stepsPerEpoch: 2,
  totalSteps: 6,
  lengths: [
    { from: 1, to: 16, examples: 4 },
    { from: 17, to: 32, examples: 8 },
  ],
  longestExamples: [{ line: 9, tokens: 90 }],
  overLengthEffects: [
    { policy: OverLengthPolicy.OVER_LENGTH_POLICY_DROP_ROUNDS, examples: 3, lostExamples: 1, lostTokens: 26 },
  ],
};
const kinds = [
  {
    reason: 'NOT_JSON',
    refused: true,
    count: 2,
    problems: [{ field: 'line[7]', description: 'expected a brace', reason: 'NOT_JSON' }],
  },
  {
    reason: 'EMPTY_TURN',
    refused: false,
    count: 1,
    problems: [{ field: 'line[8].answer', description: 'expected text', reason: 'EMPTY_TURN' }],
  },
];

/** Runs the command against a server that answers with `report`. */
async function validate(
  args: readonly string[],
  report: Parameters<typeof DatasetReport.fromPartial>[0],
  terminal?: number,
) {
  const seen: { header?: CheckDatasetHeader; text: string } = { text: '' };
  await using server = await scriptedServer(DatasetServiceService, {
    checkDataset: async (call: ServerDuplexStream<CheckDatasetRequest, CheckDatasetResponse>) => {
      for await (const { part } of call as AsyncIterable<CheckDatasetRequest>) {
        if (part?.$case === 'header') seen.header = part.value;
        if (part?.$case === 'chunk') seen.text += part.value.toString();
      }
      const progress = { readBytes: 50, totalBytes: 200, examples: 3, problemCount: 1 };
      call.write(CheckDatasetResponse.create({ event: { $case: 'progress', value: progress } }));
      call.write(CheckDatasetResponse.create({ event: { $case: 'report', value: DatasetReport.fromPartial(report) } }));
      call.end();
    },
  });
  const io = capturedIo({ env: { LUTHIER_SERVER: server.address }, ...(terminal === undefined ? {} : { terminal }) });
  const code = await run(['validate', ...args], io);
  return { code, seen, out: io.out(), err: io.err() };
}

test('sends a file with what is said about it, and prints the whole report', async () => {
  const flags = ['--columns', 'prompt=question, completion=answer', '--ignore-columns', 'id', '--container', 'csv'];
  const more = ['--over-length', 'drop_rounds', '--max-seq-length', '64', '--num-train-epochs', '2.5'];
  const { code, seen, out, err } = await validate([file, '--model', 'm', ...flags, ...more], sound);
  expect(code).toBe(0);
  expect(seen.text).toBe('question,answer\na,b\n');
  expect(seen.header).toMatchObject({
    container: DatasetContainer.DATASET_CONTAINER_CSV,
    columns: { mapped: { prompt: 'question', completion: 'answer' }, ignored: ['id'] },
    validation: {
      model: 'models/m',
      maxSeqLength: 64,
      overLength: OverLengthPolicy.OVER_LENGTH_POLICY_DROP_ROUNDS,
      numTrainEpochs: 2.5,
    },
  });
  for (const part of [
    'prompt_completion, csv, gzip',
    '340 (7 to 90 each), 120 learned',
    '2 in an epoch, 6 in all',
    '17–32',
    'line[9]: 90',
    'drop_rounds  1              26',
    'no problems',
  ]) {
    expect(out).toContain(part);
  }
  expect(err).toBe('');
});

test('problems and notices by kind; the exit code says that there are problems', async () => {
  const { code, out } = await validate(['facts', '--model', 'm'], { ...sound, kinds, problemCount: 2 });
  expect(code).toBe(13);
  expect(out).toMatch(
    /NOT_JSON, 2\n {2}line\[7\]: expected a brace\n {2}… and 1 more\n\nEMPTY_TURN, 1\n {2}line\[8\]\.answer: expected text\n/,
  );
  expect(out).toMatch(/2 problems: a job would refuse this data set; 1 notices\n$/);
  const notices = await validate(['facts', '--model', 'm'], { ...sound, kinds: kinds.slice(1) });
  expect(notices).toMatchObject({ code: 0, seen: { header: { validation: { dataset: 'datasets/facts' } }, text: '' } });
});

test('JSON is the report alone; a terminal shows progress', async () => {
  const { out, err, code } = await validate([file, '--model', 'm', '--json'], { ...sound, kinds, problemCount: 2 }, 80);
  expect(code).toBe(13);
  expect(JSON.parse(out)).toMatchObject({
    examples: 12,
    sizeBytes: '0',
    kinds: [{ reason: 'NOT_JSON', count: 2 }, {}],
  });
  expect(err).toBe('');
  const shown = await validate([file, '--model', 'm'], sound, 80);
  expect(shown.err).toMatch(/sent 20 B of 20 B.*\r25 %, 3 examples, 1 problems/);
});

test.each([
  [[file, '--model', 'm', '--columns', 'question'], 'expected FIELD=COLUMN'],
  [[file, '--model', 'm', '--container', 'xlsx'], 'expected jsonl, json, csv, parquet'],
  [['facts', '--model', 'm', '--format', 'text'], 'facts is no file'],
])('%j is refused', async (args, message) => {
  const { code, err } = await validate(args, sound);
  expect(code).toBe(2);
  expect(err).toContain(message);
});
