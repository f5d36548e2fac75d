/** `luthier preview`, and what `validate` shares with it: what a model would learn from a data set. */
import { existsSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { Command } from 'commander';
import { PreviewExamplesResponse, TrainOn } from '../../../typescript/src/index.ts';
import {
  type ConnectionOptions,
  printJson,
  printLines,
  type Session,
  withConnection,
  withSession,
} from '../connection.ts';
import { deleteUploads } from '../delete-uploads.ts';
import { CliError } from '../failure.ts';
import { type FileFlags, fileOptions, refuseFileOptions, withFileFlags } from '../file-options.ts';
import type { Io } from '../io.ts';
import { modelName, resourceName } from '../names.ts';
import { TEMPLATE_VALUE, templateOf } from '../template-argument.ts';
import { choice, TRAIN_ON } from '../training-flags.ts';
import { maskPreview } from '../view/mask.ts';
import { previewPage } from '../view/preview-page.ts';
import { writePage } from '../write-page.ts';

/** Options of both commands. */
export interface ExampleFlags extends ConnectionOptions {
  readonly model: string;
  readonly template?: string;
  readonly trainOn?: string;
}

/** Adds them. */
export function withExamples(command: Command): Command {
  command.argument('<data>', 'a file of examples, or the name of a stored data set');
  command.requiredOption('--model <name>', 'whose tokenizer and template: a registered name or a path');
  command.option(`--template ${TEMPLATE_VALUE}`, "a template's id or file (default: the model's own)");
  command.option('--train-on <what>', 'assistant, last or all (default: assistant)');
  return withConnection(command);
}

/** Whether a command's data are a file of this machine; else they are the name of a stored data set. */
export function isFile(data: string): boolean {
  if (statSync(data, { throwIfNoEntry: false })?.isFile() === true) return true;
  const isName = /^(datasets\/)?[^/\\]+$/.test(data) && !/\.(jsonl?|csv|parquet|gz|zst)$/i.test(data);
  if (isName && !existsSync(data)) return false;
  throw new CliError(`${data}: there is no such file; stored data sets are named datasets/NAME`);
}

/** What both requests share. */
export function commonOf(options: ExampleFlags) {
  return {
    model: modelName(options.model),
    template: templateOf(options.template ?? ''),
    trainOn:
      options.trainOn === undefined ? TrainOn.TRAIN_ON_UNSPECIFIED : choice('train-on', TRAIN_ON, options.trainOn),
  };
}

interface PreviewFlags extends ExampleFlags, FileFlags {
  readonly index?: string;
  readonly html?: string;
}

function parseIndices(text: string): number[] {
  const indices = text.split(',').map((part) => (/^\s*\d+\s*$/.test(part) ? Number(part) : Number.NaN));
  if (indices.every(Number.isSafeInteger)) return indices;
  throw new CliError(`--index: expected numbers of examples from 0, such as 0,4; found ${JSON.stringify(text)}`);
}

/** The tokens of examples. A file is stored until they are known: whatever holds it, it is read as a job would read it. */
async function previewOf(session: Session, data: string, options: PreviewFlags): Promise<PreviewExamplesResponse> {
  const indices = options.index === undefined ? [] : parseIndices(options.index);
  const request = { ...commonOf(options), indices };
  const file = fileOptions(options, data);
  const show = (name: string) =>
    session.client.previewExamples({ ...request, source: { $case: 'dataset', value: name } });
  if (!isFile(data)) {
    refuseFileOptions(data, file);
    return show(resourceName('datasets', data));
  }
  // Before the upload: a model that is not there needs no data.
  await session.client.getModel(request.model);
  const { name } = await session.client.uploadDatasetFile(data, file);
  try {
    return await show(name);
  } finally {
    await deleteUploads(session, [name]);
  }
}

async function preview(session: Session, data: string, options: PreviewFlags): Promise<void> {
  const response = await previewOf(session, data, options);
  if (options.html !== undefined) writePage(options.html, previewPage(response, data, options.model));
  if (session.json) return printJson(session, PreviewExamplesResponse, response);
  if (options.html !== undefined) {
    const shown = response.examples.map(({ index }) => index).join(', ');
    return printLines(session, [`wrote ${resolve(options.html)}, with examples ${shown}`]);
  }
  for (const example of response.examples) await printLines(session, [maskPreview(session.io.stdout, example), '']);
}

/** `luthier preview`. */
export function previewCommand(io: Io): Command {
  const command = new Command('preview').description(
    'the exact tokens of examples; what is learned stands out in colour',
  );
  withFileFlags(command);
  command.option('--index <n,…>', 'which examples, from 0 (default: the first three)');
  command.option('--html <file>', 'write one page that a browser shows, instead');
  return withExamples(command).action((data: string, options: PreviewFlags) =>
    withSession(io, options, (session) => preview(session, data, options)),
  );
}
