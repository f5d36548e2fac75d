/** `--adapter`: a registered adapter, a job, or a PEFT folder, which the server is asked to take in once. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  type Adapter,
  adapterWeightsFile,
  eachPage,
  fileSha256,
  type LuthierClient,
} from '../../typescript/src/index.ts';
import { CliError } from './failure.ts';
import { adapterTarget, modelName } from './names.ts';

interface PeftSettings {
  readonly r?: unknown;
  readonly lora_alpha?: unknown;
  readonly use_rslora?: unknown;
}

function readPeftSettings(folder: string): PeftSettings {
  try {
    return JSON.parse(readFileSync(join(folder, 'adapter_config.json'), 'utf8')) as PeftSettings;
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new CliError(`--adapter ${folder}: no PEFT folder, its adapter_config.json cannot be read (${why})`);
  }
}

/** An adapter of the store that holds the folder's very weights and settings, or null. */
async function findStored(client: LuthierClient, folder: string): Promise<Adapter | null> {
  const { r, lora_alpha, use_rslora = false } = readPeftSettings(folder);
  const sha256 = await fileSha256(await adapterWeightsFile(folder));
  for await (const { adapters } of eachPage((pageToken) => client.listAdapters({ pageToken }))) {
    const found = adapters.find(
      (adapter) =>
        adapter.sha256 === sha256 &&
        adapter.r === r &&
        adapter.loraAlpha === lora_alpha &&
        adapter.useRslora === use_rslora,
    );
    if (found !== undefined) return found;
  }
  return null;
}

/** The contract's name of what `--adapter` says. Importing the same folder again gives the adapter that is already there. */
export async function resolveAdapter(client: LuthierClient, argument: string, model: string): Promise<string> {
  const target = adapterTarget(argument);
  if (target.kind === 'name') return target.value;
  const stored = await findStored(client, target.value);
  if (stored !== null) return stored.name;
  if (model === '') throw new CliError(`--adapter ${argument} is a folder: name its base with --model`);
  const { adapter } = await client.importAdapter({ path: target.value, baseModel: modelName(model) });
  if (adapter === undefined) throw new CliError(`--adapter ${argument}: the server took nothing in`);
  return adapter.name;
}
