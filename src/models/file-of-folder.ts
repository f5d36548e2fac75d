import { stat } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { LuthierError } from '../errors/luthier-error.ts';

/** Names that files of Hugging Face folders have and single-file models do not. */
const PART = /\.(safetensors|json|model|jinja)$|^pytorch_model.*\.bin$/i;

/**
 * Refuses one file of a Hugging Face folder where the folder is the model.
 * @param named The path as it was sent. @param real The same with symbolic links resolved, which in a download cache lead to other names.
 * @throws LuthierError MODEL_NOT_FOUND with the folder to name
 */
export async function refuseFileOfFolder(named: string, real: string): Promise<void> {
  const part = [real, named].find((path) => PART.test(basename(path)));
  if (part === undefined) return;
  const found = await stat(real).catch(() => null);
  // What is not there is the engine's to report.
  if (!found?.isFile()) return;
  throw new LuthierError(
    'MODEL_NOT_FOUND',
    `${part} is no model by itself: expected a .gguf file or a Hugging Face folder, found one file of such a folder; name the folder: ${dirname(part)}`,
    { resource: { type: 'model', name: named } },
  );
}
