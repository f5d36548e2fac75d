import type { Engine } from '../engine/engine.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import type { ImportedModel } from './imported-models.ts';
import { compareFiles, type FileStamp, settingsDigest, stampFiles } from './model-files.ts';

function changed(model: ImportedModel, what: string): LuthierError {
  const name = `models/${model.id}`;
  return new LuthierError(
    'MODEL_CHANGED',
    `the files of ${name} changed since they were imported on ${model.importTime.toISOString()}: ${what}; put the old files back, or import ${model.path} again to go on with the new ones`,
    { resource: { type: 'model', name }, metadata: { path: model.path } },
  );
}

/**
 * Compares a model's files with those that were imported. Where only times differ, contents decide, which reads all of them.
 * @returns The files as they are now, where only their times differ; null: nothing does.
 * @throws LuthierError MODEL_CHANGED, MODEL_NOT_FOUND; what the engine throws of files that it cannot read
 */
export async function checkImport(
  engine: Pick<Engine, 'readMetadata'>,
  model: ImportedModel,
): Promise<readonly FileStamp[] | null> {
  const files = await stampFiles(model.path);
  const { descriptions, onlyTimes } = compareFiles(model.files, files);
  if (descriptions.length === 0) return null;
  if (files.length === 0) {
    const name = `models/${model.id}`;
    throw new LuthierError(
      'MODEL_NOT_FOUND',
      `the files of ${name} are gone: there is no model at ${model.path}; put them back, or delete ${name} and import it from where they are`,
      { resource: { type: 'model', name } },
    );
  }
  const what = descriptions.join(', ');
  if (!onlyTimes) throw changed(model, what);
  const { contentHash } = await engine.readMetadata(model.path);
  const digest = await settingsDigest(model.path, files);
  if (contentHash === model.facts.contentHash && digest === model.settingsDigest) return files;
  throw changed(model, what);
}
