import { afterAll, expect, it } from 'vitest';
import { tinyMetadata, tinyTokenizer } from '../../test/fixtures/tokenizers.ts';
import { createRenderer } from './create-renderer.ts';
import { renderBatch } from './render-batch.ts';
import { RenderPool } from './render-pool.ts';
import type { Conversation } from './renderer.ts';

const renderer = createRenderer(tinyTokenizer(), 'tutorial');
const setup = { source: { kind: 'gguf', metadata: tinyMetadata() }, template: 'tutorial', native: false } as const;
const pool = new RenderPool(renderer, setup, { size: 2 });
afterAll(() => pool.close());

const conversations = Array.from(
  { length: 3000 },
  (_, index): Conversation =>
    index % 500 === 7
      ? { messages: [{ role: 'assistant', content: 'no question' }] }
      : {
          messages: [
            { role: 'user', content: `question ${index}` },
            { role: 'assistant', content: `answer ${index}` },
          ],
        },
);

it('renders in order what the renderer renders, and says which conversations were refused', {
  timeout: 60_000,
}, async () => {
  const options = { trainOn: 'assistant' } as const;
  for (const list of [conversations, conversations.slice(0, 20)]) {
    const batch = await pool.renderTraining(list, options);
    expect(batch).toEqual(renderBatch(renderer, list, options));
    expect(batch.offsets.length).toBe(list.length + 1);
    expect(batch.failures[0]).toMatchObject({ index: 7, code: 'INVALID_MESSAGES', messageIndex: 0 });
  }
});

it('renders the same with the addon, and says what encoded', { timeout: 60_000 }, async () => {
  const native = new RenderPool(renderer, { ...setup, native: true }, { size: 2 });
  const options = { trainOn: 'all' } as const;
  expect(native.encoder).toBe('javascript');
  expect(await native.renderTraining(conversations, options)).toEqual(renderBatch(renderer, conversations, options));
  expect([native.encoder, pool.encoder]).toEqual(['native', 'javascript']);
  await native.close();
});

it('ends in the middle of native work', { timeout: 60_000 }, async () => {
  const closing = new RenderPool(renderer, { ...setup, native: true }, { size: 2 });
  await closing.renderTraining(conversations, { trainOn: 'all' });
  const long = Array.from({ length: 20 }, () => conversations).flat();
  const interrupted = expect(closing.renderTraining(long, { trainOn: 'all' })).rejects.toMatchObject({
    code: 'CLOSED',
  });
  await closing.close();
  await interrupted;
});

it('hands on why a worker cannot build its renderer', { timeout: 20_000 }, async () => {
  const broken = new RenderPool(renderer, { ...setup, template: 'mystery' }, { size: 1 });
  const rendering = broken.renderTraining(conversations, { trainOn: 'assistant' });
  await expect(rendering).rejects.toMatchObject({ name: 'PromptError', code: 'UNKNOWN_TEMPLATE' });
  await broken.close();
});
