import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ServerReadableStream, ServerUnaryCall, ServerWritableStream, sendUnaryData } from '@grpc/grpc-js';
import { afterAll, expect, test } from 'vitest';
import { DatasetServiceService } from '../../typescript/src/gen/luthier/v1/dataset_service.ts';
import { GenerationServiceService } from '../../typescript/src/gen/luthier/v1/generation_service.ts';
import { ModelServiceService } from '../../typescript/src/gen/luthier/v1/model_service.ts';
import { TrainingServiceService } from '../../typescript/src/gen/luthier/v1/training_service.ts';
import {
  AuditEntry,
  DatasetContainer,
  type EstimateTrainingJobRequest,
  EstimateTrainingJobResponse,
  type GenerateRequest,
  GenerateResponse,
  type GetModelRequest,
  GetModelResponse,
  type GetTrainingJobRequest,
  GetTrainingJobResponse,
  JobState,
  type ListAuditEntriesRequest,
  ListAuditEntriesResponse,
  type ListTrainingJobsRequest,
  ListTrainingJobsResponse,
  LoadIn,
  type PauseTrainingJobRequest,
  PauseTrainingJobResponse,
  type PreviewExamplesRequest,
  PreviewExamplesResponse,
  type ResumeTrainingJobRequest,
  ResumeTrainingJobResponse,
  type TrainRequest,
  type TrainResponse,
  type UploadDatasetHeader,
  type UploadDatasetRequest,
  UploadDatasetResponse,
  type WatchTrainingJobRequest,
  type WatchTrainingJobResponse,
} from '../../typescript/src/index.ts';
import { detailedError, eventsOf, scriptedServer } from '../../typescript/src/testing/scripted-server.ts';
import { run } from './program.ts';
import { type CapturedIo, capturedIo } from './testing/captured-io.ts';

const folder = mkdtempSync(join(tmpdir(), 'luthier-cli-'));
afterAll(() => rmSync(folder, { recursive: true }));

