/** What must be true once everything that was begun has ended, whatever happened on the way. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import {
  type Adapter,
  type Dataset,
  JobState,
  type LuthierClient,
  type TrainingEvent,
  type TrainingJob,
} from '../../clients/typescript/src/index.ts';
import { idOf } from '../../src/store/resource-id.ts';
import { collect } from '../e2e/support/examples.ts';
import { sameEvent } from './ledger.ts';
import { sha256, type World } from './world.ts';

/** What the story made on a server that nothing disturbed. */
export interface Reference {
  /** SHA-256 of the adapter's weights. */
  readonly weights: string;
  /** What is the same in every run of a job's steps and evaluations. */
  readonly course: readonly string[];
}

/** What is wrong, by kind. */
export interface Findings {
  /** Of something that was acknowledged, nothing or something else is there. */
  readonly losses: string[];
  /** Something is there twice, or is there and belongs to nothing. */
  readonly duplicates: string[];
  /** A number differs from the undisturbed run's. */
  readonly differences: string[];
}

export interface Stored {
  readonly datasets: readonly Dataset[];
  readonly adapters: readonly Adapter[];
  readonly jobs: readonly TrainingJob[];
  /** By job. */
  readonly events: ReadonlyMap<string, readonly TrainingEvent[]>;
}

/** Everything that a server tells of what it holds. */
export async function readStored(client: LuthierClient): Promise<Stored> {
  const { datasets } = await client.listDatasets();
  const { adapters } = await client.listAdapters();
  const { jobs } = await client.listTrainingJobs();
  const events = new Map<string, TrainingEvent[]>();
  for (const { name } of jobs) events.set(name, await collect(client.watchTrainingJob(name)));
  return { datasets, adapters, jobs, events };
}

/** The job that made the story's adapter. */
const finished = ({ jobs }: Stored): TrainingJob | undefined =>
  jobs.find(({ spec, state }) => spec?.output === 'first' && state === JobState.JOB_STATE_SUCCEEDED);

/** Steps and evaluations without what a clock or a memory meter says. */
function courseOf(events: readonly TrainingEvent[]): string[] {
  return events.flatMap(({ event }) => {
    if (event?.$case === 'step') {
      const { globalStep, epoch, loss, gradNorm, learningRate, tokens, labelTokens } = event.value;
      return [JSON.stringify({ globalStep, epoch, loss, gradNorm, learningRate, tokens, labelTokens })];
    }
    if (event?.$case === 'evaluation') {
      const { globalStep, loss, best } = event.value;
      return [JSON.stringify({ evaluatedStep: globalStep, loss, best })];
    }
    return [];
  });
}

/** What an undisturbed run leaves. */
export function referenceOf(world: World, stored: Stored): Reference {
  const job = finished(stored);
  if (job === undefined) throw new Error('the undisturbed run made no adapter');
  const course = courseOf(stored.events.get(job.name) ?? []);
  return { weights: sha256(join(world.beside('fetched'), WEIGHTS)), course };
}

const WEIGHTS = 'adapter_model.safetensors';

/** Names that one list has more often than the other. */
function surplus(found: readonly string[], expected: readonly string[]): string[] {
  const left = [...expected];
  return found.filter((name) => {
    const index = left.indexOf(name);
    if (index >= 0) left.splice(index, 1);
    return index < 0;
  });
}

const namesIn = (folder: string): string[] => (existsSync(folder) ? readdirSync(folder) : []);

/**
 * Compares a stopped server's disk, and what it told before, with what clients were told and with the undisturbed run.
 * @param stored Of the last server.
 */
