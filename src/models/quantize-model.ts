import { lstat, mkdir, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import type { Engine, WeightStorage } from '../engine/engine.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import { QuantizeModelResponse } from '../gen/luthier/v1/model_service.ts';
import { isTaken, makeWritingFolder, moveIntoPlace } from '../store/durable-folders.ts';
import { checkPath } from './allowed-path.ts';

/** Between two reports. */
const PROGRESS_MS = 500;

export interface QuantizeOptions {
  readonly engine: Pick<Engine, 'quantizeModel'>;
  /** The base's files. */
  readonly base: string;
  readonly storage: WeightStorage;
  /** The folder to write, as a client named it, and the folders under which it may lie. */
  readonly path: string;
  readonly roots: readonly string[];
  readonly signal: AbortSignal;
}

const taken = (path: string): LuthierError =>
  new LuthierError('EXPORT_TARGET_NOT_EMPTY', `${path} is there already; choose a folder that does not exist yet`, {
    resource: { type: 'path', name: path },
  });

const exists = (path: string): Promise<boolean> =>
  lstat(path).then(
    () => true,
    () => false,
  );

/**
 * Writes a quantized model to a folder that a client named: beside its place first, so that it appears whole or not at all. Yields progress, then
 * what was written. A failure, an abort and leaving the loop wait for the engine to let go, and leave nothing behind.
 * @throws LuthierError PATH_NOT_ALLOWED, EXPORT_TARGET_NOT_EMPTY; EngineError STORAGE_FULL and those of the base
 */
export async function* quantizeModel(options: QuantizeOptions): AsyncGenerator<QuantizeModelResponse> {
  const { engine, base, storage, signal } = options;
  const target = await checkPath(options.path, options.roots);
  if (await exists(target)) throw taken(target);
  await mkdir(dirname(target), { recursive: true });
  const writing = await makeWritingFolder(dirname(target));
  try {
    const run = engine.quantizeModel(base, storage, writing);
    const finished = run.finished;
    // Whoever awaits it below reports its failure.
    finished.catch(() => undefined);
    const cancel = (): void => run.cancel();
    signal.addEventListener('abort', cancel, { once: true });
    try {
      signal.throwIfAborted();
      let sizeBytes: number | null = null;
      while (sizeBytes === null) {
        sizeBytes = await Promise.race([finished, wait(PROGRESS_MS, null)]);
        yield QuantizeModelResponse.create({ event: { $case: 'progress', value: run.progress() } });
      }
      await moveIntoPlace(writing, target).catch((error: unknown) => {
        throw isTaken(error) ? taken(target) : error;
      });
      yield QuantizeModelResponse.create({ event: { $case: 'finished', value: { path: target, sizeBytes } } });
    } finally {
      signal.removeEventListener('abort', cancel);
      run.cancel();
      await finished.catch(() => undefined);
    }
  } finally {
    await rm(writing, { recursive: true, force: true });
  }
}