function file(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

const JOB = 'trainingJobs/t';
const services = {
  ...TrainingServiceService,
  ...DatasetServiceService,
  ...GenerationServiceService,
  ...ModelServiceService,
};
let uploads = 0;
const requests: {
  train?: TrainRequest;
  estimate?: EstimateTrainingJobRequest;
  upload?: UploadDatasetHeader;
  preview?: PreviewExamplesRequest;
  generate: GenerateRequest[];
  deleted: string[];
  listed?: ListTrainingJobsRequest['labels'];
} = { generate: [], deleted: [] };
const methods = {
  train: (call: ServerWritableStream<TrainRequest, TrainResponse>) => {
    requests.train = call.request;
    const { target } = call.request;
    if (target?.$case === 'spec' && target.value.template === 'refused')
      return void call.emit('error', detailedError());
    for (const event of eventsOf(JOB, 3).slice(call.request.afterSequence)) call.write({ event });
    call.end();
  },
  getTrainingJob: (call: ServerUnaryCall<GetTrainingJobRequest, object>, done: sendUnaryData<object>) =>
    done(
      null,
      GetTrainingJobResponse.create({ job: { name: call.request.name, adapter: 'adapters/facts', lastSequence: 2 } }),
    ),
  pauseTrainingJob: (call: ServerUnaryCall<PauseTrainingJobRequest, object>, done: sendUnaryData<object>) =>
    done(
      null,
      PauseTrainingJobResponse.create({
        job: {
          name: call.request.name,
          state: JobState.JOB_STATE_PAUSED,
          lastCheckpoint: { globalStep: 7, sizeBytes: 2048 },
        },
      }),
    ),
  resumeTrainingJob: (call: ServerUnaryCall<ResumeTrainingJobRequest, object>, done: sendUnaryData<object>) =>
    done(
      null,
      ResumeTrainingJobResponse.create({
        job: { name: call.request.name, state: JobState.JOB_STATE_QUEUED, queuePosition: 1 },
      }),
    ),
  // Goes on after the event that the job had last: whoever wants only the past must leave.
  watchTrainingJob: (call: ServerWritableStream<WatchTrainingJobRequest, WatchTrainingJobResponse>) => {
    for (const event of eventsOf(JOB, 3).slice(0, 3)) call.write({ event });
  },
  listAuditEntries: (call: ServerUnaryCall<ListAuditEntriesRequest, object>, done: sendUnaryData<object>) => {
    const [from, to] = [JobState.JOB_STATE_FAILED, JobState.JOB_STATE_UNSPECIFIED];
    const entry = { entryNumber: 7, time: new Date(0), job: call.request.job, from, to, reason: 'RETENTION' };
    done(null, ListAuditEntriesResponse.create({ entries: [AuditEntry.fromPartial(entry)] }));
  },
  listTrainingJobs: (call: ServerUnaryCall<ListTrainingJobsRequest, object>, done: sendUnaryData<object>) => {
    requests.listed = call.request.labels;
    const first = call.request.pageToken === '';
    const jobs = [{ name: first ? 'trainingJobs/b' : 'trainingJobs/a' }];
    done(null, ListTrainingJobsResponse.create({ jobs, nextPageToken: first ? 'next' : '' }));
  },
  uploadDataset: (call: ServerReadableStream<UploadDatasetRequest, object>, done: sendUnaryData<object>) => {
    uploads += 1;
    call.on('data', ({ part }: UploadDatasetRequest) => {
      if (part?.$case === 'header') requests.upload = part.value;
    });
    call.on('end', () => done(null, UploadDatasetResponse.create({ dataset: { name: 'datasets/d', examples: 2 } })));
  },
  estimateTrainingJob: (call: ServerUnaryCall<EstimateTrainingJobRequest, object>, done: sendUnaryData<object>) => {
    requests.estimate = call.request;
    const memory = {
      totalBytes: 3072,
      activationBytes: 1024,
      freeBytes: 2048,
      marginBytes: 100,
      pinnedHostBytes: 5120,
      recomputeLayers: 3,
      layers: 4,
    };
    const suggestions = [{ description: 'max_seq_length 64', totalBytes: 2000 }];
    const answer = { peakBytes: 3072, steps: 5, deviceMemoryBytes: 8192, plan: { maxSteps: 5, memory }, suggestions };
    done(null, EstimateTrainingJobResponse.fromPartial(answer));
  },
  previewExamples: (call: ServerUnaryCall<PreviewExamplesRequest, object>, done: sendUnaryData<object>) => {
    requests.preview = call.request;
    if (call.request.template === 'refused') return done(detailedError());
    const tokens = [{ id: 5, text: 'hello', label: 5, piece: 'hello' }];
    done(null, PreviewExamplesResponse.fromPartial({ examples: [{ index: 4, tokens, text: 'hello' }] }));
  },
  deleteDataset: (call: ServerUnaryCall<{ name: string }, object>, done: sendUnaryData<object>) => {
    requests.deleted.push(call.request.name);
    done(null, {});
  },
  deleteTrainingJob: (call: ServerUnaryCall<{ name: string }, object>, done: sendUnaryData<object>) => {
    requests.deleted.push(call.request.name);
    done(null, {});
  },
  getModel: (call: ServerUnaryCall<GetModelRequest, object>, done: sendUnaryData<object>) =>
    call.request.name === 'models/m' ? done(null, GetModelResponse.create({ model: {} })) : done(detailedError()),
  getDataset: (_call: unknown, done: sendUnaryData<object>) => done(detailedError()),
  generate: (call: ServerWritableStream<GenerateRequest, GenerateResponse>) => {
    requests.generate.push(call.request);
    call.write(GenerateResponse.create({ event: { $case: 'delta', value: { text: 'Hel', tokenIds: [7] } } }));
    call.write(GenerateResponse.create({ event: { $case: 'delta', value: { text: 'lo' } } }));
    call.write(GenerateResponse.create({ event: { $case: 'finished', value: {} } }));
    call.end();
  },
};

/** Runs a command line against the scripted server. */
async function luthier(args: readonly string[], stdin = ''): Promise<CapturedIo & { readonly code: number }> {
  await using server = await scriptedServer(services, methods);
  const io = capturedIo({ stdin, env: { LUTHIER_SERVER: server.address } });
  const code = await run(args, io);
  return { ...io, code };
}

const json = (text: string): unknown[] =>
  text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as unknown);

