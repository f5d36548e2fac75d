import { Model } from '../gen/luthier/v1/model_service.ts';
import { hasChatTemplate } from '../models/chat-template.ts';
import type { RegisteredModel } from '../models/model-registry.ts';

/** A registered model as the contract shows it. */
export async function modelMessage(registered: RegisteredModel): Promise<Model> {
  const { metadata, loaded } = registered;
  return Model.create({
    name: registered.name,
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
    hasChatTemplate: await hasChatTemplate(metadata.tokenizer),
    linearModules: [...metadata.linearModules],
    loaded: loaded.length > 0,
    loadedBytes: loaded.reduce((sum, { loadedBytes }) => sum + loadedBytes, 0),
    users: registered.users,
    loadedWeights: loaded.map((weights) => ({ ...weights })),
  });
}
