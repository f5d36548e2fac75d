/** Wrong input over real gRPC: a typed error that says what was expected, found and to do, and nothing stored is lost. */
import { cpSync, mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DatasetFormat, JobState } from '../../clients/typescript/src/index.ts';
import { collect, conversations, everything, spec, uploadConversations } from './support/examples.ts';
import {
  finished,
  luthier,
  OTHER_MODEL,
  removeTemporaryFolders,
  ServerProcess,
  TINY_ADAPTER,
  TINY_MODEL,
  temporaryFolder,
} from './support/server-process.ts';

let server: ServerProcess;
let folder: string;
let dataset: string;

beforeAll(async () => {
  folder = temporaryFolder();
  server = await ServerProcess.start({ flags: ['--model-root', folder] });
  dataset = await uploadConversations(server.client, 4);
}, 30_000);

afterAll(async () => {
  await server.stop();
  removeTemporaryFolders();
});

const create = (more: Record<string, unknown>) => server.client.createTrainingJob({ spec: spec(dataset, more) });

describe('training requests', () => {
  it.each([
    ['a learning rate that is no number', { learningRate: Number.NaN }, 'INVALID_ARGUMENT', /learning_rate/],
    ['a negative rank', { lora: { r: 0 } }, 'INVALID_ARGUMENT', /lora\.r/],
    [
      'an unknown scheduler',
      { lrSchedulerType: 'polynomal' },
      'INVALID_ARGUMENT',
      /lr_scheduler_type.*mean polynomial/s,
    ],
    [
      'the best of no evaluations',
      { loadBestModelAtEnd: true },
      'INVALID_ARGUMENT',
      /load_best_model_at_end.*held-out/,
    ],
    [
      'a target that matches nothing',
      { lora: { r: 4, targetModules: ['qq_proj'] } },
      'INVALID_ARGUMENT',
      /q_proj.*down_proj/s,
    ],
    ['an unknown form of the weights', { loadIn: 7 }, 'INVALID_ARGUMENT', /load_in.*LOAD_IN_4BIT.*found 7/s],
    ['a model that is not there', { model: 'models/none' }, 'NOT_FOUND', /none/],
    ['a data set that is not there', { dataset: 'datasets/none' }, 'NOT_FOUND', /none/],
    ['a template that is not there', { template: 'none' }, 'INVALID_ARGUMENT', /none/],
    ['a path outside the roots', { model: '/etc/passwd' }, 'PERMISSION_DENIED', /model-root/],
    ['dropout of everything', { lora: { loraDropout: 1 } }, 'INVALID_ARGUMENT', /lora_dropout.*below 1/],
    ['less than no dropout', { lora: { loraDropout: -0.1 } }, 'INVALID_ARGUMENT', /lora_dropout.*at least 0/],
    ['dropout that is no number', { lora: { loraDropout: Number.NaN } }, 'INVALID_ARGUMENT', /lora_dropout/],
    ['a compute type that the processor has not', { computeDtype: 'bfloat16' }, 'UNIMPLEMENTED', /float32/],
    [
      'groups of packed examples',
      { packing: true, groupByLength: true },
      'INVALID_ARGUMENT',
      /group_by_length.*packing/,
    ],
    ['groups in the order of the file', { shuffle: false, groupByLength: true }, 'INVALID_ARGUMENT', /group_by_length/],
  ])('%s is refused before a job exists', async (_, more, status, message) => {
    const before = (await server.client.listTrainingJobs()).jobs.length;
    const error: unknown = await create(more).catch((caught: unknown) => caught);
    expect(error).toMatchObject({ status });
    const { violations = [], message: whole = '' } = error as {
      violations?: { field: string; description: string }[];
      message?: string;
    };
    expect([whole, ...violations.map(({ field, description }) => `${field}: ${description}`)].join('\n')).toMatch(
      message,
    );
    expect((await server.client.listTrainingJobs()).jobs).toHaveLength(before);
  });

  it('an adapter of another base is refused with both shapes', async () => {
    const adapter = await server.client
      .importAdapter({ path: TINY_ADAPTER, baseModel: OTHER_MODEL })
      .catch((error: unknown) => error);
    expect(adapter).toMatchObject({ status: 'FAILED_PRECONDITION', reason: 'ADAPTER_MISMATCH' });
  });
});

