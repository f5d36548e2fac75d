/** Checkpoints of the fake engine: the steps done and what the run was, in one file that tells where a byte of it changed. */
import { createHash } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ModelMetadata, SavedCheckpoint, TokenExamples, TrainingConfig } from './engine.ts';
import { EngineError } from './errors.ts';

const FILE = 'state.json';
/** Of SHA-256 in hex, and the line break behind it. */
const HASH_LENGTH = 65;

const hashOf = (bytes: Uint8Array | string): string => createHash('sha256').update(bytes).digest('hex');

/** What numbers of a run follow from, by name. */
export type RunFacts = Readonly<Record<string, string>>;

/** What must be the same where a run goes on. */
export function runFacts(
  model: ModelMetadata,
  config: TrainingConfig,
  train: TokenExamples,
  evaluation: TokenExamples | null,
): RunFacts {
  // They change no number.
  const { saveSteps: _, recomputeLayers: __, offloadActivations: ___, ...settings } = config;
  const dataHash = ({ inputIds, labels, offsets }: TokenExamples): string =>
    hashOf([inputIds, labels, offsets].map((part) => Array.from(part).join()).join(';'));
  return {
    ...Object.fromEntries(Object.entries(settings).map(([name, value]) => [name, JSON.stringify(value)])),
    model: model.contentHash,
    'training data': dataHash(train),
    'evaluation data': evaluation === null ? 'none' : dataHash(evaluation),
  };
}

/** @param device Where it was computed, to tell what differs later. */
export async function writeFakeCheckpoint(
  folder: string,
  globalStep: number,
  facts: RunFacts,
  device: string,
): Promise<SavedCheckpoint> {
  const state = JSON.stringify({ globalStep, facts, device });
  const text = `${hashOf(state)}\n${state}`;
  await writeFile(join(folder, FILE), text, { flush: true });
  return { globalStep, files: [{ name: FILE, bytes: Buffer.byteLength(text), sha256: hashOf(text) }] };
}

/** @throws EngineError CHECKPOINT_CORRUPT, CHECKPOINT_MISMATCH */
export async function readFakeCheckpoint(
  folder: string,
  facts: RunFacts,
  device: string,
): Promise<{ readonly globalStep: number; readonly differences: readonly string[] }> {
  const path = join(folder, FILE);
  const text = await readFile(path, 'utf8').catch((cause: unknown) => {
    throw new EngineError('CHECKPOINT_CORRUPT', `${path} cannot be read; expected the state of a run`, { cause });
  });
  const [expected, state] = [text.slice(0, HASH_LENGTH - 1), text.slice(HASH_LENGTH)];
  const found = hashOf(state);
  if (expected !== found) {
    throw new EngineError('CHECKPOINT_CORRUPT', `${path} has changed: expected SHA-256 ${expected}, found ${found}`);
  }
  const saved = JSON.parse(state) as { globalStep: number; facts: RunFacts; device: string };
  for (const [name, now] of Object.entries(facts)) {
    if (saved.facts[name] === now) continue;
    const message = `${name} differs: ${saved.facts[name]} in the checkpoint, ${now} now; use what the run began with, or begin anew`;
    throw new EngineError('CHECKPOINT_MISMATCH', message);
  }
  const differences = saved.device === device ? [] : [`device: ${saved.device} then, ${device} now`];
  return { globalStep: saved.globalStep, differences };
}