test('train uploads, sends the spec and prints one event a line', async () => {
  const data = file('data.jsonl', '{"prompt":"a","completion":"b"}\n');
  const flags = ['--learning-rate', '1e-3', '--lora-r', '4', '--no-shuffle', '--json'];
  const { code, out } = await luthier(['train', '--model', 'models/m', '--data', data, ...flags]);
  expect(code).toBe(0);
  const spec = { model: 'models/m', dataset: 'datasets/d', learningRate: 1e-3, shuffle: false, lora: { r: 4 } };
  expect(requests.train?.target).toMatchObject({ $case: 'spec', value: spec });
  const events = json(out());
  expect(events).toHaveLength(3);
  expect(events[0]).toMatchObject({ sequence: 1, job: JOB, step: { globalStep: 1, loss: 1, gradNorm: 0, tokens: 0 } });
  expect(events[2]).toMatchObject({ sequence: 3, stateChange: { to: 'JOB_STATE_SUCCEEDED' } });
});

test('train uploads nothing for a model that is not there', async () => {
  const before = uploads;
  const data = file('data.jsonl', '{"prompt":"a","completion":"b"}\n');
  expect((await luthier(['train', '--model', 'models/none', '--data', data])).code).toBe(13);
  expect(uploads).toBe(before);
});

test('train leaves nothing behind of a job that is refused, and keeps the data of one that exists', async () => {
  const data = file('data.jsonl', '{"prompt":"a","completion":"b"}\n');
  const flags = ['train', '--model', 'models/m', '--data', data, '--json'];
  requests.deleted = [];
  expect((await luthier([...flags, '--template', 'refused'])).code).toBe(13);
  expect(requests.deleted).toEqual(['datasets/d']);
  requests.deleted = [];
  expect((await luthier([...flags, '--eval-data', 'nowhere.jsonl'])).code).toBe(2);
  expect(requests.deleted).toEqual(['datasets/d']);
  requests.deleted = [];
  expect((await luthier(['train', '--model', 'models/m', '--data', 'datasets/d', '--template', 'refused'])).code).toBe(
    13,
  );
  expect((await luthier(flags)).code).toBe(0);
  expect(requests.deleted).toEqual([]);
});

test('train for people says how to go on', async () => {
  const { code, out } = await luthier(['train', '--model', 'models/m', '--data', 'datasets/d']);
  expect(code).toBe(0);
  expect(out()).toMatch(/^step 1\/0 .* loss 1\.0000/m);
  expect(out()).toContain('chat with it: luthier chat --adapter facts --server 127.0.0.1:');
});

test('lists walk every page, one object a line', async () => {
  const { code, out } = await luthier(['jobs', 'list', '--json']);
  expect(code).toBe(0);
  expect(json(out())).toMatchObject([{ name: 'trainingJobs/b' }, { name: 'trainingJobs/a' }]);
  expect((await luthier(['jobs', 'list'])).out()).toMatch(/^NAME +STATE .*\ntrainingJobs\/b .*\ntrainingJobs\/a /);
});