describe('data sets', () => {
  const upload = (text: string, format: DatasetFormat = DatasetFormat.DATASET_FORMAT_UNSPECIFIED) =>
    server.client.uploadDataset([text], { format });

  it('a malformed line is named', async () => {
    const lines = conversations(9).split('\n');
    lines[6] = '{"messages": [{"role": "user", "content": 7}]}';
    const name = await upload(lines.join('\n')).then(
      ({ name }) => name,
      (error: unknown) => error,
    );
    const problems =
      typeof name === 'string'
        ? (await server.client.validateDataset({ dataset: name, model: 'models/tiny' })).problems
        : violationsOf(name);
    expect(problems[0]?.field).toMatch(/^line\[7\]\.messages\[0\]\.content/);
  });

  it('nothing at all is refused', async () => {
    await expect(upload('')).rejects.toMatchObject({ status: 'INVALID_ARGUMENT' });
  });

  it('an example without a trainable token fails the job and names its line', { timeout: 60_000 }, async () => {
    const lines = ['{"input_ids":[1,2,3],"labels":[1,2,3]}', '{"input_ids":[1,2,3],"labels":[1,-100,-100]}'];
    const { name } = await upload(`${lines.join('\n')}\n`, DatasetFormat.DATASET_FORMAT_TOKENS);
    const outcome = await server.client.createTrainingJob({ spec: spec(name) }).then(
      (job) => collect(server.client.watchTrainingJob(job.name)),
      (error: unknown) => error,
    );
    expect(JSON.stringify(outcome, (_, value) => (typeof value === 'bigint' ? Number(value) : value))).toMatch(
      /NO_TRAINABLE_TOKENS.*line\[2\]|line\[2\].*NO_TRAINABLE_TOKENS/s,
    );
  });

  it('an upload whose client vanishes leaves nothing behind', async () => {
    const before = (await server.client.listDatasets()).datasets.length;
    async function* endless() {
      yield Buffer.from(conversations(3));
      throw new Error('the client is gone');
    }
    await expect(server.client.uploadDataset(endless())).rejects.toThrow();
    expect((await server.client.listDatasets()).datasets).toHaveLength(before);
  });
});

/** Field violations of a caught LuthierError. */
function violationsOf(error: unknown): readonly { readonly field: string }[] {
  return (error as { violations?: readonly { readonly field: string }[] }).violations ?? [];
}

describe('files', () => {
  it('a truncated model is refused by name', async () => {
    const broken = join(folder, 'broken');
    cpSync(TINY_MODEL, broken, { recursive: true });
    truncateSync(join(broken, 'model.safetensors'), 20_000);
    await expect(server.client.getModel(broken)).rejects.toMatchObject({
      status: 'DATA_LOSS',
      reason: 'MODEL_CORRUPT',
    });
  });

  it('a file that is no GGUF is refused', async () => {
    const path = join(folder, 'text.gguf');
    writeFileSync(path, 'this is no model');
    await expect(server.client.getModel(path)).rejects.toMatchObject({ reason: 'MODEL_CORRUPT' });
  });

  it('a truncated adapter is refused', async () => {
    const broken = join(folder, 'broken-adapter');
    cpSync(TINY_ADAPTER, broken, { recursive: true });
    truncateSync(join(broken, 'adapter_model.safetensors'), 1000);
    const request = { path: broken, baseModel: 'models/tiny' };
    await expect(server.client.importAdapter(request)).rejects.toMatchObject({ reason: 'ADAPTER_CORRUPT' });
  });
});

describe('generation requests', () => {
  it('a prompt longer than the context is refused with both lengths', async () => {
    const prompt = { input: { $case: 'text' as const, value: 'x'.repeat(600) } };
    const error: unknown = await everything(server.client.generate({ model: 'models/tiny', prompt })).catch(
      (caught: unknown) => caught,
    );
    expect(error).toMatchObject({ reason: 'SEQUENCE_TOO_LONG' });
    expect((error as Error).message).toMatch(/600.*512/s);
  });
});

describe('starting', () => {
  it('a second server on the same data folder is refused', { timeout: 30_000 }, async () => {
    const { code, output } = await finished(luthier(['serve', '--port', '0', '--data-dir', server.dataFolder]));
    expect(code).toBe(1);
    expect(output).toMatch(new RegExp(`${server.dataFolder}.*${server.pid}|${server.pid}.*${server.dataFolder}`, 's'));
  });

  it('a taken port is refused', { timeout: 30_000 }, async () => {
    const taken = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => taken.once('listening', resolve));
    const { port } = taken.address() as { port: number };
    const { code, output } = await finished(
      luthier(['serve', '--port', String(port), '--data-dir', temporaryFolder()]),
    );
    taken.close();
    expect(code).toBe(1);
    expect(output).toMatch(/taken by another program.*--port/s);
  });

  it('another address needs --insecure', { timeout: 30_000 }, async () => {
    const { code, output } = await finished(
      luthier(['serve', '--host', '0.0.0.0', '--port', '0', '--data-dir', temporaryFolder()]),
    );
    expect(code).toBe(2);
    expect(output).toMatch(/--insecure/);
  });

  it('a data folder that cannot be made is refused', { timeout: 30_000 }, async () => {
    const file = join(temporaryFolder(), 'file');
    writeFileSync(file, '');
    mkdirSync(join(folder, 'unused'));
    const { code, output } = await finished(luthier(['serve', '--port', '0', '--data-dir', join(file, 'data')]));
    expect(code).toBe(1);
    expect(output).toContain(file);
  });
});

it('after all this the server still works', { timeout: 60_000 }, async () => {
  const job = await create({ numTrainEpochs: 1 });
  const events = await collect(server.client.watchTrainingJob(job.name));
  expect(events.at(-1)?.event).toMatchObject({ value: { to: JobState.JOB_STATE_SUCCEEDED } });
});
