import type { Engine } from '../engine/engine.ts';
import { LoadIn } from '../gen/luthier/v1/common.ts';
import { Model } from '../gen/luthier/v1/model_service.ts';
import type { KnownModel, ModelRegistry } from '../models/model-registry.ts';
import { weightStorage } from '../models/weight-storage.ts';

const FORMS = [
  LoadIn.LOAD_IN_STORED,
  LoadIn.LOAD_IN_16BIT,
  LoadIn.LOAD_IN_8BIT,
  LoadIn.LOAD_IN_4BIT,
  LoadIn.LOAD_IN_4BIT_PLAIN,
];

/** What to ask of models that are shown. */
export interface ModelMessageSources {
  readonly engine: Pick<Engine, 'weightBytes'>;
  readonly registry: Pick<ModelRegistry, 'changes'>;
}

/** A model as the contract shows it. Reads headers of its files. */
export async function modelMessage({ engine, registry }: ModelMessageSources, known: KnownModel): Promise<Model> {
  const { metadata, loaded } = known;
  const storages = FORMS.map((form) => weightStorage(form, metadata));
  const [bytes, changed] = await Promise.all([
    // Files that cannot be read any more are told where they are used.
    engine.weightBytes(metadata.path, storages).catch(() => []),
    registry.changes(known.name),
  ]);
  return Model.create({
    name: known.name,
    path: metadata.path,
    format: metadata.format,
    architecture: metadata.architecture,
    parameterCount: metadata.parameterCount,
    storedBytes: metadata.storedBytes,
    storageType: loaded.length === 1 && loaded[0] ? loaded[0].storageType : metadata.storageType,
    maxPositionEmbeddings: metadata.maxPositionEmbeddings,
    vocabSize: metadata.vocabSize,
    hiddenSize: metadata.hiddenSize,
    numHiddenLayers: metadata.numHiddenLayers,
    contentHash: metadata.contentHash,
    hasChatTemplate: known.hasChatTemplate,
    linearModules: [...metadata.linearModules],
    loaded: loaded.length > 0,
    loadedBytes: loaded.reduce((sum, { loadedBytes }) => sum + loadedBytes, 0),
    users: known.users,
    loadedWeights: loaded.map((weights) => ({ ...weights })),
    importTime: known.importTime ?? undefined,
    weightMemory: bytes.map((value, index) => ({ loadIn: FORMS[index] ?? LoadIn.LOAD_IN_STORED, weightBytes: value })),
    changed,
  });
}
