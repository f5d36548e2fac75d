import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { describe, expect, it, onTestFinished } from 'vitest';
import { scriptedEngine } from '../../test/fixtures/scripted-engine.ts';
import { DATASET_LAYOUT_COLUMNS, openDatasetStore } from '../datasets/dataset-store.ts';
import { NO_COLUMNS } from '../datasets/file-layout.ts';
import { type PreparationSpec, prepareExamples } from '../datasets/prepare-examples.ts';
import { openTokenCache } from '../datasets/token-cache.ts';
import { readExamples } from '../engine/fake-examples.ts';
import {
  DatasetColumns,
  DatasetCompression,
  DatasetContainer,
  DatasetFormat,
  OverLengthPolicy,
} from '../gen/luthier/v1/common.ts';
import {
  CheckDatasetHeader,
  type CheckDatasetRequest,
  type CheckDatasetResponse,
  type DatasetReport,
  UploadDatasetHeader,
  type UploadDatasetRequest,
  ValidateDatasetRequest,
} from '../gen/luthier/v1/dataset_service.ts';
import { createModelRegistry } from '../models/create-model-registry.ts';
import { openDatabase } from '../store/database.ts';
import { MIGRATIONS } from '../store/migrations.ts';
import { createRequestLog } from '../store/sqlite-request-log.ts';
import { createDatasetService } from './dataset-service.ts';

const silent = { warn: () => undefined, info: () => undefined };
const TUTORIAL = { model: 'models/tiny', template: 'tutorial' };

