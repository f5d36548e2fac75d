/**
 * What reading, checking and encoding a file of conversations costs: unique mixed Chinese and English (`encode/pseudo-text.ts`), two rounds each, of
 * about 2.2 KB. Prints one JSON line per run.
 *
 *     node test/bench/datasets.ts [--megabytes 40] [--runs read,check,tokenize] [--repetitions 1] [--template smollm2|llama2|…]
 *         [--tokenizer smollm2|llama2|llama3|qwen3] [--model FILE.gguf] [--file FILE.jsonl]      (read in place of a generated one)
 *
 * `cpuSeconds` is the processor time of this process, its threads, and the reading process. `peakMebibytes` is this process's; the reader's heap
 * is bounded. A first, small run fills compile caches and loads what is loaded once; it is not printed.
 */
import { createWriteStream, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { finished } from 'node:stream/promises';
import { parseArgs } from 'node:util';
import { type CheckOptions, checkExamples } from '../../src/datasets/checks/check-examples.ts';
import { NO_HINTS } from '../../src/datasets/file-layout.ts';
import { readFile } from '../../src/datasets/read-file.ts';
import { TokenFileWriter } from '../../src/datasets/token-file-writer.ts';
import { tokenizeDataset } from '../../src/datasets/tokenize-dataset.ts';
import type { TokenizerSource } from '../../src/engine/engine.ts';
import type { ModelRegistry } from '../../src/models/model-registry.ts';
import { createRenderer } from '../../src/prompt/create-renderer.ts';
import { loadTokenizer } from '../../src/tokenizer/load.ts';
import { readGgufTokenizer, testGgufPath } from '../fixtures/gguf-header.ts';
import { type PackagedTokenizer, packagedFolder } from '../fixtures/tokenizers.ts';
import { pseudoDocuments } from './encode/pseudo-text.ts';

const { values } = parseArgs({
  options: {
    megabytes: { type: 'string', default: '40' },
    runs: { type: 'string', default: 'read,check,tokenize' },
    repetitions: { type: 'string', default: '1' },
    template: { type: 'string', default: '' },
    tokenizer: { type: 'string', default: 'smollm2' },
    model: { type: 'string' },
    file: { type: 'string' },
  },
});

const CONTEXT = 8192;
const TICKS_PER_SECOND = 100;
const MEBIBYTE = 2 ** 20;
const scratch = mkdtempSync(join(tmpdir(), 'luthier-bench-'));
process.once('exit', () => rmSync(scratch, { recursive: true, force: true }));

/** One example a line; a document becomes two rounds. */
function lineOf(document: string): string {
  const [first, second, third] = [0.1, 0.5, 0.6].map((part) => Math.round(document.length * part));
  const texts = [
    document.slice(0, first),
    document.slice(first, second),
    document.slice(second, third),
    document.slice(third),
  ];
  // A cut may fall into a surrogate pair.
  const messages = texts.map((content, index) => ({
    role: index % 2 === 0 ? 'user' : 'assistant',
    content: content.toWellFormed(),
  }));
  return `${JSON.stringify({ messages })}\n`;
}

async function generate(path: string, bytes: number): Promise<void> {
  const stream = createWriteStream(path);
  let left = bytes;
  for (let seed = 1; left > 0; seed++) {
    const lines = pseudoDocuments(Math.min(left, 4 * MEBIBYTE), seed)
      .map(lineOf)
      .join('');
    left -= Buffer.byteLength(lines);
    if (!stream.write(lines)) await new Promise<void>((resolve) => stream.once('drain', () => resolve()));
  }
  stream.end();
  await finished(stream);
}

const source: TokenizerSource =
  values.tokenizer === 'smollm2'
    ? { kind: 'gguf', metadata: readGgufTokenizer(values.model ?? testGgufPath()) }
    : { kind: 'huggingface', folder: packagedFolder(values.tokenizer as PackagedTokenizer) };
const tokenizer = await loadTokenizer(source);
const vocabSize = tokenizer.vocabSize;
const registry = {
  nativeEncoders: true,
  get: async () => ({ metadata: { maxPositionEmbeddings: CONTEXT, vocabSize, tokenizer: source } }),
  renderer: async (_: string, template: string) => createRenderer(tokenizer, template === '' ? null : template),
} as unknown as ModelRegistry;
const options: CheckOptions = {
  model: '',
  template: values.template,
  trainOn: 'assistant',
  maxSeqLength: 0,
  overLength: 'error',
  perDeviceTrainBatchSize: 1,
  gradientAccumulationSteps: 1,
  numTrainEpochs: 1,
};
const { signal } = new AbortController();

const RUNS: Readonly<Record<string, (path: string) => Promise<object>>> = {
  read: async (path) => {
    let examples = 0;
    for await (const piece of readFile(path, { ...NO_HINTS, inspect: true })) examples += piece.examples.length;
    return { examples };
  },
  check: async (path) => {
    const running = checkExamples(registry, readFile(path, { ...NO_HINTS, inspect: true }), options, signal);
    for (;;) {
      const next = await running.next();
      if (!next.done) continue;
      const { examples, tokens, labelTokens, problems, encoder } = next.value;
      return { examples, tokens, labelTokens, problems: problems.count, encoder };
    }
  },
  tokenize: async (path) => {
    const tokens = join(scratch, 'tokens');
    const writer = await TokenFileWriter.create(tokens, '0'.repeat(64));
    const read = () => readFile(path, { ...NO_HINTS, inspect: false });
    const { problems, encoder } = await tokenizeDataset(
      registry,
      { format: 'messages', contentHash: '', read },
      options,
      writer.add.bind(writer),
      signal,
    );
    const header = await writer.finish({});
    rmSync(tokens);
    const { examples, tokens: count, labelTokens, checksum } = header;
    return { examples, tokens: count, labelTokens, problems: problems.count, encoder, checksum };
  },
};

/** Of this process and of children that ended. */
function cpuSeconds(): { readonly own: number; readonly children: number } {
  const { user, system } = process.cpuUsage();
  const stat = readFileSync('/proc/self/stat', 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return { own: (user + system) / 1e6, children: (Number(fields[13]) + Number(fields[14])) / TICKS_PER_SECOND };
}

const rounded = (value: number): number => Number(value.toPrecision(4));
const path = values.file ?? join(scratch, 'conversations.jsonl');
if (values.file === undefined) await generate(path, 1e6 * Number(values.megabytes));
const small = join(scratch, 'small.jsonl');
await generate(small, 1e6);
const megabytes = statSync(path).size / 1e6;
for (let repetition = 0; repetition < Number(values.repetitions); repetition++) {
  for (const name of values.runs.split(',')) {
    const run = RUNS[name];
    if (run === undefined) throw new Error(`--runs: expected some of ${Object.keys(RUNS).join(', ')}, found ${name}`);
    await run(small);
    // Lets this process's own peak start anew.
    writeFileSync('/proc/self/clear_refs', '5');
    const before = cpuSeconds();
    const started = performance.now();
    const result = await run(path);
    const seconds = (performance.now() - started) / 1000;
    // The reader is waited for once its end is told.
    await new Promise((resolve) => setTimeout(resolve, 100));
    const after = cpuSeconds();
    const peak = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
    const [own, reader] = [after.own - before.own, after.children - before.children];
    const line = {
      bench: 'datasets',
      run: name,
      tokenizer: values.tokenizer,
      megabytes: rounded(megabytes),
      seconds: rounded(seconds),
      cpuSeconds: rounded(own + reader),
      readerCpuSeconds: rounded(reader),
      megabytesPerSecond: rounded(megabytes / seconds),
      cpuSecondsPerMegabyte: rounded((own + reader) / megabytes),
      peakMebibytes: Math.round(Number(peak) / 1024),
      ...result,
    };
    process.stdout.write(`${JSON.stringify(line)}\n`);
  }
}
