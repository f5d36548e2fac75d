/** The worker thread of `RenderPool`: renders conversations with its own tokenizer and renderer. */
import { workerData } from 'node:worker_threads';
import { nativeEncoders } from '../engine/native-encoders.ts';
import { loadTokenizer } from '../tokenizer/load.ts';
import { serveWorker } from '../tokenizer/serve-worker.ts';
import { createRenderer } from './create-renderer.ts';
import { renderBatch } from './render-batch.ts';
import type { RenderPoolSetup, RenderRequest, RenderResponse } from './render-pool.ts';

const { source, template, native } = workerData as RenderPoolSetup;
const tokenizer = loadTokenizer(source, native ? nativeEncoders() : null);
const renderer = tokenizer.then((loaded) => createRenderer(loaded, template));
// A renderer that cannot be built answers every request with its error instead of ending the thread.
renderer.catch(() => undefined);

serveWorker<RenderRequest, RenderResponse>(async ({ conversations, options }) => {
  const batch = renderBatch(await renderer, conversations, options);
  const transfer = [batch.inputIds.buffer, batch.labels.buffer, batch.offsets.buffer] as ArrayBuffer[];
  return { response: { batch, encoder: (await tokenizer).encoder }, transfer };
});
