/**
 * What encoding a data set costs: each tokenizer with the addon's encoder and with JavaScript's, on one and on two threads. Text is mixed
 * Chinese and English in which no paragraph comes twice. Prints one JSON line per run.
 *
 *     node test/bench/encode.ts [--only llama2-model,llama3,qwen3,smollm2] [--encoders native,javascript] [--threads 1,2] [--megabytes 8]
 *         [--repetitions 3] [--model FILE.gguf]      (smollm2's)
 *
 * `megabytesPerSecond` is of the best repetition by the clock, `megabytesPerCpuSecond` by the processor time of the encoding threads: on a
 * machine that others use, too, the second one counts.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { TokenizerSource } from '../../src/engine/engine.ts';
import { CHUNK_CHARACTERS } from '../../src/tokenizer/pool.ts';
import { chunksBySize } from '../../src/tokenizer/token-batch.ts';
import type { EncoderKind } from '../../src/tokenizer/tokenizer.ts';
import { WorkerPool } from '../../src/tokenizer/worker-pool.ts';
import { readGgufTokenizer, testGgufPath } from '../fixtures/gguf-header.ts';
import { sentencePieceFile } from '../fixtures/sentencepiece.ts';
import { packagedFolder } from '../fixtures/tokenizers.ts';
import { pseudoDocuments } from './encode/pseudo-text.ts';
import type { EncodeFigures } from './encode/worker.ts';

const { values } = parseArgs({
  options: {
    only: { type: 'string', default: 'llama2-model,llama3,qwen3,smollm2' },
    encoders: { type: 'string', default: 'native,javascript' },
    threads: { type: 'string', default: '1,2' },
    megabytes: { type: 'string', default: '8' },
    repetitions: { type: 'string', default: '3' },
    model: { type: 'string' },
  },
});

const scratch = mkdtempSync(join(tmpdir(), 'luthier-bench-'));
process.once('exit', () => rmSync(scratch, { recursive: true, force: true }));

function sentencePieceFolder(): string {
  const folder = join(scratch, 'llama2');
  mkdirSync(folder);
  writeFileSync(join(folder, 'tokenizer.model'), sentencePieceFile('llama2'));
  return folder;
}

const SOURCES: Readonly<Record<string, () => TokenizerSource>> = {
  'llama2-model': () => ({ kind: 'huggingface', folder: sentencePieceFolder() }),
  'llama2-json': () => ({ kind: 'huggingface', folder: packagedFolder('llama2') }),
  llama3: () => ({ kind: 'huggingface', folder: packagedFolder('llama3') }),
  qwen3: () => ({ kind: 'huggingface', folder: packagedFolder('qwen3') }),
  smollm2: () => ({ kind: 'gguf', metadata: readGgufTokenizer(values.model ?? testGgufPath()) }),
};

async function measure(source: TokenizerSource, encoder: EncoderKind, threads: number, documents: readonly string[]) {
  const script = new URL('./encode/worker.ts', import.meta.url);
  const pool = new WorkerPool<readonly string[], EncodeFigures>(script, { source, encoder }, { size: threads });
  // Every worker has loaded its tokenizer before the clock starts.
  await Promise.all(Array.from({ length: threads }, () => pool.run([])));
  const started = performance.now();
  const chunks = chunksBySize(documents, (text) => text.length, CHUNK_CHARACTERS);
  const figures = await Promise.all(chunks.map((chunk) => pool.run(chunk)));
  const seconds = (performance.now() - started) / 1000;
  await pool.close();
  const sum = (of: (one: EncodeFigures) => number): number => figures.reduce((total, one) => total + of(one), 0);
  const used = figures[0]?.encoder;
  return { seconds, cpuSeconds: sum((one) => one.cpuSeconds), tokens: sum((one) => one.tokens), used };
}

const documents = pseudoDocuments(1e6 * Number(values.megabytes));
const bytes = documents.reduce((sum, text) => sum + Buffer.byteLength(text), 0);
const rounded = (value: number): number => Number(value.toPrecision(4));
for (const name of values.only.split(',')) {
  const source = SOURCES[name]?.();
  if (source === undefined) {
    throw new Error(`--only: expected some of ${Object.keys(SOURCES).join(', ')}, found ${name}`);
  }
  const counts = new Set<number>();
  for (const encoder of values.encoders.split(',') as EncoderKind[]) {
    for (const threads of values.threads.split(',').map(Number)) {
      const runs = [];
      for (let run = 0; run < Number(values.repetitions); run++) {
        runs.push(await measure(source, encoder, threads, documents));
      }
      const best = runs.reduce((least, run) => (run.seconds < least.seconds ? run : least));
      const cpuSeconds = Math.min(...runs.map((run) => run.cpuSeconds));
      if (best.used !== encoder) throw new Error(`${name}: asked for the encoder ${encoder}, ran ${best.used}`);
      counts.add(best.tokens);
      if (counts.size > 1)
        throw new Error(`${name}: encoders give ${[...counts].join(' and ')} tokens of the same text`);
      const line = {
        bench: 'encode',
        tokenizer: name,
        encoder,
        threads,
        megabytes: rounded(bytes / 1e6),
        tokens: best.tokens,
        seconds: rounded(best.seconds),
        cpuSeconds: rounded(cpuSeconds),
        megabytesPerSecond: rounded(bytes / 1e6 / best.seconds),
        megabytesPerCpuSecond: rounded(bytes / 1e6 / cpuSeconds),
      };
      process.stdout.write(`${JSON.stringify(line)}\n`);
    }
  }
}
