/** Writes base and adapter as one model where a client may have files written. */
import type { Engine, MergedModel, MergeFormat } from '../engine/engine.ts';
import { toLuthierError } from '../errors/to-luthier-error.ts';
import type { LoadIn } from '../gen/luthier/v1/common.ts';
import type { ModelRegistry } from '../models/model-registry.ts';
import { weightStorage } from '../models/weight-storage.ts';
import { checkBaseHash } from './adapter-errors.ts';
import { writeFolderAt } from './adapter-files.ts';
import { isForOtherBase, type StoredAdapter } from './adapter-store.ts';

export interface MergeDependencies {
  readonly engine: Pick<Engine, 'mergeAdapter'>;
  readonly models: Pick<ModelRegistry, 'get'>;
  /** Folders that clients may have written to. */
  readonly exportRoots: readonly string[];
}

interface MergeSpec {
  readonly adapter: StoredAdapter;
  /** `models/{id}` or a path; empty: the adapter's own. */
  readonly baseModel: string;
  readonly loadIn: LoadIn;
  readonly format: MergeFormat;
  readonly path: string;
}

function mergeWarnings({ dequantizedFrom, hasTokenizer }: MergedModel, base: string): string[] {
  const quantized = `${base} was taken as ${dequantizedFrom}: what is written are the numbers that it stands for, not those it was quantized from`;
  const tokenizer = `${base} is a GGUF file: the folder has no tokenizer; add the original model's, or read it with transformers' gguf_file`;
  return [...(dequantizedFrom === null ? [] : [quantized]), ...(hasTokenizer ? [] : [tokenizer])];
}

/**
 * The folder appears whole or not at all.
 * @throws LuthierError PATH_NOT_ALLOWED, EXPORT_TARGET_NOT_EMPTY, ADAPTER_MISMATCH, MODEL_UNSUPPORTED, STORAGE_FULL
 */
export async function mergeAdapter(
  { engine, models, exportRoots }: MergeDependencies,
  { adapter, baseModel, loadIn, format, path }: MergeSpec,
): Promise<{ readonly path: string; readonly sizeBytes: number; readonly warnings: readonly string[] }> {
  const registered = await models.get(baseModel === '' ? adapter.baseModel : baseModel);
  checkBaseHash(adapter.name, adapter.origin.baseModelHash, { registered });
  const { metadata } = registered;
  const base = {
    path: metadata.path,
    contentHash: isForOtherBase(adapter) ? null : metadata.contentHash,
    storage: weightStorage(loadIn, metadata),
  };
  const written = await writeFolderAt(path, exportRoots, async (folder) => {
    try {
      return await engine.mergeAdapter(base, adapter.folder, format, folder);
    } catch (error) {
      throw toLuthierError(error);
    }
  });
  const { path: target, result } = written;
  return { path: target, sizeBytes: result.bytes, warnings: mergeWarnings(result, registered.name) };
}