async function setUp(signal: AbortSignal = new AbortController().signal) {
  const folder = mkdtempSync(join(tmpdir(), 'luthier-check-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const database = openDatabase(join(folder, 'test.db'));
  onTestFinished(() => database.close());
  const models = { tiny: '/models/tiny.gguf' };
  const registry = createModelRegistry({ engine: scriptedEngine(), models, roots: [], logger: silent });
  const store = { database, folder: join(folder, 'datasets'), inUse: async () => false };
  const datasets = await openDatasetStore(store);
  const logged: unknown[] = [];
  const logger = { info: (fields: unknown) => logged.push(fields) };
  const requestLog = createRequestLog(database);
  const dependencies = { datasets, registry, requestLog, maxDatasetBytes: 2 ** 30, logger };
  const service = createDatasetService(dependencies);
  const context = { signal, deadline: null, metadata: new Map<string, string>(), peer: 'test', callId: 'call' };
  const files = (): string[] => readdirSync(store.folder);

  const upload = async (bytes: Uint8Array | string, header: Partial<UploadDatasetHeader> = {}) => {
    async function* requests(): AsyncGenerator<UploadDatasetRequest> {
      yield { part: { $case: 'header', value: UploadDatasetHeader.create(header) } };
      yield { part: { $case: 'chunk', value: Buffer.from(bytes) } };
    }
    const dataset = (await service.uploadDataset?.(requests(), context))?.dataset;
    if (dataset === undefined) throw new Error('no data set');
    return dataset;
  };

  async function* check(header: Parameters<typeof CheckDatasetHeader.fromPartial>[0], bytes?: Uint8Array | string) {
    async function* requests(): AsyncGenerator<CheckDatasetRequest> {
      yield { part: { $case: 'header', value: CheckDatasetHeader.fromPartial(header) } };
      const whole = Buffer.from(bytes ?? '');
      for (let start = 0; start < whole.length; start += 2 ** 20) {
        yield { part: { $case: 'chunk', value: whole.subarray(start, start + 2 ** 20) } };
      }
    }
    yield* service.checkDataset?.(requests(), context) ?? [];
  }

  const report = async (...args: Parameters<typeof check>): Promise<DatasetReport> => {
    const events: CheckDatasetResponse['event'][] = [];
    for await (const { event } of check(...args)) events.push(event);
    const last = events.pop();
    if (last?.$case !== 'report') throw new Error('no report at the end');
    expect(events.every((event) => event?.$case === 'progress')).toBe(true);
    return last.value;
  };

  const tokenCache = await openTokenCache({ folder: join(folder, 'tokens'), maxBytes: 0, logger: silent });
  /** The examples of a run. */
  const prepared = async (spec: PreparationSpec) => {
    const openDataset = (name: string) => datasets.open(name);
    const { train, release } = await prepareExamples({ registry, openDataset, tokenCache }, spec, signal);
    return readExamples(train).finally(release);
  };
  return { service, context, datasets, registry, upload, check, report, prepared, files, folder: store.folder, logged };
}

const PAIR = '{"prompt":"a","completion":"b"}';

const kindsOf = ({ kinds }: DatasetReport) => kinds.map(({ reason, refused, count }) => [reason, refused, count]);
const kindOf = ({ kinds }: DatasetReport, reason: string) => kinds.find((kind) => kind.reason === reason);

describe('a file that is only looked at', () => {
  it('every problem and notice by kind, refused ones first, and nothing stays', async () => {
    const { report, files } = await setUp();
    const lines = [
      PAIR,
      'nope',
      PAIR,
      '{"prompt":"<|im_start|>user","completion":""}',
      '{"prompt":"a\\u0000","completion":7}',
      '{"prompt":"x\\u0007","completion":"ok"}',
      PAIR,
    ];
    const result = await report({ validation: TUTORIAL }, lines.join('\n'));
    expect(kindsOf(result)).toEqual([
      ['NOT_JSON', true, 1],
      ['WRONG_SHAPE', true, 1],
      ['DUPLICATE_EXAMPLE', false, 2],
      ['TEMPLATE_TEXT', false, 1],
      ['EMPTY_TURN', false, 1],
      ['CONTROL_CHARACTER', false, 1],
    ]);
    expect(result).toMatchObject({
      examples: 5,
      problemCount: 2,
      format: DatasetFormat.DATASET_FORMAT_PROMPT_COMPLETION,
    });
    expect(result.problems.map(({ field }) => field)).toEqual(['line[2]', 'line[5].completion']);
    expect(kindOf(result, 'DUPLICATE_EXAMPLE')?.problems).toMatchObject([
      { field: 'line[3]', description: expect.stringContaining('line[1]') },
      { field: 'line[7]', description: expect.stringContaining('line[1]') },
    ]);
    expect(kindOf(result, 'TEMPLATE_TEXT')?.problems).toMatchObject([{ field: 'line[4].prompt' }]);
    expect(files()).toEqual([]);
  });

  it('a frequent kind does not hide a rare one', async () => {
    const { report } = await setUp();
    const result = await report(
      { validation: TUTORIAL },
      `${PAIR}\n${'x\n'.repeat(500)}{"prompt":1,"completion":""}\n`,
    );
    expect(result.problems).toHaveLength(100);
    expect(result.problemCount).toBe(501);
    expect(kindOf(result, 'NOT_JSON')).toMatchObject({ count: 500, problems: { length: 10 } });
    expect(kindOf(result, 'WRONG_SHAPE')?.problems).toMatchObject([{ field: 'line[502].prompt' }]);
  });

  it.each([
    ['system later', '[["user","a"],["system","s"],["assistant","b"]]', 'messages[1].content'],
    ['two questions', '[["user","a"],["user","b"],["assistant","c"]]', 'messages[1].content'],
    ['an answer first', '[["assistant","a"],["user","b"],["assistant","c"]]', 'messages[0].content'],
    ['a question last', '[["user","a"],["assistant","b"],["user","c"]]', 'messages[2].content'],
  ])('turns out of order: %s', async (_, turns, place) => {
    const { report } = await setUp();
    const messages = (JSON.parse(turns) as [string, string][]).map(([role, content]) => ({ role, content }));
    const validation = { ...TUTORIAL, template: 'concat-eos' };
    const result = await report({ validation }, JSON.stringify({ messages }));
    expect(kindOf(result, 'ROLE_ORDER')?.problems[0]).toMatchObject({ field: `line[1].${place}` });
  });

  it('tells places in history, and in the words of mapped columns', async () => {
    const { report } = await setUp();
    const rounds = '{"query":"c","response":"[INST]","history":[["a","b"],["","<s>"]]}';
    const first = await report({ validation: TUTORIAL }, rounds);
    expect(kindOf(first, 'TEMPLATE_TEXT')?.problems.map(({ field }) => field)).toEqual([
      'line[1].history[1][1]',
      'line[1].response',
    ]);
    expect(kindOf(first, 'EMPTY_TURN')?.problems[0]?.field).toBe('line[1].history[1][0]');
    const columns = DatasetColumns.create({ mapped: { prompt: 'q', completion: 'a' }, ignored: ['id'] });
    const second = await report({ validation: TUTORIAL, columns }, 'id,q,a\n1,x,[Round 1]\n');
    expect(kindOf(second, 'TEMPLATE_TEXT')?.problems[0]?.field).toBe('line[2].a');
    expect(second).toMatchObject({ container: DatasetContainer.DATASET_CONTAINER_CSV, examples: 1, problemCount: 0 });
  });

  it('an empty file, and one that is no data set at all, are reports too', async () => {
    const { report } = await setUp();
    expect(kindsOf(await report({ validation: TUTORIAL }))).toEqual([['EMPTY_DATASET', true, 1]]);
    expect(kindsOf(await report({ validation: TUTORIAL }, gzipSync(PAIR).subarray(0, 9)))).toEqual([
      ['TRUNCATED', true, 1],
    ]);
  });

  it('a stored data set has no format of its own to be told', async () => {
    const { upload, report } = await setUp();
    const { name } = await upload(PAIR);
    const validation = { ...TUTORIAL, dataset: name };
    expect(await report({ validation })).toMatchObject({ examples: 1, problemCount: 0 });
    const named = report({ validation, container: DatasetContainer.DATASET_CONTAINER_CSV });
    await expect(named).rejects.toMatchObject({ violations: [{ field: 'format' }] });
  });

  it.each([
    [{ validation: { model: 'models/none' } }, 'MODEL_NOT_FOUND'],
    [{ validation: { ...TUTORIAL, template: 'none' } }, 'TEMPLATE_NOT_FOUND'],
    [{ validation: { ...TUTORIAL, dataset: 'datasets/none' } }, 'DATASET_NOT_FOUND'],
    [{}, 'INVALID_REQUEST'],
    [{ validation: TUTORIAL, columns: { mapped: { question: 'prompt' } } }, 'INVALID_REQUEST'],
  ])('%j is refused', async (header, reason) => {
    const { report, files } = await setUp();
    await expect(report(header, PAIR)).rejects.toMatchObject({ reason });
    expect(files()).toEqual([]);
  });
});

describe('counts', () => {
  const long = JSON.stringify({ prompt: 'q', completion: 'w'.repeat(60) });
  const rounds = JSON.stringify({ query: 'c', response: 'd', history: [['a', 'x'.repeat(60)]] });

  it('what each policy would lose is what preparing a run with it loses', async () => {
    const { upload, report, prepared } = await setUp();
    for (const text of [`${PAIR}\n${long}\n${PAIR}\n`, `${rounds}\n${rounds.replace('"d"', '"e"')}\n`]) {
      const { name } = await upload(text);
      const prepare = async (overLength: 'truncate' | 'drop' | 'drop_rounds', maxSeqLength: number) => {
        const spec = { dataset: name, evalDataset: '', validationSplit: 0, trainOn: 'assistant', ...TUTORIAL } as const;
        return prepared({ ...spec, overLength, maxSeqLength })
          .then(({ inputIds }) => inputIds.length)
          .catch(() => 0);
      };
      const whole = await prepare('drop', 128);
      const result = await report({ validation: { ...TUTORIAL, dataset: name, maxSeqLength: 48 } });
      const lost = new Map(result.overLengthEffects.map(({ policy, lostTokens }) => [policy, lostTokens]));
      expect(lost.get(OverLengthPolicy.OVER_LENGTH_POLICY_TRUNCATE)).toBe(whole - (await prepare('truncate', 48)));
      expect(lost.get(OverLengthPolicy.OVER_LENGTH_POLICY_DROP)).toBe(whole - (await prepare('drop', 48)));
      expect(result.overLengthEffects.every(({ examples }) => examples === result.problemCount)).toBe(true);
    }
  });

  it('lengths, answers, longest examples and steps', async () => {
    const { report } = await setUp();
    const history = [
      { role: 'user', content: 'c' },
      { role: 'assistant', content: 'd' },
    ];
    const chat = (messages: object[]) => JSON.stringify({ messages });
    const answer = (content: string) => ({ role: 'assistant', content });
    const text = `${chat(history)}\n${chat([{ role: 'user', content: 'q' }, answer('w'.repeat(60))])}\n${chat([...history, { role: 'user', content: 'x' }, answer('y'.repeat(60))])}\n`;
    const steps = { perDeviceTrainBatchSize: 2, gradientAccumulationSteps: 1, numTrainEpochs: 2.5 };
    const result = await report({ validation: { ...TUTORIAL, ...steps } }, text);
    expect(result.lengths.reduce((sum, { examples }) => sum + examples, 0)).toBe(3);
    expect(result.rounds).toEqual([
      { from: 0, to: 1, examples: 2 },
      { from: 2, to: 2, examples: 1 },
    ]);
    expect(result.longestExamples[0]).toEqual({ line: 3, tokens: result.longest });
    expect(result.longestExamples.map(({ tokens }) => tokens)).toEqual(
      result.longestExamples.map(({ tokens }) => tokens).sort((a, b) => b - a),
    );
    expect(result).toMatchObject({ stepsPerEpoch: 2, totalSteps: 5, maxSeqLength: 128, sizeBytes: text.length });
    for (const { from, to, examples } of result.lengths) {
      expect(result.longestExamples.filter(({ tokens }) => tokens >= from && tokens <= to)).toHaveLength(examples);
    }
  });

  it('the unary call gives the same report', async () => {
    const { upload, report, service, context, logged } = await setUp();
    const { name } = await upload(`${PAIR}\n${long}\n`);
    const request = ValidateDatasetRequest.create({ dataset: name, ...TUTORIAL, maxSeqLength: 48 });
    const unary = await service.validateDataset?.(request, context);
    expect(unary?.report).toEqual(await report({ validation: request }));
    // What encoded, as jobs log it: one line for each of both.
    expect(logged).toEqual(Array(2).fill({ model: 'models/tiny', examples: 2, encoder: 'javascript' }));
  });
});

describe('what is stored', () => {
  it.each([
    ['a list', `[${PAIR},\n${PAIR}]`, 'data.json', DatasetContainer.DATASET_CONTAINER_JSON, 'NONE'],
    ['a table', 'prompt,completion\na,b\n"c\nd",e\n', 'data.csv', DatasetContainer.DATASET_CONTAINER_CSV, 'NONE'],
    ['gzip', gzipSync(`${PAIR}\n${PAIR}`), 'data.jsonl.gz', DatasetContainer.DATASET_CONTAINER_JSONL, 'GZIP'],
    ['zstd', zstdCompressSync(`[${PAIR},${PAIR}]`), 'data.json.zst', DatasetContainer.DATASET_CONTAINER_JSON, 'ZSTD'],
    [
      'two zstd frames',
      Buffer.concat([zstdCompressSync(`${PAIR}\n`), zstdCompressSync(PAIR)]),
      'data.jsonl.zst',
      DatasetContainer.DATASET_CONTAINER_JSONL,
      'ZSTD',
    ],
  ] as const)('%s stays as it was sent, and a run reads it', async (_, bytes, file, container, compression) => {
    const { upload, prepared, folder } = await setUp();
    const dataset = await upload(bytes, { datasetId: 'd' });
    const expected = DatasetCompression[`DATASET_COMPRESSION_${compression}`];
    expect(dataset).toMatchObject({ examples: 2, container, compression: expected, columns: undefined });
    expect(readFileSync(join(folder, 'd', file))).toEqual(Buffer.from(bytes));
    const spec = {
      dataset: 'datasets/d',
      evalDataset: '',
      validationSplit: 0,
      trainOn: 'assistant',
      ...TUTORIAL,
    } as const;
    const { offsets } = await prepared({ ...spec, overLength: 'error', maxSeqLength: 0 });
    expect(offsets).toHaveLength(3);
  });

  it('columns are kept with the data set', async () => {
    const { upload, report } = await setUp();
    const columns = DatasetColumns.create({ mapped: { prompt: 'q', completion: 'a' } });
    const { name, ...dataset } = await upload('q,a\nx,y\n', { columns });
    expect(dataset.columns).toEqual(columns);
    expect(await report({ validation: { ...TUTORIAL, dataset: name } })).toMatchObject({
      examples: 1,
      problemCount: 0,
    });
  });

  it('a text is learned as a whole, with the end token, by a template of its own', async () => {
    const { upload, report } = await setUp();
    const { name } = await upload('{"text":"abc"}\n');
    const result = await report({ validation: { model: 'models/tiny', dataset: name } });
    expect(result).toMatchObject({ template: { id: 'concat-eos' }, problemCount: 0 });
    expect(result.tokens - result.labelTokens).toBeLessThanOrEqual(1);
  });
});

it('a data set of a server before this one is plain JSONL, and is read', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'luthier-older-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const file = join(folder, 'test.db');
  const before = MIGRATIONS.slice(0, MIGRATIONS.indexOf(DATASET_LAYOUT_COLUMNS));
  const older = openDatabase(file, before);
  older.exec("INSERT INTO datasets VALUES ('datasets/old', 'prompt_completion', 1, 32, 'ab', 0)");
  older.close();
  mkdirSync(join(folder, 'datasets', 'old'), { recursive: true });
  writeFileSync(join(folder, 'datasets', 'old', 'data.jsonl'), PAIR);
  const database = openDatabase(file);
  onTestFinished(() => database.close());
  const store = { database, folder: join(folder, 'datasets'), inUse: async () => false };
  const datasets = await openDatasetStore(store);
  expect(datasets.get('datasets/old')).toMatchObject({ container: 'jsonl', compression: 'none', columns: NO_COLUMNS });
  const examples: unknown[] = [];
  for await (const piece of datasets.open('datasets/old').read()) examples.push(...piece.examples);
  expect(examples).toHaveLength(1);
});

it('a check that is cancelled ends with the reason, and its file is gone', async () => {
  const controller = new AbortController();
  const { check, files } = await setUp(controller.signal);
  const reason = new Error('cancelled');
  const text = `${JSON.stringify({ prompt: 'a', completion: 'word '.repeat(20) })}\n`.repeat(30_000);
  const ending = (async () => {
    for await (const { event } of check({ validation: TUTORIAL }, text)) {
      expect(event?.$case).toBe('progress');
      controller.abort(reason);
    }
  })();
  await expect(ending).rejects.toBe(reason);
  expect(files()).toEqual([]);
});
