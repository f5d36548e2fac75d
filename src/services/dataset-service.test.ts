import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { describe, expect, it, onTestFinished } from 'vitest';
import { scriptedEngine } from '../../test/fixtures/scripted-engine.ts';
import { openDatasetStore } from '../datasets/dataset-store.ts';
import { prepareExamples } from '../datasets/prepare-examples.ts';
import { openTokenCache } from '../datasets/token-cache.ts';
import { readExamples } from '../engine/fake-examples.ts';
import { DatasetContainer, DatasetFormat, OverLengthPolicy, type TrainOn } from '../gen/luthier/v1/common.ts';
import {
  DeleteDatasetRequest,
  ListDatasetsRequest,
  PreviewExamplesRequest,
  UploadDatasetHeader,
  type UploadDatasetRequest,
  ValidateDatasetRequest,
} from '../gen/luthier/v1/dataset_service.ts';
import { createModelRegistry } from '../models/create-model-registry.ts';
import type { CallContext } from '../rpc/handlers.ts';
import { openDatabase } from '../store/database.ts';
import { createRequestLog } from '../store/sqlite-request-log.ts';
import { createDatasetService } from './dataset-service.ts';

const silent = { warn: () => undefined, info: () => undefined };
const context: CallContext = {
  signal: new AbortController().signal,
  deadline: null,
  metadata: new Map(),
  peer: 'test',
  callId: 'call',
};

async function setUp(options: { readonly maxDatasetBytes?: number; readonly used?: string } = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'luthier-datasets-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const database = openDatabase(join(folder, 'test.db'));
  onTestFinished(() => database.close());
  const registry = createModelRegistry({
    engine: scriptedEngine(),
    models: { tiny: '/models/tiny.gguf' },
    roots: [],
    logger: silent,
  });
  const store = { database, folder: join(folder, 'datasets'), inUse: async (name: string) => name === options.used };
  const datasets = await openDatasetStore(store);
  const requestLog = createRequestLog(database);
  const maxDatasetBytes = options.maxDatasetBytes ?? 2 ** 30;
  const service = createDatasetService({ datasets, registry, requestLog, maxDatasetBytes, logger: silent });
  const method = <Name extends keyof typeof service>(name: Name): NonNullable<(typeof service)[Name]> => {
    const handler = service[name];
    if (!handler) throw new Error(`${name} has no handler`);
    return handler;
  };
  const upload = async (parts: AsyncIterable<UploadDatasetRequest> | UploadDatasetRequest[]) => {
    const requests = (async function* () {
      yield* parts;
    })();
    const { dataset } = await method('uploadDataset')(requests, context);
    if (!dataset) throw new Error('no data set');
    return dataset;
  };
  const send = (text: string, header: Partial<UploadDatasetHeader> = {}) => upload(parts(text, header));
  const reopened = () => openDatasetStore(store);
  const files = () => readdirSync(store.folder);
  return { registry, datasets, method, upload, send, reopened, files, folder: store.folder };
}

function parts(text: string, header: Partial<UploadDatasetHeader> = {}): UploadDatasetRequest[] {
  const bytes = Buffer.from(text);
  const pieces = Array.from({ length: Math.ceil(bytes.length / 50) }, (_, i) => bytes.subarray(50 * i, 50 * (i + 1)));
  return [
    { part: { $case: 'header', value: UploadDatasetHeader.create(header) } },
    ...pieces.map((value) => ({ part: { $case: 'chunk' as const, value: Buffer.from(value) } })),
  ];
}

const line = (question: string, answer: string): string =>
  JSON.stringify({
    messages: [
      { role: 'user', content: question },
      { role: 'assistant', content: answer },
    ],
  });
const TEXT = `${line('one?', 'a b')}\n${line('two?', 'c 好')}\n\n${line('three?', 'd')}\n`;
/** A number that no enumeration has. */
const UNKNOWN: number = 99;
const TUTORIAL = { model: 'models/tiny', template: 'tutorial' };

