import { afterAll, expect, it } from 'vitest';
import { tinyMetadata, tinyTokenizer } from '../../test/fixtures/tokenizers.ts';
import { INLINE_CHARACTERS, TokenizerPool } from './pool.ts';
import { WorkerPool } from './worker-pool.ts';

const tokenizer = tinyTokenizer();
const source = { kind: 'gguf', metadata: tinyMetadata() } as const;
const pool = new TokenizerPool(tokenizer, source, { size: 2, idleMs: 200 });
afterAll(() => pool.close());

const long = 'hello 你好 😀 <|im_end|>\n'.repeat(INLINE_CHARACTERS / 8);

it('encodes large texts as the tokenizer does, while the event loop runs', { timeout: 20_000 }, async () => {
  let ticks = 0;
  const timer = setInterval(() => ticks++, 1);
  const ids = await pool.encode(long, { parseSpecial: true });
  clearInterval(timer);
  expect(ids).toEqual(tokenizer.encode(long, { parseSpecial: true }));
  expect(ticks).toBeGreaterThan(0);
});

it('encodes batches in order, large and small', { timeout: 20_000 }, async () => {
  const texts = Array.from({ length: 40 }, (_, index) => `${index} `.repeat(index * 60));
  for (const list of [texts, ['a', '', 'bc'], []]) {
    const batch = await pool.encodeBatch(list);
    expect(batch.offsets.length).toBe(list.length + 1);
    list.forEach((text, index) => {
      const ids = batch.ids.subarray(batch.offsets[index], batch.offsets[index + 1]);
      expect([...ids]).toEqual([...tokenizer.encode(text)]);
    });
  }
});

it('hands on why a worker cannot load its tokenizer', { timeout: 20_000 }, async () => {
  const broken = new TokenizerPool(
    tokenizer,
    { kind: 'gguf', metadata: tinyMetadata({ pre: 'mystery' }) },
    { size: 1 },
  );
  await expect(broken.encode(long)).rejects.toMatchObject({ name: 'TokenizerError', code: 'TOKENIZER_UNSUPPORTED' });
  await broken.close();
});

it('rejects work after close, and work that close interrupts', { timeout: 20_000 }, async () => {
  const closing = new TokenizerPool(tokenizer, source, { size: 1 });
  const interrupted = closing.encode(long);
  const expectation = expect(interrupted).rejects.toMatchObject({ code: 'CLOSED' });
  await closing.close();
  await expectation;
  await expect(closing.encode(long)).rejects.toMatchObject({ code: 'CLOSED' });
});

it('rejects the work of a worker that dies, and starts another', { timeout: 20_000 }, async () => {
  const script = new URL(
    `data:text/javascript,import { parentPort } from 'node:worker_threads'; parentPort.on('message', (n) => { if (n === 0) process.exit(3); parentPort.postMessage({ response: n + 1 }); });`,
  );
  const fragile = new WorkerPool<number, number>(script, null, { size: 1 });
  const died = expect(fragile.run(0)).rejects.toThrow(/ended with code 3/);
  const next = fragile.run(1);
  await died;
  expect(await next).toBe(2);
  await fragile.close();
});
