/** `luthier adapters` download, upload and merge: an adapter's files on this machine, or as part of a model. */
import { resolve } from 'node:path';
import { Command } from 'commander';
import {
  DownloadAdapterHeader,
  MergeAdapterResponse,
  MergeFormat,
  UploadAdapterResponse,
} from '../../../typescript/src/index.ts';
import {
  type ConnectionOptions,
  printJson,
  printLines,
  type Session,
  withConnection,
  withSession,
} from '../connection.ts';
import { formatBytes } from '../format.ts';
import { type Io, paint, printLine } from '../io.ts';
import { modelName, resourceName } from '../names.ts';
import { choice, LOAD_IN_HELP, loadInOf } from '../training-flags.ts';

const FORMATS = {
  bf16: MergeFormat.MERGE_FORMAT_SAFETENSORS_BF16,
  f16: MergeFormat.MERGE_FORMAT_SAFETENSORS_F16,
  'gguf-f16': MergeFormat.MERGE_FORMAT_GGUF_F16,
  'gguf-q8_0': MergeFormat.MERGE_FORMAT_GGUF_Q8_0,
};

/** Help of `--allow-other-base`, wherever adapters come in. */
export const ALLOW_OTHER_BASE_HELP = 'accept one that was trained on a base with another content hash';

/** What could not be checked, or is to be known. */
export async function printWarnings(session: Session, warnings: readonly string[]): Promise<void> {
  for (const warning of warnings) {
    await printLine(session.io.stderr, `${paint(session.io.stderr, 'yellow', 'warning')}  ${warning}`);
  }
}

interface DownloadFlags extends ConnectionOptions {
  readonly out: string;
  readonly overwrite?: boolean;
}

interface UploadFlags extends ConnectionOptions {
  readonly model?: string;
  readonly name?: string;
  readonly allowOtherBase?: boolean;
  readonly overwrite?: boolean;
}

interface MergeFlags extends ConnectionOptions {
  readonly out: string;
  readonly format: string;
  readonly model?: string;
  readonly loadIn?: string;
}

async function download(session: Session, name: string, { out, overwrite }: DownloadFlags): Promise<void> {
  const header = await session.client.downloadAdapter(resourceName('adapters', name), resolve(out), { overwrite });
  if (session.json) return printJson(session, DownloadAdapterHeader, header);
  const bytes = header.files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  await printLines(session, [`downloaded to ${resolve(out)}, ${formatBytes(bytes)}`]);
}

async function upload(session: Session, folder: string, flags: UploadFlags): Promise<void> {
  const response = await session.client.uploadAdapter(resolve(folder), {
    adapterId: flags.name?.replace(/^adapters\//, ''),
    baseModel: flags.model === undefined ? undefined : modelName(flags.model),
    allowOtherBase: flags.allowOtherBase,
    overwrite: flags.overwrite,
  });
  if (session.json) return printJson(session, UploadAdapterResponse, response);
  await printWarnings(session, response.warnings);
  await printLines(session, [`stored as ${response.adapter?.name ?? ''}`]);
}

async function merge(session: Session, name: string, flags: MergeFlags): Promise<void> {
  const response = await session.client.mergeAdapter({
    name: resourceName('adapters', name),
    path: resolve(flags.out),
    format: choice('format', FORMATS, flags.format),
    loadIn: loadInOf(flags.loadIn),
    ...(flags.model === undefined ? {} : { baseModel: modelName(flags.model) }),
  });
  if (session.json) return printJson(session, MergeAdapterResponse, response);
  await printWarnings(session, response.warnings);
  await printLines(session, [`merged into ${response.path}, ${formatBytes(response.sizeBytes)}`]);
}

/** The three subcommands. */
export function adapterFilesCommands(io: Io): readonly Command[] {
  const down = new Command('download').argument('<adapter>').description('write a PEFT folder on this machine');
  down.requiredOption('--out <folder>', 'it must be empty or not exist yet');
  down.option('--overwrite', "replace the folder's adapter files");
  withConnection(down).action((name: string, flags: DownloadFlags) =>
    withSession(io, flags, (session) => download(session, name, flags)),
  );
  const up = new Command('upload').argument('<folder>').description('store a PEFT folder of this machine');
  up.option('--model <name>', 'its base model (default: the registered one whose content hash it carries)');
  up.option('--name <id>', 'default: chosen by the server');
  up.option('--allow-other-base', ALLOW_OTHER_BASE_HELP);
  up.option('--overwrite', 'take the place of an adapter of this name that nothing uses');
  withConnection(up).action((folder: string, flags: UploadFlags) =>
    withSession(io, flags, (session) => upload(session, folder, flags)),
  );
  const merged = new Command('merge').argument('<adapter>');
  merged.description("write base and adapter as one model on the server's machine");
  merged.requiredOption('--out <folder>', 'it must be empty or not exist yet');
  merged.option('--format <format>', Object.keys(FORMATS).join(', '), 'bf16');
  merged.option('--model <name>', "the base (default: the adapter's)");
  merged.option('--load-in <form>', LOAD_IN_HELP);
  withConnection(merged).action((name: string, flags: MergeFlags) =>
    withSession(io, flags, (session) => merge(session, name, flags)),
  );
  return [down, up, merged];
}
