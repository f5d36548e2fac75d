import { setTimeout as wait } from 'node:timers/promises';
import type { Engine, WeightStorage } from '../engine/engine.ts';
import { QuantizeModelResponse } from '../gen/luthier/v1/model_service.ts';
import { NewFolder } from '../store/new-folder.ts';
import type { WritingFolders } from '../store/writing-folders.ts';
import { checkNewFolder } from './allowed-path.ts';

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
  readonly writing: WritingFolders;
  readonly signal: AbortSignal;
}

/**
 * Writes a quantized model to a folder that a client named: beside its place first, so that it appears whole or not at all. Yields progress, then
 * what was written. A failure, an abort and leaving the loop wait for the engine to let go, and leave nothing behind.
 * @throws LuthierError PATH_NOT_ALLOWED, and those of `NewFolder.open`; EngineError STORAGE_FULL and those of the base
 */
export async function* quantizeModel(options: QuantizeOptions): AsyncGenerator<QuantizeModelResponse> {
  const { engine, base, storage, signal } = options;
  await using written = await NewFolder.open(await checkNewFolder(options.path, options.roots), options.writing);
  const run = engine.quantizeModel(base, storage, written.path);
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
    await written.finish();
    yield QuantizeModelResponse.create({ event: { $case: 'finished', value: { path: written.target, sizeBytes } } });
  } finally {
    signal.removeEventListener('abort', cancel);
    run.cancel();
    await finished.catch(() => undefined);
  }
}