describe('upload', () => {
  it('stores the file as it is and says what it found', async () => {
    const { send, folder, files } = await setUp();
    const dataset = await send(TEXT, { datasetId: 'facts' });
    const sha256 = createHash('sha256').update(TEXT).digest('hex');
    const format = DatasetFormat.DATASET_FORMAT_MESSAGES;
    expect(dataset).toMatchObject({
      name: 'datasets/facts',
      examples: 3,
      format,
      sizeBytes: Buffer.byteLength(TEXT),
      sha256,
    });
    expect(readFileSync(join(folder, 'facts', 'data.jsonl'), 'utf8')).toBe(TEXT);
    expect(files()).toEqual(['facts']);
  });

  const header = (value: Partial<UploadDatasetHeader>): UploadDatasetRequest => ({
    part: { $case: 'header', value: UploadDatasetHeader.create(value) },
  });
  const chunk = (bytes: number): UploadDatasetRequest => ({ part: { $case: 'chunk', value: Buffer.alloc(bytes, 32) } });

  it.each<[string, UploadDatasetRequest[], object]>([
    ['nothing at all', [], { reason: 'INVALID_REQUEST' }],
    ['no header', [chunk(1)], { reason: 'INVALID_REQUEST', violations: [{ field: 'header' }] }],
    ['two headers', [header({}), header({})], { reason: 'INVALID_REQUEST', violations: [{ field: 'chunk' }] }],
    ['a piece that is too large', [header({}), chunk(2 ** 20 + 1)], { reason: 'INVALID_REQUEST' }],
    ['an empty file', [header({})], { reason: 'DATASET_INVALID', violations: [{ reason: 'EMPTY_DATASET' }] }],
    ['blank lines only', [header({}), chunk(9)], { reason: 'DATASET_INVALID' }],
    ['an id with a slash', [header({ datasetId: '../x' })], { violations: [{ field: 'dataset_id' }] }],
    ['a hash that is none', [header({ sha256: 'ab' })], { violations: [{ field: 'sha256' }] }],
    ['an unknown format', [header({ format: UNKNOWN as DatasetFormat })], { violations: [{ field: 'format' }] }],
    ['another hash', parts(TEXT, { sha256: '0'.repeat(64) }), { reason: 'CHECKSUM_MISMATCH' }],
    [
      'a line that is broken',
      parts(`${TEXT}{"messages":7}`),
      { reason: 'DATASET_INVALID', violations: [{ field: 'line[5].messages' }] },
    ],
  ])('%s is refused and leaves nothing', async (_, requests, error) => {
    const { upload, files, datasets } = await setUp();
    await expect(upload(requests)).rejects.toMatchObject(error);
    expect(files()).toEqual([]);
    expect(datasets.list('', 10)).toEqual([]);
  });

  it('a client that vanishes leaves no file and no row', async () => {
    const { upload, files, datasets } = await setUp();
    const gone = new Error('gone');
    async function* cut() {
      yield* parts(TEXT).slice(0, 3);
      expect(files()).toHaveLength(1);
      throw gone;
    }
    await expect(upload(cut())).rejects.toBe(gone);
    expect(files()).toEqual([]);
    expect(datasets.list('', 10)).toEqual([]);
  });

  it('the size limit is told', async () => {
    const { send, files } = await setUp({ maxDatasetBytes: 100 });
    await expect(send(TEXT)).rejects.toMatchObject({
      reason: 'MESSAGE_TOO_LARGE',
      message: expect.stringContaining('100'),
    });
    expect(files()).toEqual([]);
  });

  it('a hundred problems end it; all of them are told', async () => {
    const { send } = await setUp();
    const error = await send('x\n'.repeat(500)).catch((caught: unknown) => caught);
    expect(error).toMatchObject({ reason: 'DATASET_INVALID' });
    expect((error as { violations: unknown[] }).violations).toHaveLength(100);
  });

  const many = (row: (n: string) => string): string =>
    Array.from({ length: 6000 }, (_, n) => row(createHash('sha256').update(`${n}`).digest('hex'))).join('\n');
  it.each([
    ['JSONL', Buffer.from(many((hash) => `{"text": ${hash}`)), 'NOT_JSON'],
    ['CSV', Buffer.from(`prompt,completion\n${many((hash) => hash)}`), 'WRONG_COLUMN_COUNT'],
    ['a list in JSON', Buffer.from(`[${many((hash) => `"${hash}",`)}`), 'WRONG_SHAPE'],
    ['gzip', gzipSync(many((hash) => hash)), 'NOT_JSON'],
    ['zstd', zstdCompressSync(many((hash) => hash)), 'NOT_JSON'],
  ])('a hundred problems in %s end it before all has arrived, and nothing stays', async (_, bytes, reason) => {
    const { upload, files } = await setUp();
    const [header] = parts('');
    const never = Promise.withResolvers<UploadDatasetRequest>();
    async function* unfinished() {
      if (header) yield header;
      yield { part: { $case: 'chunk' as const, value: bytes } };
      yield never.promise;
    }
    const error = await upload(unfinished()).catch((caught: unknown) => caught);
    expect(error).toMatchObject({ reason: 'DATASET_INVALID' });
    const { violations } = error as { violations: { reason: string }[] };
    expect(violations).toHaveLength(100);
    expect(violations.at(-1)).toMatchObject({ reason });
    expect(files()).toEqual([]);
  });

  it('what is read while it arrives is what is stored', async () => {
    const { send, upload } = await setUp();
    const rows = Array.from({ length: 4000 }, (_, n) => line(`${n}?`, 'a'));
    const { examples, sizeBytes } = await send(rows.join('\n'));
    expect({ examples, sizeBytes }).toEqual({ examples: 4000, sizeBytes: Buffer.byteLength(rows.join('\n')) });
    // Parquet with room before its index, which says where everything stands.
    const golden = readFileSync(join(import.meta.dirname, '../../test/parity/golden/parquet/instruction.parquet'));
    const index = golden.length - 8 - golden.readUInt32LE(golden.length - 8);
    const [header] = parts('');
    async function* parquet() {
      if (header) yield header;
      for (const value of [golden.subarray(0, index), Buffer.alloc(200_000), golden.subarray(index)]) {
        yield { part: { $case: 'chunk' as const, value } };
        await setTimeout(20);
      }
    }
    expect(await upload(parquet())).toMatchObject({
      examples: 40,
      container: DatasetContainer.DATASET_CONTAINER_PARQUET,
    });
  });

  it('a name is taken once', async () => {
    const { send, files } = await setUp();
    await send(TEXT, { datasetId: 'facts' });
    await expect(send(TEXT, { datasetId: 'facts' })).rejects.toMatchObject({ reason: 'DATASET_EXISTS' });
    const both = await Promise.allSettled([send(TEXT, { datasetId: 'b' }), send(TEXT, { datasetId: 'b' })]);
    expect(both.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    expect(files().sort()).toEqual(['b', 'facts']);
  });

  it('a request_id gives the first answer for the same file, and refuses another one', async () => {
    const { send, files } = await setUp();
    const first = await send(TEXT, { requestId: 'r', datasetId: 'facts' });
    expect(await send(TEXT, { requestId: 'r', datasetId: 'facts' })).toEqual(first);
    await expect(send(`${TEXT}\n`, { requestId: 'r', datasetId: 'facts' })).rejects.toMatchObject({
      reason: 'REQUEST_ID_REUSED',
    });
    expect(files()).toEqual(['facts']);
  });

  it('what a crash left is gone after the next start; what is stored stays', async () => {
    const { send, upload, reopened, files } = await setUp();
    await send(TEXT, { datasetId: 'facts' });
    const hangs = Promise.withResolvers<UploadDatasetRequest>();
    async function* half() {
      yield* parts(TEXT).slice(0, 3);
      yield hangs.promise;
    }
    const cut = upload(half());
    await expect.poll(() => files().length).toBe(2);
    await reopened();
    expect(files()).toEqual(['facts']);
    hangs.reject(new Error('gone'));
    await expect(cut).rejects.toThrow('gone');
  });
});

describe('validate', () => {
  it('counts what a model will read', async () => {
    const { send, method, datasets, registry, folder } = await setUp();
    const { name } = await send(TEXT);
    const { report } = await method('validateDataset')(
      ValidateDatasetRequest.create({ dataset: name, ...TUTORIAL }),
      context,
    );
    const spec = { dataset: name, evalDataset: '', validationSplit: 0, trainOn: 'assistant', maxSeqLength: 0 } as const;
    const openDataset = (dataset: string) => datasets.open(dataset);
    const tokenCache = await openTokenCache({ folder: join(folder, 'tokens'), maxBytes: 0, logger: silent });
    const prepared = await prepareExamples(
      { registry, openDataset, tokenCache },
      { ...spec, ...TUTORIAL, overLength: 'error' },
      context.signal,
    );
    const train = await readExamples(prepared.train);
    const lengths = [...train.offsets].slice(1).map((end, i) => end - (train.offsets[i] ?? 0));
    expect(report).toMatchObject({
      examples: 3,
      tokens: train.inputIds.length,
      labelTokens: train.labels.filter((label) => label !== -100).length,
      shortest: Math.min(...lengths),
      longest: Math.max(...lengths),
      problemCount: 0,
      template: { id: 'tutorial' },
    });
  });

  it('reports every example that is too long, by line', async () => {
    const { send, method } = await setUp();
    const { name } = await send(TEXT);
    const ask = (overLength: OverLengthPolicy) =>
      method('validateDataset')(
        ValidateDatasetRequest.create({ dataset: name, ...TUTORIAL, maxSeqLength: 5, overLength }),
        context,
      );
    const { report } = await ask(OverLengthPolicy.OVER_LENGTH_POLICY_ERROR);
    expect(report).toMatchObject({ problemCount: 3, examples: 3, tokens: 0, shortest: 0 });
    expect(report?.problems.map(({ field, reason }) => [field, reason])).toEqual(
      ['line[1]', 'line[2]', 'line[4]'].map((field) => [field, 'SEQUENCE_TOO_LONG']),
    );
    expect(report?.warnings).toEqual([]);
    expect((await ask(OverLengthPolicy.OVER_LENGTH_POLICY_DROP)).report).toMatchObject({
      problemCount: 0,
      warnings: [expect.stringMatching(/^3 examples were left out.*5 tokens/)],
    });
  });

  it.each([
    [{ dataset: 'datasets/none', model: 'models/tiny' }, { reason: 'DATASET_NOT_FOUND' }],
    [{ model: 'models/none' }, { reason: 'MODEL_NOT_FOUND' }],
    [{ ...TUTORIAL, template: 'none' }, { reason: 'TEMPLATE_NOT_FOUND' }],
    [{ ...TUTORIAL, maxSeqLength: 129 }, { violations: [{ field: 'max_seq_length' }] }],
    [{ ...TUTORIAL, trainOn: UNKNOWN as TrainOn }, { violations: [{ field: 'train_on' }] }],
  ])('%j is refused', async (request, error) => {
    const { send, method } = await setUp();
    const { name } = await send(TEXT);
    const validate = method('validateDataset')(ValidateDatasetRequest.create({ dataset: name, ...request }), context);
    await expect(validate).rejects.toMatchObject(error);
  });
});

describe('preview', () => {
  it('shows tokens, labels and segments; their texts are the rendered example', async () => {
    const { send, method } = await setUp();
    const { name } = await send(TEXT);
    const source = { $case: 'dataset' as const, value: name };
    const request = PreviewExamplesRequest.create({ source, ...TUTORIAL, indices: [2, 0] });
    const { examples, template } = await method('previewExamples')(request, context);
    expect(template).toMatchObject({ id: 'tutorial' });
    expect(examples.map(({ index }) => index)).toEqual([2, 0]);
    const [third] = examples;
    const learned = third?.tokens.filter(({ label }) => label !== -100) ?? [];
    expect(learned).toHaveLength(third?.labelTokens ?? -1);
    const answer = third?.tokens.filter(({ segment }) => segment === 'answer').map(({ text }) => text) ?? [];
    expect(answer.join('')).toContain('d');
    const characters = [...(third?.text ?? '')];
    expect(characters.length).toBeGreaterThan(10);
    for (const { text, piece, start, end } of third?.tokens ?? []) {
      expect(piece).not.toBe('');
      // Bytes that are no text of their own share one character.
      if (/^<0x/.test(text)) expect(end - start).toBe(1);
      else expect(characters.slice(start, end).join('')).toBe(text);
    }
  });

  it('inline text, exact ids: no template is needed', async () => {
    const { method } = await setUp();
    const source = { $case: 'inline' as const, value: '{"input_ids":[5,6],"labels":[-100,6]}' };
    const { examples, template } = await method('previewExamples')(
      PreviewExamplesRequest.create({ source, model: 'models/tiny' }),
      context,
    );
    expect(template).toBeUndefined();
    expect(examples).toMatchObject([
      {
        labelTokens: 1,
        tokens: [
          { id: 5, label: -100, segment: 'tokens' },
          { id: 6, label: 6, segment: 'tokens' },
        ],
      },
    ]);
  });

  it.each([
    [{ source: undefined }, { violations: [{ field: 'source' }] }],
    [{ indices: [3] }, { violations: [{ field: 'indices[0]' }] }],
    [
      { source: { $case: 'inline' as const, value: `${TEXT}{` } },
      { reason: 'DATASET_INVALID', violations: [{ field: 'line[5]' }] },
    ],
    [
      { source: { $case: 'inline' as const, value: '{"input_ids":[999],"labels":[1]}' } },
      { reason: 'DATASET_INVALID' },
    ],
  ])('%j is refused', async (more, error) => {
    const { method } = await setUp();
    const source = { $case: 'inline' as const, value: TEXT };
    const preview = method('previewExamples')(PreviewExamplesRequest.create({ source, ...TUTORIAL, ...more }), context);
    await expect(preview).rejects.toMatchObject(error);
  });
});

describe('lists and deletion', () => {
  it('pages by name', async () => {
    const { send, method } = await setUp();
    for (const datasetId of ['c', 'a', 'b']) await send(TEXT, { datasetId });
    const list = (request: Partial<ListDatasetsRequest>) =>
      method('listDatasets')(ListDatasetsRequest.create(request), context);
    const first = await list({ pageSize: 2 });
    expect(first.datasets.map(({ name }) => name)).toEqual(['datasets/a', 'datasets/b']);
    const second = await list({ pageSize: 2, pageToken: first.nextPageToken });
    expect(second).toMatchObject({ datasets: [{ name: 'datasets/c' }], nextPageToken: '' });
    await expect(list({ pageToken: 'xx' })).rejects.toMatchObject({ violations: [{ field: 'page_token' }] });
  });

  it('deletes once; a data set in use stays', async () => {
    const { send, method, files } = await setUp({ used: 'datasets/used' });
    await send(TEXT, { datasetId: 'used' });
    await send(TEXT, { datasetId: 'free' });
    const remove = (name: string, requestId = '') =>
      method('deleteDataset')(DeleteDatasetRequest.create({ name, requestId }), context);
    await expect(remove('datasets/used')).rejects.toMatchObject({ reason: 'DATASET_IN_USE' });
    await remove('datasets/free', 'r');
    await remove('datasets/free', 'r');
    await expect(remove('datasets/free')).rejects.toMatchObject({ reason: 'DATASET_NOT_FOUND' });
    expect(files()).toEqual(['used']);
  });
});
