/** The worker thread of `RenderPool`: renders conversations with its own tokenizer and renderer. */
import { workerData } from 'node:worker_threads';
import { loadTokenizer } from '../tokenizer/load.ts';
import { serveWorker } from '../tokenizer/serve-worker.ts';
import { createRenderer } from './create-renderer.ts';
import { type RenderedBatch, renderBatch } from './render-batch.ts';
import type { RenderPoolSetup, RenderRequest } from './render-pool.ts';

const { source, template } = workerData as RenderPoolSetup;
const renderer = loadTokenizer(source).then((tokenizer) => createRenderer(tokenizer, template));
// A renderer that cannot be built answers every request with its error instead of ending the thread.
renderer.catch(() => undefined);

serveWorker<RenderRequest, RenderedBatch>(async ({ conversations, options }) => {
  const response = renderBatch(await renderer, conversations, options);
  const transfer = [response.inputIds.buffer, response.labels.buffer, response.offsets.buffer] as ArrayBuffer[];
  return { response, transfer };
});