test('estimate shows the plan, tells by its exit code whether the job fits, and leaves no data set behind', async () => {
  const data = file('data.jsonl', '{"prompt":"a","completion":"b"}\n');
  const flags = ['estimate', '--model', 'models/m', '--data', data, '--recompute-layers', '3'];
  const { code, out } = await luthier(flags);
  expect(code).toBe(18);
  expect(requests.estimate?.spec).toMatchObject({ dataset: 'datasets/d', recomputeLayers: 3 });
  expect(out()).toMatch(/^memory +3\.0 KiB, of which 0 B are held already$/m);
  expect(out()).toMatch(/^ +activations +1\.0 KiB, 3 of 4 layers recomputed$/m);
  expect(out()).toMatch(/^free +2\.0 KiB of 8\.0 KiB, of which 100 B stay free$/m);
  expect(out()).toMatch(/^host +5\.0 KiB locked beside it$/m);
  expect(out()).toMatch(/^time +unknown/m);
  expect(out()).toContain('would fit: max_seq_length 64');
  expect(requests.deleted).toEqual(['datasets/d']);
  const [answer] = json((await luthier([...flags, '--json'])).out());
  expect(answer).toMatchObject({
    peakBytes: '3072',
    fits: false,
    plan: { memory: { freeBytes: '2048', pinnedHostBytes: '5120' } },
  });
  expect(answer).not.toHaveProperty('seconds');
  requests.deleted = [];
  await luthier(['estimate', '--model', 'models/m', '--data', 'datasets/kept', '--recompute-layers', 'all']);
  expect(requests.deleted).toEqual([]);
  expect(requests.estimate?.spec).toMatchObject({ gradientCheckpointing: true, recomputeLayers: undefined });
});

test('preview stores a file of any kind until its tokens are known', async () => {
  const data = file('data.csv', 'q,a\nb,hello\n');
  const flags = ['preview', data, '--model', 'models/m', '--columns', 'prompt=q,completion=a', '--container', 'csv'];
  requests.deleted = [];
  const { code, out } = await luthier([...flags, '--index', '4']);
  expect(code).toBe(0);
  expect(out()).toContain('hello');
  expect(requests.upload).toMatchObject({
    container: DatasetContainer.DATASET_CONTAINER_CSV,
    columns: { mapped: { prompt: 'q', completion: 'a' } },
  });
  const source = { $case: 'dataset', value: 'datasets/d' };
  expect(requests.preview).toMatchObject({ source, model: 'models/m', indices: [4] });
  expect(requests.deleted).toEqual(['datasets/d']);
  expect((await luthier([...flags, '--template', 'refused'])).code).toBe(13);
  expect(requests.deleted).toEqual(['datasets/d', 'datasets/d']);
  expect((await luthier(['preview', 'd', '--model', 'models/m'])).code).toBe(0);
  expect(requests.preview).toMatchObject({ source });
  expect(requests.deleted).toHaveLength(2);
});

test('an error goes to standard error with its fields, and the exit code is the status', async () => {
  const { code, out, err } = await luthier(['datasets', 'get', 'd', '--json']);
  expect(code).toBe(13);
  expect(out()).toBe('');
  expect(err()).toContain('data set datasets/d has 1 problem (INVALID_ARGUMENT, DATASET_INVALID)');
  expect(err()).toContain('line[7].messages[1].content: expected text');
});

test('generate prints the text as it comes, or each event', async () => {
  const text = await luthier(['generate', '--model', 'models/m', '--prompt', 'x', '--top-k', '3', '--stop', 'a', 'b']);
  expect(text.out()).toBe('Hello\n');
  expect(requests.generate.at(-1)?.sampling).toMatchObject({ topK: 3, stop: ['a', 'b'], temperature: undefined });
  const events = await luthier(['generate', '--adapter', JOB, '--token-ids', '1,2', '--json']);
  expect(json(events.out())[0]).toEqual({ delta: { text: 'Hel', tokenIds: [7], logprobs: [] } });
  expect(requests.generate.at(-1)).toMatchObject({ model: '', adapter: JOB });
  expect(requests.generate.at(-1)?.prompt?.input).toEqual({ $case: 'tokenIds', value: { ids: [1, 2] } });
});

test('chat keeps the conversation, and forgets what it is told to', async () => {
  const script = 'one\ntwo\n/undo\nthree\n/reset\nfour\n/exit\nfive\n';
  requests.generate = [];
  const { code, out } = await luthier(['chat', '--model', 'models/m', '--system', 'be brief'], script);
  expect(code).toBe(0);
  expect(out()).toBe('Hello\n'.repeat(4));
  const turns = requests.generate.map(({ prompt }) =>
    prompt?.input?.$case === 'messages' ? prompt.input.value.messages.map(({ content }) => content) : [],
  );
  expect(turns).toEqual([
    ['be brief', 'one'],
    ['be brief', 'one', 'Hello', 'two'],
    ['be brief', 'one', 'Hello', 'three'],
    ['be brief', 'four'],
  ]);
});