export function check(world: World, stored: Stored, reference: Reference): Findings {
  const findings: Findings = { losses: [], duplicates: [], differences: [] };
  const { datasets, adapters, jobs, events } = stored;
  const compare = (what: string, found: readonly string[], expected: readonly string[]): void => {
    for (const name of surplus(expected, found)) findings.losses.push(`${what}: ${name} is missing`);
    for (const name of surplus(found, expected)) findings.duplicates.push(`${what}: ${name} is too much`);
  };

  const { ledger } = world;
  const uploaded = ['upload train', 'upload held out'].flatMap((request) => ledger.answered(request));
  compare(
    'data sets',
    datasets.map(({ name }) => name),
    uploaded as string[],
  );
  compare(
    'adapters',
    adapters.map(({ name }) => name),
    ['adapters/first'],
  );
  const namesOf = (request: string): string[] => (ledger.answered(request) as TrainingJob[]).map(({ name }) => name);
  const created = namesOf('create ');
  const deleted = namesOf('train second');
  compare(
    'jobs',
    jobs.map(({ name }) => name),
    created.filter((name) => !deleted.includes(name)),
  );

  for (const name of world.ledger.jobs) {
    const now = events.get(name) ?? [];
    if (deleted.includes(name)) continue;
    for (const [index, told] of world.ledger.events(name).entries()) {
      const event = now[index];
      if (event === undefined || !sameEvent(event, told)) {
        findings.losses.push(`event ${told.sequence} of ${name} was told and is ${event ? 'another one' : 'missing'}`);
        break;
      }
    }
  }
  for (const [name, all] of events) {
    if (all.some(({ sequence }, index) => sequence !== index + 1))
      findings.losses.push(`${name} has a gap in its events`);
  }

  const job = finished(stored);
  const course = job === undefined ? [] : courseOf(events.get(job.name) ?? []);
  const twice = surplus(course, [...new Set(course)]);
  if (twice.length > 0) findings.duplicates.push(`steps or evaluations are told twice: ${twice.join(' ')}`);
  const first = course.findIndex((step, index) => step !== reference.course[index]);
  if (twice.length === 0 && (first >= 0 || course.length !== reference.course.length)) {
    const at = first < 0 ? course.length : first;
    findings.differences.push(`expected ${reference.course[at]}, found ${course[at]}`);
  }

  const { dataFolder, exports } = world;
  const inFolder = (folder: string, ids: readonly string[]): void =>
    compare(folder, namesIn(join(dataFolder, folder)), ids);
  inFolder(
    'datasets',
    datasets.map(({ name }) => idOf(name)),
  );
  inFolder(
    'adapters',
    adapters.map(({ name }) => idOf(name)),
  );
  // Those of a job that failed before its first step may be there or not.
  const idsOf = (some: readonly TrainingJob[]): string[] => some.map(({ name }) => idOf(name));
  const stepless = idsOf(jobs.filter(({ lastStep }) => lastStep === undefined));
  const runs = namesIn(join(dataFolder, 'runs')).filter((id) => !stepless.includes(id));
  compare('runs', runs, idsOf(jobs.filter(({ lastStep }) => lastStep !== undefined)));
  inFolder('jobs', []);
  const failed = idsOf(jobs.filter(({ state }) => state === JobState.JOB_STATE_FAILED));
  // A job that failed may be resumed.
  const needless = namesIn(join(dataFolder, 'checkpoints')).filter((id) => !failed.includes(id));
  compare('checkpoints', needless, []);
  compare('exports', namesIn(exports), ['first']);
  for (const { name, sha256: expected } of datasets) {
    const file = join(dataFolder, 'datasets', idOf(name), 'data.jsonl');
    if (!existsSync(file) || sha256(file) !== expected) findings.losses.push(`${file} is not what was uploaded`);
  }
  for (const folder of [join(dataFolder, 'adapters', 'first'), join(exports, 'first'), world.beside('fetched')]) {
    compare(folder, namesIn(folder), ['adapter_config.json', WEIGHTS]);
    const file = join(folder, WEIGHTS);
    if (existsSync(file) && sha256(file) !== reference.weights) findings.differences.push(`${file} has other weights`);
  }
  const files = ['adapters', 'checkpoints', 'datasets', 'jobs', 'lock', 'luthier.db', 'process', 'runs', 'token-cache'];
  compare('data folder', namesIn(dataFolder), files);
  for (const file of namesIn(join(dataFolder, 'token-cache'))) {
    if (!file.endsWith('.tokens')) findings.duplicates.push(`token-cache/${file} belongs to nothing`);
  }
  findings.losses.push(...databaseProblems(join(dataFolder, 'luthier.db')));
  return findings;
}

function databaseProblems(file: string): string[] {
  const database = new DatabaseSync(file, { readOnly: true });
  try {
    const rows = database
      .prepare('PRAGMA integrity_check')
      .all()
      .map((row) => String(row.integrity_check));
    const left = database
      .prepare('SELECT path FROM writing_folders')
      .all()
      .map(({ path }) => `${path} is half-written`);
    return [...(rows.join() === 'ok' ? [] : rows), ...left];
  } finally {
    database.close();
  }
}
