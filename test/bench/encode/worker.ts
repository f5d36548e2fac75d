/** Encodes texts with one encoder, and says how much processor time that took. */
import { workerData } from 'node:worker_threads';
import type { TokenizerSource } from '../../../src/engine/engine.ts';
import { nativeEncoders } from '../../../src/engine/native-encoders.ts';
import { loadTokenizer } from '../../../src/tokenizer/load.ts';
import { serveWorker } from '../../../src/tokenizer/serve-worker.ts';
import type { EncoderKind } from '../../../src/tokenizer/tokenizer.ts';

export interface EncodeSetup {
  readonly source: TokenizerSource;
  readonly encoder: EncoderKind;
}

export interface EncodeFigures {
  readonly tokens: number;
  /** Seconds of this thread. */
  readonly cpuSeconds: number;
  readonly encoder: EncoderKind;
}

const { source, encoder } = workerData as EncodeSetup;
const tokenizer = loadTokenizer(source, encoder === 'native' ? nativeEncoders() : null);

serveWorker<readonly string[], EncodeFigures>(async (texts) => {
  const loaded = await tokenizer;
  const before = process.threadCpuUsage();
  const tokens = texts.reduce((sum, text) => sum + loaded.encode(text).length, 0);
  const { user, system } = process.threadCpuUsage(before);
  return { response: { tokens, cpuSeconds: (user + system) / 1e6, encoder: loaded.encoder }, transfer: [] };
});