test('what the server does not answer is said by name', async () => {
  const { code, err } = await luthier(['jobs', 'cancel', 'x']);
  expect(code).toBe(22);
  expect(err()).toContain('UNIMPLEMENTED');
});

test('a job is paused and resumed', async () => {
  const paused = await luthier(['jobs', 'pause', 'x']);
  expect([paused.code, paused.out()]).toEqual([0, expect.stringMatching(/name +trainingJobs\/x\nstate +paused\n/)]);
  expect(paused.out()).toMatch(/checkpoint +step 7, 2\.0 KiB/);
  const resumed = await luthier(['jobs', 'resume', 'x']);
  expect([resumed.code, resumed.out()]).toEqual([
    0,
    expect.stringMatching(/state +queued\n(.*\n)*queue position +1\n/),
  ]);
});

test.each([
  [['doctor', '--device', 'tpu'], 2, '--device: expected auto, cpu, cpu×N (N ranks), cuda'],
  [['estimate', '--model', 'models/m'], 2, '--data is missing'],
  [
    ['train', '--model', 'models/m', '--data', 'datasets/d', '--recompute-layers', 'some'],
    2,
    '--recompute-layers: expected auto, all or a number, found "some"',
  ],
  [['adapters', 'load', 'a'], 22, 'luthier adapters load is not built yet'],
  [['train', '--bf16'], 22, '--bf16 is not built yet'],
  [
    ['train', '--learning-rate', 'nan', '--model', 'models/m', '--data', 'datasets/d'],
    2,
    'expected a number, found "nan"',
  ],
  [['train', '--model', 'models/m'], 2, '--data is missing'],
  [['train', '--model', 'models/m', '--data', 'nowhere.jsonl'], 2, 'there is no such file'],
  [
    ['preview', 'nowhere.jsonl', '--model', 'models/m'],
    2,
    'nowhere.jsonl: there is no such file; stored data sets are',
  ],
  [['validate', folder, '--model', 'models/m'], 2, 'there is no such file; stored data sets are named datasets/NAME'],
  [['preview', 'datasets/d', '--model', 'models/m', '--index', '1,x'], 2, '--index: expected numbers of examples'],
  [['preview', 'datasets/d', '--model', 'models/m', '--columns', 'text=body'], 2, 'datasets/d is no file'],
  [['generate', '--model', 'models/m'], 2, 'exactly one of --prompt, --messages and --token-ids'],
  [['generate', '--prompt', 'x'], 2, 'name --model or --adapter'],
  [['generate', '--model', 'models/m', '--token-ids', '1,-2'], 2, 'expected token ids'],
  [
    ['generate', '--model', 'models/m', '--prompt', 'x', '--load-in', '3bit'],
    2,
    '--load-in: expected stored, 16bit, 8bit, 4bit, 4bit-plain; found "3bit"',
  ],
  [
    ['models', 'load', 'models/m', '--load-in', 'nf4'],
    2,
    '--load-in: expected stored, 16bit, 8bit, 4bit, 4bit-plain; found "nf4"',
  ],
  [['info', '--server', 'a:1', '--embedded'], 2, 'exclude each other'],
  [['info', '--server', 'a:1', '--threads', '2'], 2, '--threads belongs to a server in this process'],
  [['trane'], 2, 'Did you mean train'],
  [['jobs', 'watch', 'x', '--after', '-1'], 2, 'at least 0'],
])('%j ends with %d', async (args, exitCode, message) => {
  const { code, err, out } = await luthier(args);
  expect(err()).toContain(message);
  expect(code).toBe(exitCode);
  expect(out()).toBe('');
});

