/** The worker thread of `TokenizerPool`: encodes texts with its own copy of the tokenizer. */
import { workerData } from 'node:worker_threads';
import type { TokenizerSource } from '../engine/engine.ts';
import { loadTokenizer } from './load.ts';
import type { EncodeRequest } from './pool.ts';
import { serveWorker } from './serve-worker.ts';
import { concatenate, offsetsOf, type TokenBatch } from './token-batch.ts';

const tokenizer = loadTokenizer(workerData as TokenizerSource);
// A tokenizer that cannot be loaded answers every request with its error instead of ending the thread.
tokenizer.catch(() => undefined);

serveWorker<EncodeRequest, TokenBatch>(async ({ texts, options }) => {
  const loaded = await tokenizer;
  const encoded = texts.map((text) => loaded.encode(text, options));
  const ids = concatenate(encoded, (length) => new Uint32Array(length));
  const offsets = offsetsOf(encoded.map((sequence) => sequence.length));
  return { response: { ids, offsets }, transfer: [ids.buffer as ArrayBuffer, offsets.buffer as ArrayBuffer] };
});
