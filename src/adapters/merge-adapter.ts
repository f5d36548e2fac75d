/** Writes base and adapter as one model where a client may have files written. */
import type { Engine, MergedModel, MergeFormat } from '../engine/engine.ts';
import type { LoadIn } from '../gen/luthier/v1/common.ts';
import { checkNewFolder } from '../models/allowed-path.ts';
import type { ModelRegistry } from '../models/model-registry.ts';
import { weightStorage } from '../models/weight-storage.ts';
import { NewFolder } from '../store/new-folder.ts';
import type { WritingFolders } from '../store/writing-folders.ts';
import { aboutAdapter, checkBaseHash } from './adapter-errors.ts';
import { isForOtherBase, type StoredAdapter } from './adapter-store.ts';

export interface MergeDependencies {
  readonly engine: Pick<Engine, 'mergeAdapter'>;
  readonly models: Pick<ModelRegistry, 'get' | 'checkFiles'>;
  /** Folders that clients may have written to. */
  readonly exportRoots: readonly string[];
  readonly writing: WritingFolders;
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
 * @throws LuthierError PATH_NOT_ALLOWED, those of `NewFolder.open`, ADAPTER_MISMATCH, MODEL_UNSUPPORTED, STORAGE_FULL
 */
export async function mergeAdapter(
  { engine, models, exportRoots, writing }: MergeDependencies,
  { adapter, baseModel, loadIn, format, path }: MergeSpec,
): Promise<{ readonly path: string; readonly sizeBytes: number; readonly warnings: readonly string[] }> {
  const asked = baseModel === '' ? adapter.baseModel : baseModel;
  await models.checkFiles(asked);
  const registered = await models.get(asked);
  checkBaseHash(adapter.name, adapter.origin.baseModelHash, { registered });
  const { metadata } = registered;
  const base = {
    path: metadata.path,
    contentHash: isForOtherBase(adapter) ? null : metadata.contentHash,
    storage: weightStorage(loadIn, metadata),
  };
  await using written = await NewFolder.open(await checkNewFolder(path, exportRoots), writing);
  const merged = await engine.mergeAdapter(base, adapter.folder, format, written.path).catch((error: unknown) => {
    throw aboutAdapter(error, adapter.folder, adapter.name);
  });
  await written.finish();
  return { path: written.target, sizeBytes: merged.bytes, warnings: mergeWarnings(merged, registered.name) };
}