test('--load-in reaches the server from every command that names a model; without it weights are as stored', async () => {
  await luthier(['generate', '--model', 'models/m', '--prompt', 'x', '--load-in', '4bit']);
  expect(requests.generate.at(-1)?.loadIn).toBe(LoadIn.LOAD_IN_4BIT);
  await luthier(['generate', '--model', 'models/m', '--prompt', 'x', '--load-in', '4bit-plain']);
  expect(requests.generate.at(-1)?.loadIn).toBe(LoadIn.LOAD_IN_4BIT_PLAIN);
  await luthier(['generate', '--model', 'models/m', '--prompt', 'x']);
  expect(requests.generate.at(-1)?.loadIn).toBe(LoadIn.LOAD_IN_STORED);
  await luthier(['chat', '--model', 'models/m', '--load-in', '8bit'], 'hello\n');
  expect(requests.generate.at(-1)?.loadIn).toBe(LoadIn.LOAD_IN_8BIT);
});

test('labels go with train and filter jobs list', async () => {
  const data = file('labelled.jsonl', '{"prompt":"a","completion":"b"}\n');
  await luthier(['train', '--model', 'models/m', '--data', data, '--label', 'team=a,b', '--label', 'x==', '--json']);
  expect(requests.train?.target).toMatchObject({ value: { labels: { team: 'a,b', x: '=' } } });
  await luthier(['jobs', 'list', '--label', 'team=a', '--label', 'run=7']);
  expect(requests.listed).toEqual({ team: 'a', run: '7' });
  const { code, err } = await luthier(['jobs', 'list', '--label', 'team']);
  expect([code, err()]).toEqual([2, expect.stringContaining('--label: expected name=value')]);
});

test('jobs delete takes a name or an id', async () => {
  const { code, out } = await luthier(['jobs', 'delete', 't']);
  expect(code).toBe(0);
  expect(out()).toBe(`deleted ${JOB}\n`);
  expect(json((await luthier(['jobs', 'delete', JOB, '--json'])).out())).toEqual([{}]);
  expect(requests.deleted.slice(-2)).toEqual([JOB, JOB]);
});

test('jobs audit says what happened to a job, and why', async () => {
  const { code, out } = await luthier(['jobs', 'audit', 't']);
  expect(code).toBe(0);
  expect(out()).toMatch(/^TIME .*\n1970-01-01T00:00:00.000Z +trainingJobs\/t +failed -> deleted +RETENTION/);
  expect(json((await luthier(['jobs', 'audit', '--json'])).out())).toMatchObject([{ entryNumber: '7', job: '' }]);
});

test('messages are read from a file, with or without a frame', async () => {
  for (const text of ['[{"role":"user","content":"x"}]', '{"messages":[{"role":"user","content":"x"}]}']) {
    await luthier(['generate', '--model', 'models/m', '--messages', file('m.json', text)]);
    const input = requests.generate.at(-1)?.prompt?.input;
    expect(input).toMatchObject({ $case: 'messages', value: { messages: [{ role: 'user', content: 'x' }] } });
  }
  const bad = await luthier(['generate', '--model', 'models/m', '--messages', file('m.json', '[{"role":"user"}]')]);
  expect(bad.code).toBe(2);
  expect(bad.err()).toContain('messages[0] needs "role" and "content"');
});

test('--help ends well on standard output', async () => {
  const { code, out, err } = await luthier(['train', '--help']);
  expect(code).toBe(0);
  expect(err()).toBe('');
  expect(out()).toContain('--per-device-train-batch-size');
  expect(out()).not.toContain('--bf16');
});

test("a job's report is a page of what happened until now", async () => {
  const path = join(folder, 'report.html');
  const { code, out } = await luthier(['jobs', 'report', 't', '--html', path]);
  expect([code, out()]).toEqual([0, `wrote ${path}, with 2 events\n`]);
  expect(readFileSync(path, 'utf8')).toMatch(/^<!doctype html>.*trainingJobs\/t/s);
  const refused = await luthier(['jobs', 'report', 't', '--html', join(folder, 'none', 'report.html')]);
  expect(refused.code).not.toBe(0);
  expect(refused.err()).toContain('--html: ');
  expect((await luthier(['jobs', 'report', 't'])).err()).toContain('--html');
});
